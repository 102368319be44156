"""The trainer beside other ways to train, in CPU-seconds of one thread. One command each: see docs/benchmarks.md."""
