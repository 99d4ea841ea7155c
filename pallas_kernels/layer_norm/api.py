"""Layer norm over the last axis."""

from jaxtyping import Array, Float

from pallas_kernels.dispatch import Operation
from pallas_kernels.layer_norm import reference

_OPERATION = Operation("layer_norm", reference.layer_norm, dimensions=(("*b .", ".", "."), "*b ."))


def layer_norm(
    x: Float[Array, "*batch c"],
    scale: Float[Array, " c"],
    offset: Float[Array, " c"],
    *,
    epsilon: float = 1e-5,
    implementation: str = "auto",
) -> Float[Array, "*batch c"]:
    """Normalises the last axis, then scales and shifts it; statistics in float32, result in the type of `x`."""
    return _OPERATION(x, scale, offset, epsilon=epsilon, implementation=implementation)
