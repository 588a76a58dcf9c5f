"""Sessions: the log and everything that reads it."""
