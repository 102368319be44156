"""Checkpoints: training that goes on where it was, on any number of processes."""
