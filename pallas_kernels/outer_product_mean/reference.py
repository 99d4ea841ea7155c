"""The outer product mean in XLA."""

import jax.numpy as jnp


def outer_product_mean(left, right, weights, bias, norm):
    """See `api.outer_product_mean`."""
    outer = jnp.einsum("sic,sje->ijce", left, right, preferred_element_type=jnp.float32).astype(left.dtype)
    flat = outer.reshape(*outer.shape[:2], -1)
    projected = jnp.matmul(
        flat, weights.astype(left.dtype).reshape(-1, weights.shape[-1]), preferred_element_type=jnp.float32
    )
    return ((projected + bias) / norm[..., None]).astype(left.dtype)
