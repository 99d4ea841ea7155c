"""The outer product mean in XLA."""

import jax
import jax.numpy as jnp

from pallas_kernels.blocks import block_length, in_blocks
from pallas_kernels.products import matmul, product

# Bytes of outer products at a time in the backward pass: enough to fill a GPU.
_BACKWARD_BYTES = 2**28


def outer_product_mean(left, right, weights, bias, norm):
    """See `api.outer_product_mean`."""
    outer = product("sic,sje->ijce", left, right).astype(left.dtype)
    flat = outer.reshape(*outer.shape[:2], -1)
    projected = matmul(flat, weights.reshape(-1, weights.shape[-1]))
    return ((projected + bias) / norm[..., None]).astype(left.dtype)


def outer_product_mean_in_blocks(left, right, weights, bias, norm):
    """The same, a few residues i at a time, so that their outer products stay in cache."""
    return _in_blocks(outer_product_mean, left, right, weights, bias, norm)


def outer_product_mean_for_backward(left, right, weights, bias, norm):
    """The same in larger blocks, each of which is made again when it is differentiated: outer products never whole."""
    return _in_blocks(jax.checkpoint(outer_product_mean), left, right, weights, bias, norm, _BACKWARD_BYTES)


def _in_blocks(function, left, right, weights, bias, norm, most_bytes=None):
    size = block_length(left.shape[1], 4 * right.shape[1] * left.shape[2] * right.shape[2], most_bytes)

    def block(left, norm):
        return function(jnp.swapaxes(left, 0, 1), right, weights, bias, norm)

    return in_blocks(block, [jnp.swapaxes(left, 0, 1), norm], size)
