"""Layer norm in XLA."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

EPSILON = 1e-5
"""Added to variances, in every operation that begins or ends with a layer norm."""


def normalise(x: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
    """Zero mean and unit variance along `axis`, in float32."""
    centred, inverse = _statistics(x, axis)
    return centred * inverse


def _statistics(x, axis):
    x = x.astype(jnp.float32)
    centred = x - jnp.mean(x, axis=axis, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=axis, keepdims=True)
    return centred, lax.rsqrt(variance + EPSILON)


def layer_norm(x, scale, offset):
    """See `api.layer_norm`."""
    return (normalise(x, -1) * scale + offset).astype(x.dtype)


def layer_norm_backward(arrays, saved, cotangent, *, wanted):
    """Gradients of `layer_norm` from its arguments alone; statistics are made again."""
    del saved
    x, scale, offset = arrays
    centred, inverse = _statistics(x, -1)
    normed, cotangent = centred * inverse, cotangent.astype(jnp.float32)
    scaled = cotangent * scale
    mean = jnp.mean(scaled, axis=-1, keepdims=True)
    along = jnp.mean(scaled * normed, axis=-1, keepdims=True)
    x_grad = (inverse * (scaled - mean - normed * along)).astype(x.dtype)
    rows = tuple(range(x.ndim - 1))
    scale_grad = jnp.sum(cotangent * normed, rows).astype(scale.dtype)
    return pick((x_grad, scale_grad, jnp.sum(cotangent, rows).astype(offset.dtype)), wanted)


def pick(grads, wanted):
    """Those gradients that are wanted."""
    return [grads[index] for index in wanted]
