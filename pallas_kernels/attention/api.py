"""Attention with a bias shared by all rows, a key mask and an output gate."""

from jaxtyping import Array, Float

from pallas_kernels.attention import mosaic, reference, triton
from pallas_kernels.dispatch import Derivative, Kernel, Operation

_BACKWARD = Operation(
    "attention_backward",
    reference.attention_backward,
    triton=Kernel(
        function=triton.attention_backward, unfit=triton.unfit_backward, atomic=triton.attention_backward_atomic
    ),
    result="several",
)
_SAVING = Operation(
    "attention_saving",
    reference.attention_saving,
    triton=Kernel(
        function=triton.attention_saving,
        unfit=triton.unfit,
        mosaic=Kernel(function=mosaic.attention_saving, unfit=mosaic.unfit),
    ),
    result="several",
)


def _save(*arrays, implementation):
    out, peak, total = _SAVING(*arrays, implementation=implementation)
    return out, (out, peak, total)


ATTENTION = Operation(
    "attention",
    reference.attention,
    dimensions=(("*b q h .", "*b . h .", "*b . h .", "h q .", "*#b .", "*b q h ."), "*b q h ."),
    triton=Kernel(
        function=triton.attention,
        unfit=triton.unfit,
        mosaic=Kernel(function=mosaic.attention, unfit=mosaic.unfit),
    ),
    derivative=Derivative(save=_save, backward=_BACKWARD),
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
      implementation: `triton_atomic` sums the gradient of the bias in an order that differs from run to run, which
        saves a pass over all scores.

    Returns:
      In the type of `q`; scores, softmax and sums are float32.
    """
    return ATTENTION(q, k, v, bias, mask, gate, implementation=implementation)
