"""The only writer of the event log while a daemon runs."""
