"""Agents: what runs a turn. A session needs no more of one than ``loop_events`` says."""
