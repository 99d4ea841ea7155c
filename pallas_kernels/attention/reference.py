"""Attention in XLA."""

import math

import jax
import jax.numpy as jnp

from pallas_kernels.products import product
from pallas_kernels.softmax.reference import MASKED_LOGIT, exponentials

LOG2_E = math.log2(math.e)


def attention(q, k, v, bias, mask, gate):
    """See `api.attention`.

    Heads move before the sequence first, so that both products are batched matrix products over contiguous matrices:
    on CPUs XLA runs the equivalent `bqhd,bkhd->bhqk` several times slower.
    """
    scale = q.shape[-1] ** -0.5
    q_heads = jnp.moveaxis((q * scale).astype(q.dtype), -2, -3)
    k_heads = jnp.moveaxis(k, -2, -3)
    v_heads = jnp.moveaxis(v, -2, -3)
    logits = product("...qd,...kd->...qk", q_heads, k_heads)
    numerators, sums = exponentials(logits, bias, mask)
    weighted = product("...qk,...kd->...qd", numerators.astype(v.dtype), v_heads)
    out = jnp.moveaxis(weighted / sums, -3, -2)
    if gate is not None:
        out = out * jax.nn.sigmoid(gate.astype(jnp.float32))
    return out.astype(q.dtype)


def attention_saving(q, k, v, bias, mask, gate):
    """`attention`, and what its backward pass wants kept: each query's highest score and sum of exponentials.

    Returns:
      (out, peak, total), the last two float32 [*batch, h, q]; scores are in units of log 2 here.
    """
    scores = _scores(q, k, bias, mask)
    peak = jnp.max(scores, axis=-1)
    numerators = jnp.exp2(scores - peak[..., None])
    total = jnp.sum(numerators, axis=-1)
    weighted = product("...hqk,...khd->...hqd", numerators.astype(v.dtype), v)
    out = jnp.moveaxis(weighted / total[..., None], -3, -2)
    if gate is not None:
        out = out * jax.nn.sigmoid(gate.astype(jnp.float32))
    return out.astype(q.dtype), peak, total


def attention_backward(arrays, saved, cotangent, *, wanted):
    """Gradients of `attention` from its inputs, its output and the statistics of its softmax; scores are made again.

    The bias gradient is reduced over the batch, which XLA does from an array of all scores.
    """
    q, k, v, bias, mask, gate = arrays
    out, peak, total = saved
    cotangent, delta, gate_grad = output_gradients(out, total, gate, cotangent)
    weights = jnp.exp2(_scores(q, k, bias, mask) - peak[..., None])
    v_grad = product("...hqk,...qhd->...khd", weights.astype(v.dtype), cotangent)
    products = product("...qhd,...khd->...hqk", cotangent, v)
    score_grad = weights * (products - delta[..., None])
    if mask is not None:
        score_grad = jnp.where(_keeps(mask), score_grad, 0.0)
    scale, narrow = q.shape[-1] ** -0.5, score_grad.astype(q.dtype)
    q_grad = scale * product("...hqk,...khd->...qhd", narrow, k)
    k_grad = scale * product("...hqk,...qhd->...khd", narrow, q)
    bias_grad = None if bias is None else jnp.sum(score_grad, axis=tuple(range(score_grad.ndim - 3)))
    return pick(arrays, (q_grad, k_grad, v_grad, bias_grad, mask, gate_grad), wanted)


def output_gradients(out, total, gate, cotangent):
    """What every part of the backward pass starts from.

    Returns:
      The cotangent before the gate and, of each query, the sum of its products with the output [*batch, h, q], both
      divided by the softmax's sums, so that exponentials serve as weights; the gradient of the gate's logits, or None.
    """
    products = cotangent.astype(jnp.float32) * out.astype(jnp.float32)
    delta = jnp.moveaxis(jnp.sum(products, axis=-1), -1, -2) / total
    before, gate_grad = cotangent.astype(jnp.float32) / jnp.moveaxis(total, -2, -1)[..., None], None
    if gate is not None:
        opened = jax.nn.sigmoid(gate.astype(jnp.float32))
        before, gate_grad = before * opened, products * (1.0 - opened)
    return before.astype(out.dtype), delta, gate_grad


def pick(arrays, grads, wanted):
    """The gradients of the wanted leaves, in their leaves' types; zeros for the mask."""
    mask = arrays[4]
    mask_grad = None if mask is None else jnp.zeros_like(mask)
    grads = (*grads[:4], mask_grad, grads[5])
    pairs = zip(jax.tree.leaves(arrays), jax.tree.leaves(grads), strict=True)
    cast = [grad.astype(leaf.dtype) for leaf, grad in pairs]
    return [cast[index] for index in wanted]


def _scores(q, k, bias, mask):
    """[*batch, h, q, k] in units of log 2."""
    scores = product("...qhd,...khd->...hqk", q, k)
    scores = scores * (q.shape[-1] ** -0.5 * LOG2_E)
    if bias is not None:
        scores = scores + bias.astype(jnp.float32) * LOG2_E
    return scores if mask is None else jnp.where(_keeps(mask), scores, MASKED_LOGIT)


def _keeps(mask):
    return (mask > 0)[..., None, None, :]
