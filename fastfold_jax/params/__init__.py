"""Parameters: DeepMind's files found, downloaded and checked, read into the model's state, and written back.

`locate.find` turns a directory and a preset's name into a file, `store.load` and `store.save` read and write one,
`python -m fastfold_jax.params` downloads and checks.
"""
