"""The documented names of ``badger``, over the code that all seven flavours share."""
