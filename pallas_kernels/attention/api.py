"""Attention with a bias shared by all rows, a key mask and an output gate."""

from jaxtyping import Array, Float

from pallas_kernels import dispatch
from pallas_kernels.attention import reference

_IMPLEMENTATIONS = {"xla": reference.attention}


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
    return dispatch.select("attention", _IMPLEMENTATIONS, implementation)(q, k, v, bias, mask, gate)
