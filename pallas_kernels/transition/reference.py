"""The transition in XLA."""

import jax

from pallas_kernels.blocks import block_length, in_blocks
from pallas_kernels.layer_norm.reference import layer_norm
from pallas_kernels.products import matmul


def transition(x, norm, first, second):
    """See `api.transition`."""
    hidden = layer_norm(x, norm[0], norm[1])
    hidden = matmul(hidden, first[0]) + first[1]
    hidden = jax.nn.relu(hidden).astype(x.dtype)
    out = matmul(hidden, second[0]) + second[1]
    return x + out.astype(x.dtype)


def transition_in_blocks(x, norm, first, second):
    """The same, some positions at a time, so that their hidden layer stays in cache."""
    rows = x.reshape(-1, x.shape[-1])
    size = block_length(rows.shape[0], 4 * first[0].shape[-1])
    return in_blocks(lambda block: transition(block, norm, first, second), [rows], size).reshape(x.shape)
