"""The two-layer perceptron between attention layers, with the sum that always follows it."""

from jaxtyping import Array, Float

from pallas_kernels.dispatch import Kernel, Operation
from pallas_kernels.transition import reference, triton

TRANSITION = Operation(
    "transition",
    reference.transition,
    platforms={"cpu": reference.transition_in_blocks},
    dimensions=(("*b .", (".", "."), (". .", "."), (". .", ".")), "*b ."),
    triton=Kernel(function=triton.transition, unfit=triton.unfit),
    result="residual",
)


def transition(
    x: Float[Array, "*batch c"],
    norm: tuple[Float[Array, " c"], Float[Array, " c"]],
    first: tuple[Float[Array, "c f"], Float[Array, " f"]],
    second: tuple[Float[Array, "f c"], Float[Array, " c"]],
    *,
    implementation: str = "auto",
) -> Float[Array, "*batch c"]:
    """x plus its layer norm, linear, ReLU, linear (AlphaFold 2 supplement, Algorithms 9 and 15), in the type of `x`.

    The sum is part of it because the kernel has `x` at hand; by itself it would move three times as many bytes again.

    Args:
      norm: Scale and offset.
      first, second: Weights and bias of the linear maps.
    """
    return TRANSITION(x, norm, first, second, implementation=implementation)
