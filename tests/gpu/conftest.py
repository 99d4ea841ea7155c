"""Tests that need an NVIDIA GPU (`pytest -m gpu tests/gpu`); they skip where there is none."""

import sys
from pathlib import Path

import jax
import pytest

# The contract of the operations, and drawn features, lie with the tests that run on the CPU.
TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "pallas_kernels"), str(TESTS / "parity")]


@pytest.fixture(autouse=True)
def gpu():
    """The first GPU, which everything in a test runs on."""
    try:
        device = jax.devices("cuda")[0]
    except RuntimeError:
        pytest.skip("needs an NVIDIA GPU, and JAX found none")
    with jax.default_device(device):
        yield device
