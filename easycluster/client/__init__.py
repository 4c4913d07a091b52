"""The near side of a session."""
