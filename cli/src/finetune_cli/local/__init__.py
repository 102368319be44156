"""Runs a FineTuneJob on this machine, without a cluster, as processes of the trainer."""
