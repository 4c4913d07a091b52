"""Ways for bytes to reach a far side."""
