"""The daemon: socket, dispatch, journal, index, watching. Started by `chimerad` or `python -m chimerad`."""
