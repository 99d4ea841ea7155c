"""Every operation as its equation says, in float64, nothing done for speed: what implementations are held to."""

import jax
import jax.numpy as jnp


def _norm(x, scale, offset, axis=-1):
    centred = x - x.mean(axis, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(axis, keepdims=True) + 1e-5) * scale + offset


def _weights(logits, bias, mask):
    if bias is not None:
        logits = logits + bias
    if mask is not None:
        logits = jnp.where(mask[..., None, None, :] > 0, logits, -1e9)
    return jax.nn.softmax(logits, axis=-1)


def attention(q, k, v, bias, mask, gate, **static):
    weights = _weights(jnp.einsum("...qhd,...khd->...hqk", q, k) / jnp.sqrt(q.shape[-1]), bias, mask)
    out = jnp.einsum("...hqk,...khd->...qhd", weights, v)
    return out if gate is None else out * jax.nn.sigmoid(gate)


def self_attention(x, mask, bias, projections, gate_bias, output, **static):
    q, k, v, gate = (jnp.einsum("...c,chd->...hd", x, w) for w in projections)
    return jnp.einsum("...hd,hdo->...o", attention(q, k, v, bias, mask, gate + gate_bias), output[0]) + output[1]


def softmax(logits, bias, mask):
    return _weights(logits, bias, mask)


def layer_norm(x, scale, offset):
    return _norm(x, scale, offset)


def transition(x, norm, first, second):
    return x + jax.nn.relu(_norm(x, *norm) @ first[0] + first[1]) @ second[0] + second[1]


def outer_product_mean(left, right, weights, bias, norm):
    return (jnp.einsum("sic,sje,cez->ijz", left, right, weights) + bias) / norm[..., None]


def triangle_producer(z, mask, norm, projection, gate):
    x = _norm(z, *norm)
    values = (x @ projection[0] + projection[1]) * jax.nn.sigmoid(x @ gate[0] + gate[1]) * mask[..., None]
    return jnp.moveaxis(values, -1, 0).reshape(2, -1, *z.shape[:2])


def triangle_contraction(operands, *, direction):
    return jnp.einsum("cik,cjk->cij" if direction == "outgoing" else "ckj,cki->cij", *operands)


def triangle_consumer(product, z, norms, output, gate):
    x = _norm(jnp.moveaxis(product, 0, -1), *norms[1])
    return (x @ output[0] + output[1]) * jax.nn.sigmoid(_norm(z, *norms[0]) @ gate[0] + gate[1])
