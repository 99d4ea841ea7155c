"""The operations' contract on a GPU: compiled kernels, at sizes small and large, against float64 equations."""

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels
from pallas_kernels import launch

pytestmark = pytest.mark.gpu

DTYPES = pytest.mark.parametrize("dtype", contract.TOLERANCES)
IMPLEMENTATIONS = pytest.mark.parametrize("implementation", ["triton", "triton_atomic"])


@pytest.fixture
def check_in_mosaic():
    """The contract, of cases that Mosaic GPU takes: others would run in Triton, and keep it too."""
    if launch.target().capability != launch.HOPPER:
        pytest.skip("Mosaic GPU kernels are for Hopper")

    def check(case):
        assert case.operation.why_not("mosaic", *case.cast("bfloat16"), platform="cuda") is None
        contract.check(case, "bfloat16", "mosaic")

    return check


@DTYPES
@IMPLEMENTATIONS
@pytest.mark.parametrize("mask", contract.masks(1, 8))
@pytest.mark.parametrize("dim", [8, 16, 32, 64])
def test_attention(mask, dim, implementation, dtype):
    contract.check(contract.attention(mask, dim, (129, 200), heads=4), dtype, implementation)


@DTYPES
@pytest.mark.parametrize("lengths", [(1, 1), (16, 16), (128, 256), (257, 31), (300, 515)])
@pytest.mark.parametrize("extras", [True, False])
def test_attention_at_every_kind_of_length(lengths, extras, dtype):
    contract.check(contract.attention("mixed", 32, lengths, extras=extras), dtype, "triton")


@DTYPES
@pytest.mark.parametrize("name", contract.OTHERS)
def test_others(name, dtype):
    contract.check(contract.OTHERS[name], dtype, "triton")


@DTYPES
def test_self_attention(dtype):
    contract.check(contract.self_attention(), dtype, "triton")


@pytest.mark.parametrize("mask", contract.masks(1, 8))
@pytest.mark.parametrize("dim", [16, 32, 64])
def test_attention_in_mosaic(check_in_mosaic, mask, dim):
    check_in_mosaic(contract.attention(mask, dim, (136, 200), heads=4))


@pytest.mark.parametrize("lengths", [(128, 128), (256, 136), (264, 520)])
@pytest.mark.parametrize("extras", [True, False])
def test_attention_in_mosaic_at_other_lengths(check_in_mosaic, lengths, extras):
    check_in_mosaic(contract.attention("mixed", 32, lengths, extras=extras))


@pytest.mark.parametrize("stage", [0, 1], ids=["producer", "consumer"])
def test_triangle_multiplication_in_mosaic(check_in_mosaic, stage):
    check_in_mosaic(contract.triangle_stages(40, 72, 128, 128)[stage])


def _gradients(implementation, arrays, mask):
    def loss(q, k, v, bias):
        out = pallas_kernels.attention(q, k, v, bias=bias, mask=mask, implementation=implementation)
        return jnp.sum(jnp.sin(out.astype(jnp.float32)))

    return jax.jit(jax.grad(loss, range(4)))(*arrays)


def test_gradients_are_the_same_bit_for_bit_from_run_to_run():
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.standard_normal((64, 384, 4, 32)), jnp.bfloat16) for _ in range(3))
    bias, mask = jnp.asarray(rng.standard_normal((4, 384, 384)), jnp.bfloat16), jnp.ones((64, 384))
    first = _gradients("triton", (q, k, v, bias), mask)
    for _ in range(5):
        for once, again in zip(first, _gradients("triton", (q, k, v, bias), mask), strict=True):
            np.testing.assert_array_equal(np.asarray(once), np.asarray(again))


def test_the_kernel_is_what_runs_unasked():
    x = jnp.ones((8, 128), jnp.bfloat16)
    vector = jnp.ones(128)
    program = jax.jit(lambda x: pallas_kernels.layer_norm(x, vector, vector)).lower(x).as_text()
    assert "triton_kernel_call" in program
