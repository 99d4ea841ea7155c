"""Attention with a bias shared by all rows, a key mask and an output gate."""

from jaxtyping import Array, Float

from pallas_kernels.attention import reference
from pallas_kernels.dispatch import Operation

_ATTENTION = Operation(
    "attention",
    reference.attention,
    dimensions=(("*b q h .", "*b . h .", "*b . h .", "h q .", "*#b .", "*b q h ."), "*b q h ."),
)
_SELF_ATTENTION = Operation(
    "self_attention",
    reference.self_attention,
    {"cpu": reference.self_attention_in_blocks},
    dimensions=(("*b . .", "*#b .", ". . .", (". . .",) * 4, ". .", (". . o", "o")), "*b . o"),
)


def attention(
    q: Float[Array, "*batch q h d"],
    k: Float[Array, "*batch k h d"],
    v: Float[Array, "*batch k h d"],
    *,
    bias: Float[Array, "h q k"] | None = None,
    mask: Float[Array, "*#batch k"] | None = None,
    gate: Float[Array, "*batch q h d"] | None = None,
    implementation: str = "auto",
) -> Float[Array, "*batch q h d"]:
    """softmax(q kᵀ / sqrt(d) + bias) v, times sigmoid(gate) (AlphaFold 2 supplement, Algorithm 7).

    Args:
      bias: Added to the scores of every batch element.
      mask: 0 for keys that get no weight; it may broadcast along the batch.
      gate: Gate logits.

    Returns:
      In the type of `q`; scores, softmax and sums are float32.
    """
    return _ATTENTION(q, k, v, bias, mask, gate, implementation=implementation)


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
    """
    return _SELF_ATTENTION(x, mask, bias, projections, gate_bias, output, implementation=implementation)
