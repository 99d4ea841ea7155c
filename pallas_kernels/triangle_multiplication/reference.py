"""Triangle multiplication in XLA."""

import jax
import jax.numpy as jnp

from pallas_kernels.layer_norm.reference import layer_norm, normalise
from pallas_kernels.products import matmul, product


def _channels_first(x, weights, bias):
    """x weights + bias with channels first: [i, k, z] x [z, c] -> [c, i, k] in float32.

    Written as a plain product and a transposition, which XLA folds together on GPUs.
    """
    return jnp.moveaxis(matmul(x, weights), -1, 0) + bias[:, None, None]


def _channels_first_on_cpu(x, weights, bias):
    """The same as one product of transposed operands, which saves XLA's CPU backend a slow transposition.

    It has no such product in bf16; float32 products of bf16 numbers are the same.
    """
    weights, x = weights.astype(x.dtype).astype(jnp.float32), x.astype(jnp.float32)
    return jnp.einsum("zc,ikz->cik", weights, x) + bias[:, None, None]


def producer(z, mask, norm, projection, gate, channels_first=_channels_first):
    """See `api.triangle_producer`."""
    x = layer_norm(z, norm[0], norm[1])
    values = channels_first(x, *projection) * jax.nn.sigmoid(channels_first(x, *gate)) * mask.astype(jnp.float32)
    return tuple(jnp.split(values.astype(z.dtype), 2))


def producer_on_cpu(z, mask, norm, projection, gate):
    """The same, in the form that is fast there."""
    return producer(z, mask, norm, projection, gate, channels_first=_channels_first_on_cpu)


def contraction(operands, direction):
    """See `api.triangle_contraction`."""
    a, b = operands
    equation = "cik,cjk->cij" if direction == "outgoing" else "cki,ckj->cij"
    left, right = (a, b) if direction == "outgoing" else (b, a)
    return product(equation, left, right).astype(a.dtype)


def consumer(contracted, z, norms, output, gate):
    """See `api.triangle_consumer`."""
    input_norm, (scale, offset) = norms
    x = normalise(contracted, 0) * scale[:, None, None] + offset[:, None, None]
    update = product("cij,cz->ijz", x.astype(z.dtype), output[0].astype(z.dtype))
    gate_logits = matmul(layer_norm(z, input_norm[0], input_norm[1]), gate[0])
    return ((update + output[1]) * jax.nn.sigmoid(gate_logits + gate[1])).astype(z.dtype)
