"""SQLite tables derived from the logs: a cache, rebuilt at will."""
