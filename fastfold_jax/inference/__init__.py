"""Prediction: from an input and parameters to ranked structure files. `run` does all of it; `cli` is the command."""
