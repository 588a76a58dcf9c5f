"""The `chimera` command: parse, one call, print."""
