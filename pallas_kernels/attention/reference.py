"""Attention in XLA."""

import jax
import jax.numpy as jnp

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
