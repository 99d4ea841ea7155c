"""Triangle multiplication as three stages, with room for collectives between them.

Producer and consumer work on rows of the pair representation; the contraction is independent for each channel. Under
Dynamic Axial Parallelism rows are exchanged for channels before the contraction and back after it.
"""

from typing import Literal

from jaxtyping import Array, Float

from pallas_kernels.dispatch import Kernel, Operation
from pallas_kernels.triangle_multiplication import mosaic, reference, triton

Direction = Literal["outgoing", "incoming"]
Affine = tuple[Float[Array, "..."], Float[Array, "..."]]

PRODUCER = Operation(
    "triangle_producer",
    reference.producer,
    platforms={"cpu": reference.producer_on_cpu},
    dimensions=(("i k .", "i k", (".", "."), (". .", "."), (". .", ".")), ". i k"),
    triton=Kernel(
        function=triton.producer,
        unfit=triton.unfit_producer,
        mosaic=Kernel(function=mosaic.producer, unfit=mosaic.unfit_producer),
    ),
    result="several",
)
CONTRACTION = Operation(
    "triangle_contraction",
    reference.contraction,
    dimensions=((("c . .", "c . ."),), "c . ."),
    triton=Kernel(function=triton.contraction, unfit=triton.unfit_contraction),
)
CONSUMER = Operation(
    "triangle_consumer",
    reference.consumer,
    dimensions=((". i j", "i j .", ((".", "."), (".", ".")), (". .", "."), (". .", ".")), "i j ."),
    triton=Kernel(
        function=triton.consumer,
        unfit=triton.unfit_consumer,
        mosaic=Kernel(function=mosaic.consumer, unfit=mosaic.unfit_consumer),
    ),
)


def triangle_producer(
    z: Float[Array, "i k z"],
    mask: Float[Array, "i k"],
    norm: Affine,
    projection: Affine,
    gate: Affine,
    *,
    implementation: str = "auto",
) -> tuple[Float[Array, "c i k"], Float[Array, "c i k"]]:
    """Layer norm, gated projections, mask (AlphaFold 2 supplement, Algorithms 11 and 12, lines 1 and 2).

    Args:
      norm: Scale and offset.
      projection, gate: Weights [z, 2c] and bias [2c]; the first c channels are the left operand a.

    Returns:
      Operands a and b, channels first, in the type of `z`. They are arrays of their own because XLA copies what it
      cuts out of another for a matrix product.
    """
    a, b = PRODUCER(z, mask, norm, projection, gate, implementation=implementation)
    return a, b


def triangle_contraction(
    operands: tuple[Float[Array, "c a b"], Float[Array, "c d e"]],
    direction: Direction,
    *,
    implementation: str = "auto",
) -> Float[Array, "c i j"]:
    """Σ_k a[i, k] b[j, k] for `outgoing`, Σ_k a[k, j] b[k, i] for `incoming`, each channel by itself.

    Args:
      operands: a and b; either need hold no more than the rows or columns that are wanted.
    """
    return CONTRACTION(operands, direction=direction, implementation=implementation)


def triangle_consumer(
    product: Float[Array, "c i j"],
    z: Float[Array, "i j z"],
    norms: tuple[Affine, Affine],
    output: Affine,
    gate: Affine,
    *,
    implementation: str = "auto",
) -> Float[Array, "i j z"]:
    """Layer norm of the product, projection, gate from the layer-normed `z` (Algorithms 11 and 12, lines 3 and 4).

    Args:
      norms: Scale and offset of the input's and of the product's layer norm.

    Returns:
      The update of `z`, in its type.
    """
    return CONSUMER(product, z, norms, output, gate, implementation=implementation)
