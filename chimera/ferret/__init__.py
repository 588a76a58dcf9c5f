"""The documented names of ``ferret``, over the code that all seven flavours share."""
