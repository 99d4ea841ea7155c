"""Predict a protein structure: `python infer.py INPUT --params DIR --model model_1_ptm --out DIR` (and --help)."""

import sys

from fastfold_jax.inference.cli import main

if __name__ == "__main__":
    sys.exit(main())
