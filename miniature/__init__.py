"""The miniature: a drawn world, and an SDXL-shaped pipeline trained on it from nothing."""
