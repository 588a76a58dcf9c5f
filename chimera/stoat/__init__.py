"""The documented names of ``stoat``, over the code that all seven flavours share."""
