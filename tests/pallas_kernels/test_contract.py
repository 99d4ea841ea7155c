"""Every implementation of every operation keeps its contract: XLA's, those for CPUs, Triton's in its interpreter."""

import contract
import numpy as np
import pytest
from interpreter import INTERPRETER

from pallas_kernels import launch, tuning
from pallas_kernels.attention import reference, triton

DTYPES = pytest.mark.parametrize("dtype", contract.TOLERANCES)
MASKS = list(contract.masks(1, 8))


def _config(**blocks):
    return launch.Config(blocks=blocks, num_warps=4, num_stages=2)


# Small, so that small arrays have several blocks and a tail.
BLOCKS = {
    "attention_forward": _config(BLOCK_Q=16, BLOCK_K=16, GROUP=2),
    "attention_backward_queries": _config(BLOCK_Q=16, BLOCK_K=16, GROUP=2),
    "attention_backward_keys": _config(BLOCK_Q=16, BLOCK_K=16, GROUP=1),
    "attention_backward_bias": _config(BLOCK_Q=16, BLOCK_K=16),
    "layer_norm_forward": _config(BLOCK_R=16),
    "layer_norm_backward": _config(BLOCK_R=2),
    "softmax_forward": _config(BLOCK_K=16),
    "transition_forward": _config(BLOCK_R=16, BLOCK_F=64),
    "triangle_producer": _config(BLOCK_R=16, BLOCK_O=64),  # more than there are channels
    "triangle_consumer": _config(BLOCK_R=16, BLOCK_O=16),
    "outer_product_mean_forward": _config(GROUP_C=4, BLOCK_I=4, BLOCK_J=4, BLOCK_S=4),
}


@pytest.fixture
def interpreted():
    """Programs lowered meanwhile run Triton kernels, in small blocks, in the interpreter."""
    with launch.launching_with(INTERPRETER), tuning.trying(BLOCKS):
        yield


@DTYPES
@pytest.mark.parametrize("implementation", ["xla", "auto"])
@pytest.mark.parametrize(("mask", "extras"), [*((mask, True) for mask in MASKS), ("mixed", False)])
def test_attention(mask, extras, implementation, dtype):
    contract.check(contract.attention(mask, 8, (5, 7), extras=extras), dtype, implementation)


@DTYPES
@pytest.mark.parametrize("implementation", ["xla", "auto"])
@pytest.mark.parametrize("name", contract.OTHERS)
def test_others(name, implementation, dtype):
    contract.check(contract.OTHERS[name], dtype, implementation)


@DTYPES
@pytest.mark.parametrize("implementation", ["xla", "auto"])
def test_self_attention(implementation, dtype):
    contract.check(contract.self_attention(), dtype, implementation)


@pytest.mark.parametrize("mask", MASKS)
def test_attention_in_triton(interpreted, mask):
    contract.check(contract.attention(mask, 8, (17, 18), heads=1), "float32", "triton")


@pytest.mark.parametrize(
    ("dtype", "dim", "lengths", "extras", "implementation"),
    [
        ("bfloat16", 16, (16, 32), True, "triton"),  # no tail
        ("bfloat16", 32, (3, 18), True, "triton_atomic"),
        ("float32", 64, (18, 3), False, "triton"),
        ("float32", 16, (5, 7), True, "triton_atomic"),
    ],
)
def test_attention_in_triton_at_other_sizes(interpreted, dtype, dim, lengths, extras, implementation):
    contract.check(contract.attention("mixed", dim, lengths, extras=extras), dtype, implementation)


@pytest.mark.parametrize("mask", MASKS)
def test_the_backward_pass_is_given_the_same_by_every_implementation(interpreted, mask):
    """Peaks and sums in the same units, those of rows without a key too: forward and backward may differ in kind."""
    arrays = contract.attention(mask, 8, (17, 18)).cast("float32")
    names = ("peak", "total")
    for name, got, want in zip(
        names, triton.attention_saving(*arrays)[1:], reference.attention_saving(*arrays)[1:], strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5, err_msg=name)


@DTYPES
@pytest.mark.parametrize("name", contract.OTHERS)
def test_others_in_triton(interpreted, name, dtype):
    contract.check(contract.OTHERS[name], dtype, "triton")


@DTYPES
def test_self_attention_in_triton(interpreted, dtype):
    contract.check(contract.self_attention(), dtype, "triton")
