"""Training losses, one file a family, and their weighted total."""
