"""Layer norm over the last axis."""

from jaxtyping import Array, Float

from pallas_kernels.dispatch import Derivative, Kernel, Operation
from pallas_kernels.layer_norm import reference, triton

_BACKWARD = Operation(
    "layer_norm_backward",
    reference.layer_norm_backward,
    triton=Kernel(function=triton.layer_norm_backward, unfit=triton.unfit_backward),
    result="several",
)
LAYER_NORM = Operation(
    "layer_norm",
    reference.layer_norm,
    dimensions=(("*b .", ".", "."), "*b ."),
    triton=Kernel(function=triton.layer_norm, unfit=triton.unfit),
    derivative=Derivative(backward=_BACKWARD),
)


def layer_norm(
    x: Float[Array, "*batch c"],
    scale: Float[Array, " c"],
    offset: Float[Array, " c"],
    *,
    implementation: str = "auto",
) -> Float[Array, "*batch c"]:
    """Normalises the last axis, then scales and shifts it; statistics in float32, result in the type of `x`."""
    return LAYER_NORM(x, scale, offset, implementation=implementation)
