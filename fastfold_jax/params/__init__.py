"""Parameters: DeepMind's files read into the model's state and written back, found, downloaded and checked."""
