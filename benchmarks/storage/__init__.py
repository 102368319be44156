"""Measurements of storage and checkpoints beside boto3."""
