"""Train the network: `python train.py --preset initial --index INDEX --out DIR` (and --help)."""

import sys

from fastfold_jax.training.cli import main

if __name__ == "__main__":
    sys.exit(main())
