"""Lets these tests import the parity tests' helpers: recorded runs, drawn parameters, the reference's shim."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))
