"""The documented names of ``mink``, over the code that all seven flavours share."""
