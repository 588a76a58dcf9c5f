"""The documented names of ``weasel``, over the code that all seven flavours share."""
