"""The control plane: watches FineTuneJobs, starts their pods and writes their status."""
