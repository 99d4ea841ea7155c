"""Contract of every operation's reference: float64 equations, masks of every pattern, rectangular shapes, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels
from pallas_kernels import blocks
from pallas_kernels.dispatch import ImplementationUnavailable

RNG = np.random.default_rng(3)


def _normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def _sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def _layer_norm(x, scale, offset):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * scale + offset


def _close(got, want, tolerance):
    np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=tolerance, atol=tolerance * np.abs(want).max())


DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)])
MASKS = {
    "none": None,
    "all_kept": np.ones((3, 7), np.float32),
    "tail": np.repeat([[1, 1, 1, 1, 0, 0, 0]], 3, 0).astype(np.float32),
    "random": (RNG.random((3, 7)) > 0.4).astype(np.float32),
    "all_masked": np.zeros((3, 7), np.float32),
    "shared": np.array([[1, 0, 1, 1, 0, 1, 1]], np.float32),
}


def _attention(q, k, v, bias, mask, gate):
    logits = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
    if bias is not None:
        logits = logits + bias
    if mask is not None:
        logits = np.where(mask[:, None, None, :] > 0, logits, -1e9)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out = np.einsum("bhqk,bkhd->bqhd", weights, v)
    return out if gate is None else out * _sigmoid(gate)


@DTYPES
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("extras", [True, False])
def test_attention(dtype, tolerance, mask, extras):
    q, gate = _normal(3, 5, 2, 8), _normal(3, 5, 2, 8)
    k, v = _normal(3, 7, 2, 8), _normal(3, 7, 2, 8)
    bias = _normal(2, 5, 7) if extras else None
    gate = gate if extras else None
    arrays = [jnp.asarray(x, dtype) for x in (q, k, v)]
    out = pallas_kernels.attention(*arrays, bias=bias, mask=MASKS[mask], gate=gate)
    assert out.dtype == dtype
    _close(out, _attention(*(np.float64(x) for x in arrays), bias, MASKS[mask], gate), tolerance)


def test_attention_gradients_match_finite_differences():
    q, k, v, gate = (_normal(2, 4, 2, 8) for _ in range(4))
    bias, mask = _normal(2, 4, 4), np.array([[1, 1, 0, 1], [1, 0, 0, 1]], np.float32)
    probe = _normal(2, 4, 2, 8)

    def loss(q, k, v, bias, gate):
        return jnp.sum(pallas_kernels.attention(q, k, v, bias=bias, mask=mask, gate=gate) * probe)

    arguments = [q, k, v, bias, gate]
    grads = jax.grad(loss, range(5))(*arguments)
    for index, grad in enumerate(grads):
        direction = _normal(*arguments[index].shape)

        def shifted(step, index=index, direction=direction):
            moved = [np.float64(a) for a in arguments]
            moved[index] = moved[index] + step * direction
            q, k, v, bias, gate = moved
            return np.sum(_attention(q, k, v, bias, mask, gate) * probe)

        numeric = (shifted(1e-5) - shifted(-1e-5)) / 2e-5
        np.testing.assert_allclose(np.sum(grad * direction), numeric, rtol=1e-4, atol=1e-4)


def test_softmax_of_rows_with_no_key_is_even():
    weights = pallas_kernels.softmax(_normal(3, 2, 5, 7), bias=_normal(2, 5, 7), mask=np.zeros((3, 7), np.float32))
    np.testing.assert_allclose(weights, 1 / 7, rtol=1e-6)


@DTYPES
def test_layer_norm(dtype, tolerance):
    x, scale, offset = jnp.asarray(_normal(3, 5, 16) * 3 + 2, dtype), _normal(16), _normal(16)
    out = pallas_kernels.layer_norm(x, scale, offset)
    assert out.dtype == dtype
    _close(out, _layer_norm(np.float64(x), scale, offset), tolerance)


@DTYPES
def test_transition(dtype, tolerance):
    x = jnp.asarray(_normal(3, 5, 8), dtype)
    norm, first, second = (_normal(8), _normal(8)), (_normal(8, 16), _normal(16)), (_normal(16, 8), _normal(8))
    out = pallas_kernels.transition(x, norm, first, second)
    want = np.maximum(_layer_norm(np.float64(x), *norm) @ first[0] + first[1], 0) @ second[0] + second[1]
    _close(out, want, tolerance)


@DTYPES
def test_outer_product_mean_on_a_rectangle(dtype, tolerance):
    left, right = jnp.asarray(_normal(6, 3, 4), dtype), jnp.asarray(_normal(6, 5, 4), dtype)
    weights, bias, norm = _normal(4, 4, 7), _normal(7), np.abs(_normal(3, 5)) + 1
    out = pallas_kernels.outer_product_mean(left, right, weights, bias, norm)
    want = np.einsum("sic,sje,cez->ijz", np.float64(left), np.float64(right), weights)
    _close(out, (want + bias) / norm[..., None], tolerance)


@DTYPES
@pytest.mark.parametrize("direction", ["outgoing", "incoming"])
def test_triangle_multiplication(dtype, tolerance, direction):
    n, c = 6, 8
    z = jnp.asarray(_normal(n, n, c), dtype)
    mask = (RNG.random((n, n)) > 0.3).astype(np.float32)
    norm, center = (_normal(c), _normal(c)), (_normal(c), _normal(c))
    projection, gate = (_normal(c, 2 * c), _normal(2 * c)), (_normal(c, 2 * c), _normal(2 * c))
    output, output_gate = (_normal(c, c), _normal(c)), (_normal(c, c), _normal(c))

    operands = pallas_kernels.triangle_producer(z, mask, norm, projection, gate)
    product = pallas_kernels.triangle_contraction(operands, direction)
    out = pallas_kernels.triangle_consumer(product, z, (norm, center), output, output_gate)

    x = _layer_norm(np.float64(z), *norm)
    both = mask[..., None] * (x @ projection[0] + projection[1]) * _sigmoid(x @ gate[0] + gate[1])
    a, b = both[..., :c], both[..., c:]
    equation = "ikc,jkc->ijc" if direction == "outgoing" else "kjc,kic->ijc"
    want = _layer_norm(np.einsum(equation, a, b), *center) @ output[0] + output[1]
    want = want * _sigmoid(x @ output_gate[0] + output_gate[1])
    _close(out, want, 2 * tolerance if dtype == jnp.bfloat16 else 2e-5)


@pytest.mark.parametrize("asked", ["triton", "mosaic"])
def test_a_kernel_that_is_not_there_is_an_error(asked):
    with pytest.raises(ImplementationUnavailable, match=f"layer_norm has no '{asked}' kernel; accepted are auto, xla"):
        pallas_kernels.layer_norm(_normal(2, 4), _normal(4), _normal(4), implementation=asked)


def _cpu_cases(dtype):
    rows, n, c, h, d = 6, 5, 8, 2, 4
    x, mask = jnp.asarray(_normal(rows, n, c), dtype), (RNG.random((rows, n)) > 0.3).astype(np.float32)
    left, right = jnp.asarray(_normal(3, rows, c), dtype), jnp.asarray(_normal(3, n, c), dtype)
    weights = tuple(_normal(c, h, d) for _ in range(4))
    return {
        pallas_kernels.self_attention: (
            *(x, mask, _normal(h, n, n), weights, _normal(h, d)),
            (_normal(h, d, c), _normal(c)),
        ),
        pallas_kernels.transition: (x, _affine(c), (_normal(c, 16), _normal(16)), (_normal(16, c), _normal(c))),
        pallas_kernels.outer_product_mean: (
            *(left, right, _normal(c, c, 7), _normal(7)),
            np.abs(_normal(rows, n)) + 1,
        ),
        pallas_kernels.triangle_producer: (
            x,
            mask,
            _affine(c),
            (_normal(c, 16), _normal(16)),
            (_normal(c, 16), _normal(16)),
        ),
    }


def _affine(channels):
    return _normal(channels), _normal(channels)


@pytest.mark.parametrize("cache_bytes", [64, 4096])
@DTYPES
def test_the_form_for_cpus_is_the_same_function(monkeypatch, cache_bytes, dtype, tolerance):
    """Compiled, an operation takes its platform's form, here in blocks as small as one row; run eagerly it does not."""
    monkeypatch.setattr(blocks, "CACHE_BYTES", cache_bytes)
    for operation, arguments in _cpu_cases(dtype).items():
        # A new function each time, as compiled ones are remembered with the size of block they were made with.
        compiled = jax.jit(lambda *arguments, operation=operation: operation(*arguments))
        _close(compiled(*arguments), np.asarray(operation(*arguments), np.float64), tolerance)


def test_operations_batch_and_take_no_rows():
    x, weights = _normal(3, 0, 5, 8), tuple(_normal(8, 2, 4) for _ in range(4))
    output = (_normal(2, 4, 8), _normal(8))

    def attend(x):
        return pallas_kernels.self_attention(x, jnp.ones((1, 5)), None, weights, _normal(2, 4), output)

    assert jax.jit(jax.vmap(attend))(x).shape == x.shape
