"""What XLA scheduled: collectives of a compiled program, what they cost, and what compute hides them."""
