"""Attention in XLA."""

import math

import jax
import jax.numpy as jnp

from pallas_kernels.blocks import block_length, in_blocks
from pallas_kernels.softmax.reference import exponentials


def attention(q, k, v, bias, mask, gate):
    """See `api.attention`.

    Heads move before the sequence first, so that both products are batched matrix products over contiguous matrices:
    on CPUs XLA runs the equivalent `bqhd,bkhd->bhqk` several times slower.
    """
    scale = q.shape[-1] ** -0.5
    q_heads = jnp.moveaxis((q * scale).astype(q.dtype), -2, -3)
    k_heads = jnp.moveaxis(k, -2, -3)
    v_heads = jnp.moveaxis(v, -2, -3)
    logits = jnp.einsum("...qd,...kd->...qk", q_heads, k_heads, preferred_element_type=jnp.float32)
    numerators, sums = exponentials(logits, bias, mask)
    weighted = jnp.einsum("...qk,...kd->...qd", numerators.astype(v.dtype), v_heads, preferred_element_type=jnp.float32)
    out = jnp.moveaxis(weighted / sums, -3, -2)
    if gate is not None:
        out = out * jax.nn.sigmoid(gate.astype(jnp.float32))
    return out.astype(q.dtype)


def self_attention(x, mask, bias, projections, gate_bias, output):
    """See `api.self_attention`."""
    # One product instead of four: the operand is read once, and a wide product runs nearer to a GPU's peak.
    projected = _matmul(x, jnp.stack(projections, axis=1))
    q, k, v = (projected[..., part, :, :].astype(x.dtype) for part in range(3))
    return _gated(x, (q, k, v), projected[..., 3, :, :] + gate_bias, (mask, bias), output)


def self_attention_in_blocks(x, mask, bias, projections, gate_bias, output):
    """The same, a few rows at a time, so that projections and scores stay in cache; four narrow products are faster."""
    batch, (length, heads) = x.shape[:-2], (x.shape[-2], gate_bias.shape[0])
    rows = math.prod(batch)

    def block(x, mask):
        q, k, v, gate = (_matmul(x, weights) for weights in projections)
        qkv = tuple(value.astype(x.dtype) for value in (q, k, v))
        return _gated(x, qkv, gate + gate_bias, (mask, bias), output)

    arrays = [x.reshape(rows, *x.shape[-2:]), jnp.broadcast_to(mask, (*batch, length)).reshape(rows, length)]
    size = block_length(rows, 4 * heads * length**2)
    return in_blocks(block, arrays, size).reshape(*batch, length, output[1].shape[0])


def _gated(x, qkv, gate, mask_and_bias, output):
    mask, bias = mask_and_bias
    weights, output_bias = output
    q, k, v = qkv
    weighted = attention(q, k, v, bias, mask, gate)
    flat = weights.reshape(-1, weights.shape[-1])
    out = _matmul(weighted.reshape(*weighted.shape[:-2], flat.shape[0]), flat)
    return (out + output_bias).astype(x.dtype)


def _matmul(x, weights):
    """Contracts the last axis of `x` with the first of `weights`, accumulating in float32."""
    flat = weights.astype(x.dtype).reshape(x.shape[-1], math.prod(weights.shape[1:]))
    product = jnp.matmul(x, flat, preferred_element_type=jnp.float32)
    return product.reshape(*x.shape[:-1], *weights.shape[1:])
