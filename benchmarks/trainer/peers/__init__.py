"""Processes that do the same work, each in its own way, a block of steps at a time."""
