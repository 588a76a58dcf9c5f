"""The documented names of ``shrew``, over the code that all seven flavours share."""
