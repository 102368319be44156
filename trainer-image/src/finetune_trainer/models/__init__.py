"""Base models: where they are, what they hold, how they are loaded."""
