"""The documented names of ``otter``, over the code that all seven flavours share."""
