"""Softmax over keys with pair bias and key mask."""

from jaxtyping import Array, Float

from pallas_kernels.dispatch import Operation
from pallas_kernels.softmax import reference

_OPERATION = Operation("softmax", reference.softmax, dimensions=(("*b h q .", "h q .", "*#b ."), "*b h q ."))


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
    return _OPERATION(logits, bias, mask, implementation=implementation)
