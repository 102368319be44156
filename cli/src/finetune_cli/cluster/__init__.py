"""Reaches the cluster that a kubeconfig names."""
