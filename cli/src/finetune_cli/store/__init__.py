"""Reads published artifacts, with the user's own credentials."""
