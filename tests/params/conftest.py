"""Lets the tests of parameters import their helpers and the rule that draws parameters."""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "params"), str(TESTS / "parity")]
