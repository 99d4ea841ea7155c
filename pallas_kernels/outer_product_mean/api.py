"""The sum of outer products over MSA rows, projected to pair channels."""

from jaxtyping import Array, Float

from pallas_kernels.dispatch import Kernel, Operation, Recomputed
from pallas_kernels.outer_product_mean import reference, triton

OUTER_PRODUCT_MEAN = Operation(
    "outer_product_mean",
    reference.outer_product_mean,
    platforms={"cpu": reference.outer_product_mean_in_blocks},
    dimensions=((". i .", ". j .", ". . .", ".", "i j"), "i j ."),
    triton=Kernel(function=triton.outer_product_mean, unfit=triton.unfit),
    derivative=Recomputed(reference.outer_product_mean_for_backward),
)


def outer_product_mean(
    left: Float[Array, "s i c"],
    right: Float[Array, "s j e"],
    weights: Float[Array, "c e z"],
    bias: Float[Array, " z"],
    norm: Float[Array, "i j"],
    *,
    implementation: str = "auto",
) -> Float[Array, "i j z"]:
    """(Σ_s left ⊗ right · weights + bias) / norm (AlphaFold 2 supplement, Algorithm 10).

    `i` and `j` may differ: under Dynamic Axial Parallelism `left` holds this device's residues and `right` all.

    Args:
      left, right: Projections of the MSA, zero where it is masked.
      norm: Number of rows that count for each pair, float32 and positive.

    Returns:
      In the type of `left`; sums and the division are float32.
    """
    return OUTER_PRODUCT_MEAN(left, right, weights, bias, norm, implementation=implementation)
