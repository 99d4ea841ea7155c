"""Training: from structures and alignments to parameters."""
