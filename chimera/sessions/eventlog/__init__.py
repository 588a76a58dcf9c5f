"""The event log of a session: one folder, plain files, one reader over every layout.

Imports nothing by itself, so that a client which needs one module does not load the others.
"""
