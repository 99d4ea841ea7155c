"""Softmax with bias and mask in XLA."""

import jax.numpy as jnp
from jax import lax

# As in DeepMind's code: this low, exponentials vanish in float32, and a row of masked keys alone comes out even.
MASKED_LOGIT = -1e9


def exponentials(logits, bias, mask):
    """Softmax's numerators and their sums over keys, float32: [..., h, q, k] and [..., h, q, 1].

    Dividing after the product with the values, as attention does, saves a pass over the largest array.
    """
    logits = logits.astype(jnp.float32)
    if bias is not None:
        logits = logits + bias.astype(jnp.float32)
    if mask is not None:
        # Not selected, which takes XLA on CPUs half as long again; multiplied, so that a masked key has no gradient.
        keep = mask.astype(jnp.float32)[..., None, None, :]
        logits = logits * keep + MASKED_LOGIT * (1.0 - keep)
    numerators = jnp.exp(logits - lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True)))
    return numerators, jnp.sum(numerators, axis=-1, keepdims=True)


def softmax(logits, bias, mask):
    """See `api.softmax`."""
    numerators, sums = exponentials(logits, bias, mask)
    return numerators / sums


def softmax_backward(arrays, saved, cotangent, *, wanted):
    """Gradients of `softmax` from its result."""
    logits, bias, mask = arrays
    weighted = saved * cotangent
    grad = weighted - saved * jnp.sum(weighted, axis=-1, keepdims=True)
    mask_grad = None
    if mask is not None:
        grad = jnp.where((mask > 0)[..., None, None, :], grad, 0.0)
        mask_grad = jnp.zeros_like(mask)
    bias_grad = None if bias is None else jnp.sum(grad, axis=tuple(range(grad.ndim - 3))).astype(bias.dtype)
    grads = [x for x in (grad.astype(logits.dtype), bias_grad, mask_grad) if x is not None]
    return [grads[index] for index in wanted]
