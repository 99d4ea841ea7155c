"""Self-attention: `attention` with the projections before and after it."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.attention.api import attention
from pallas_kernels.blocks import block_length, in_blocks
from pallas_kernels.dispatch import Operation
from pallas_kernels.products import matmul


def _self_attention(x, mask, bias, projections, gate_bias, output, *, attend):
    q, k, v, gate = (matmul(x, weights) for weights in projections)
    weighted = attention(
        *(value.astype(x.dtype) for value in (q, k, v)),
        bias=bias,
        mask=mask,
        gate=(gate + gate_bias).astype(x.dtype),
        implementation=attend,
    )
    weights, output_bias = output
    flat = weights.reshape(-1, weights.shape[-1])
    out = matmul(weighted.reshape(*weighted.shape[:-2], flat.shape[0]), flat)
    return (out + output_bias).astype(x.dtype)


def _in_blocks(x, mask, bias, projections, gate_bias, output, **static):
    """The same, a few rows at a time, so that projections and scores stay in cache."""
    batch, (length, heads) = x.shape[:-2], (x.shape[-2], gate_bias.shape[0])
    rows = math.prod(batch)

    def block(x, mask):
        return _self_attention(x, mask, bias, projections, gate_bias, output, **static)

    arrays = [x.reshape(rows, *x.shape[-2:]), jnp.broadcast_to(mask, (*batch, length)).reshape(rows, length)]
    size = block_length(rows, 4 * heads * length**2)
    return in_blocks(block, arrays, size).reshape(*batch, length, output[1].shape[0])


SELF_ATTENTION = Operation(
    "self_attention",
    _self_attention,
    platforms={"cpu": _in_blocks},
    dimensions=(("*b . .", "*#b .", ". . .", (". . .",) * 4, ". .", (". . o", "o")), "*b . o"),
    triton="its projections are XLA's; the attention between them has one",
    derivative=None,
)


def self_attention(
    x: Float[Array, "*batch n c"],
    mask: Float[Array, "*#batch n"],
    bias: Float[Array, "h n n"] | None,
    projections: tuple[Float[Array, "c h d"], Float[Array, "c h d"], Float[Array, "c h d"], Float[Array, "c h d"]],
    gate_bias: Float[Array, "h d"],
    output: tuple[Float[Array, "h d o"], Float[Array, " o"]],
    *,
    implementation: str = "auto",
) -> Float[Array, "*batch n o"]:
    """`attention` of each row to itself, with the projections before and after it (Algorithm 7, lines 2 to 6).

    Args:
      x: Layer-normed rows.
      mask: 0 for positions that get no weight.
      bias: Added to the scores of every row.
      projections: Weights of queries, keys, values and gates.
      output: Weights and bias.
      implementation: Of the attention between the projections, which are XLA's in any case.
    """
    return SELF_ATTENTION(x, mask, bias, projections, gate_bias, output, attend=implementation)
