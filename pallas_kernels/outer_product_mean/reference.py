"""The outer product mean in XLA."""

import jax.numpy as jnp

from pallas_kernels.blocks import block_length, in_blocks


def outer_product_mean(left, right, weights, bias, norm):
    """See `api.outer_product_mean`."""
    outer = jnp.einsum("sic,sje->ijce", left, right, preferred_element_type=jnp.float32).astype(left.dtype)
    flat = outer.reshape(*outer.shape[:2], -1)
    projected = jnp.matmul(
        flat, weights.astype(left.dtype).reshape(-1, weights.shape[-1]), preferred_element_type=jnp.float32
    )
    return ((projected + bias) / norm[..., None]).astype(left.dtype)


def outer_product_mean_in_blocks(left, right, weights, bias, norm):
    """The same, a few residues i at a time, so that their outer products stay in cache."""
    size = block_length(left.shape[1], 4 * right.shape[1] * left.shape[2] * right.shape[2])

    def block(left, norm):
        return outer_product_mean(jnp.swapaxes(left, 0, 1), right, weights, bias, norm)

    return in_blocks(block, [jnp.swapaxes(left, 0, 1), norm], size)
