"""Layer norm in XLA."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def normalise(x: Float[Array, "..."], axis: int, epsilon: float) -> Float[Array, "..."]:
    """Zero mean and unit variance along `axis`, in float32."""
    x = x.astype(jnp.float32)
    centred = x - jnp.mean(x, axis=axis, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=axis, keepdims=True)
    return centred * lax.rsqrt(variance + epsilon)


def layer_norm(x, scale, offset, epsilon):
    """See `api.layer_norm`."""
    return (normalise(x, -1, epsilon) * scale + offset).astype(x.dtype)
