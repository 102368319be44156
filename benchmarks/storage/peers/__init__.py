"""Processes that benchmarks of storage measure."""
