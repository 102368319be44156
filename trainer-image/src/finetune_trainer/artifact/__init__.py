"""What a run leaves: export, publish, verify, adopt."""
