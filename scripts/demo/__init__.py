"""The demo: a FineTuneJob on a sandbox cluster of this machine, from nothing to a verified adapter."""
