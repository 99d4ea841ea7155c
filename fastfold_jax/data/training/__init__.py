"""Training examples: experimental structures and alignments, indexed, filtered, sampled, cropped. NumPy only."""
