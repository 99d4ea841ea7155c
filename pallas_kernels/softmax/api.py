"""Softmax over keys with pair bias and key mask."""

from jaxtyping import Array, Float

from pallas_kernels.dispatch import Derivative, Kernel, Operation
from pallas_kernels.softmax import reference, triton

_BACKWARD = Operation("softmax_backward", reference.softmax_backward, result="several")


def _save(*arrays, implementation):
    weights = SOFTMAX(*arrays, implementation=implementation)
    return weights, weights


SOFTMAX = Operation(
    "softmax",
    reference.softmax,
    dimensions=(("*b h q .", "h q .", "*#b ."), "*b h q ."),
    triton=Kernel(function=triton.softmax, unfit=triton.unfit),
    derivative=Derivative(save=_save, backward=_BACKWARD),
)


def softmax(
    logits: Float[Array, "*batch h q k"],
    *,
    bias: Float[Array, "h q k"] | None = None,
    mask: Float[Array, "*#batch k"] | None = None,
    implementation: str = "auto",
) -> Float[Array, "*batch h q k"]:
    """Weights over keys, in float32.

    Args:
      logits: Scores of each head.
      bias: Added to every batch element's scores.
      mask: 0 for keys that get no weight. A row whose keys are all masked gets equal weights.
    """
    return SOFTMAX(logits, bias, mask, implementation=implementation)
