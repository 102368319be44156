"""The training processes: launcher, workers, loop and engine."""
