"""The prompt-toolkit REPL, a client of the daemon like any other."""
