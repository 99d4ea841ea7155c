"""Programs with kernels compiled for an H200 on a machine without a GPU: memory, and that kernels are in them."""

import jax
import jax.numpy as jnp
import pytest

import pallas_kernels
from pallas_kernels import launch
from parallel.audit import target


@pytest.fixture(scope="module")
def gpu():
    """Where arrays lie: whole on one H200."""
    pytest.importorskip("jax_cuda12_plugin", reason="needs the extra `aot`")
    (device,) = target.devices("h200", 1)
    return jax.sharding.SingleDeviceSharding(device)


def _compile(function, gpu, *arrays):
    arrays = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=gpu), arrays)
    with launch.compiling_for(90):
        return jax.jit(function).lower(*arrays).compile()


def _array(*shape, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, dtype)


@pytest.mark.parametrize("implementation", ["auto", "triton_atomic"])
def test_attention_at_2048_residues_needs_little_more_than_its_output(gpu, implementation):
    """Forward and backward, bias gradient included: at most three times the size of q."""
    n, heads, dim = 2048, 4, 32
    q, bias, mask = _array(n, n, heads, dim), _array(heads, n, n), _array(1, n, dtype=jnp.float32)

    def both(q, k, v, bias, gate, mask, cotangent):
        def attend(q, k, v, bias, gate):
            return pallas_kernels.attention(q, k, v, bias=bias, mask=mask, gate=gate, implementation=implementation)

        out, pullback = jax.vjp(attend, q, k, v, bias, gate)
        return out, pullback(cotangent)

    program = _compile(both, gpu, q, q, q, bias, q, mask, q)
    size = n * n * heads * dim * 2
    assert program.memory_analysis().temp_size_in_bytes < (1.3 if implementation == "auto" else 1.5) * size
    assert program.as_text().count("triton_kernel_call") >= (4 if implementation == "auto" else 3)


def test_outer_products_are_never_whole(gpu):
    """Neither forward nor backward: at 1,024 residues they would take 4 GiB in float32."""
    rows, n = 512, 1024
    x, norm = _array(rows, n, 32), _array(n, n, dtype=jnp.float32)
    weights, bias = _array(32, 32, 128, dtype=jnp.float32), _array(128, dtype=jnp.float32)
    forward = _compile(pallas_kernels.outer_product_mean, gpu, x, x, weights, bias, norm)
    assert forward.memory_analysis().temp_size_in_bytes < 2**26

    def gradients(left, right, weights, bias, norm):
        call = pallas_kernels.outer_product_mean
        return jax.grad(lambda *a: call(*a, bias, norm).astype(jnp.float32).sum(), range(3))(left, right, weights)

    backward = _compile(gradients, gpu, x, x, weights, bias, norm)
    assert backward.memory_analysis().temp_size_in_bytes < 2**30


def test_the_hidden_layer_of_a_transition_stays_on_the_chip(gpu):
    n, c = 512, 128
    vector, wide = _array(c, dtype=jnp.float32), _array(4 * c, dtype=jnp.float32)
    first, second = (_array(c, 4 * c, dtype=jnp.float32), wide), (_array(4 * c, c, dtype=jnp.float32), vector)
    program = _compile(pallas_kernels.transition, gpu, _array(n, n, c), (vector, vector), first, second)
    assert program.memory_analysis().temp_size_in_bytes < 2**20


def test_attention_in_mosaic_differentiated_by_triton(gpu):
    """At 2,048 residues: no more memory than all of it in Triton takes."""
    n, heads, dim = 2048, 4, 32
    q, bias = _array(n, n, heads, dim), _array(heads, n, n)

    def both(q, k, v, bias, cotangent):
        attend = lambda *x: pallas_kernels.attention(*x[:3], bias=x[3], implementation="mosaic")  # noqa: E731
        out, pullback = jax.vjp(attend, q, k, v, bias)
        return out, pullback(cotangent)

    program = _compile(both, gpu, q, q, q, bias, q)
    assert program.memory_analysis().temp_size_in_bytes < 1.3 * n * n * heads * dim * 2
    text = program.as_text()
    assert "mosaic_gpu" in text and text.count("triton_kernel_call") >= 3


def test_on_a_gpu_that_is_not_named_kernels_are_for_the_oldest(gpu):
    assert launch.target() == launch.Target(capability=80)
    with launch.compiling_for(100, "NVIDIA B200"):
        assert launch.target() == launch.Target(capability=100, name="NVIDIA B200")
