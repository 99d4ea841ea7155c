"""Operations at the sizes of the network, their arithmetic, and who else can do each: what `kernels.py` times.

A side is a function of the arrays alone, in one implementation: ours in Triton, in Mosaic GPU (for Hopper; what has no
kernel there, in Triton) and in XLA, cuDNN through JAX, and the packages tokamax, cuequivariance_jax and
colabfold-kernels where they are installed.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

import pallas_kernels

Array = jax.ShapeDtypeStruct
HEADS, DIM, CHANNELS = 4, 32, 128
OURS = ("triton", "triton_atomic", "mosaic")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What an operation cannot do without, forward.

    Attributes:
      flops: Of matrix products.
      exponentials: Of softmax and sigmoids.
      bytes: Inputs read once and outputs written once.
    """

    flops: float
    exponentials: float
    bytes: float

    def backward(self) -> "Work":
        """Two and a half times the products for gradients and recomputed scores, the exponentials once more."""
        return Work(flops=2.5 * self.flops, exponentials=self.exponentials, bytes=2 * self.bytes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One operation at one size.

    Attributes:
      arrays: Shapes and types of the arguments.
      differentiated: Indices of those that get a gradient.
      ones: Indices of those that are masks or counts.
      sides: Functions of the arguments, by implementation; each may raise what its package raises.
    """

    operation: str
    size: str
    arrays: tuple[Any, ...]
    differentiated: tuple[int, ...]
    ones: tuple[int, ...] = ()
    work: Work
    sides: dict[str, Callable]


def all_of(lengths: list[int], rows: list[int], dtype: str) -> Iterator[Case]:
    """Every operation.

    Args:
      lengths: Residues.
      rows: Of the MSA, or batch elements of attention.
      dtype: Of activations.
    """
    for batch in rows:
        for n in lengths:
            yield attention(batch, n, dtype)
    for n in lengths:
        yield triangle_multiplication(n, dtype)
        yield outer_product_mean(512, n, dtype)
        yield transition(n, dtype)
        yield layer_norm(n, dtype)
        yield softmax(n, dtype)


def _bytes(*arrays: Any) -> float:
    return float(sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(arrays)))


def _ours(function: Callable, *implementations: str) -> dict[str, Callable]:
    return {name: functools.partial(function, implementation=name) for name in implementations}


def attention(batch: int, n: int, dtype: str) -> Case:
    """Row or triangle attention, 4 heads of 32, with pair bias and key mask."""
    x, bias, mask = Array((batch, n, HEADS, DIM), dtype), Array((HEADS, n, n), dtype), Array((batch, n), "float32")

    def ours(q, k, v, bias, mask, implementation):
        return pallas_kernels.attention(q, k, v, bias=bias, mask=mask, implementation=implementation)

    pairs = float(batch) * HEADS * n * n
    return Case(
        operation="attention",
        size=f"{batch} x {n} x {n}",
        arrays=(x, x, x, bias, mask),
        differentiated=(0, 1, 2, 3),
        ones=(4,),
        work=Work(flops=4 * pairs * DIM, exponentials=pairs, bytes=_bytes(x, x, x, x, bias, mask)),
        sides={
            **_ours(ours, "triton", "triton_atomic", "mosaic", "xla"),
            "cudnn": _cudnn_attention,
            "tokamax": _tokamax_attention,
            "cuequivariance": _cuequivariance_attention,
            "colabfold-kernels": _colabfold_attention,
        },
    )


def _cudnn_attention(q, k, v, bias, mask):
    # It has no mask that broadcasts over queries beside a bias: the mask goes into a bias of its own for every row.
    full = bias[None] + ((mask - 1.0) * 1e9).astype(bias.dtype)[:, None, None, :]
    return jax.nn.dot_product_attention(q, k, v, bias=full, implementation="cudnn")


def _tokamax_attention(q, k, v, bias, mask):
    import tokamax

    return tokamax.dot_product_attention(q, k, v, bias=bias[None], mask=(mask > 0)[:, None, None, :])


def _cuequivariance_attention(q, k, v, bias, mask):
    import cuequivariance_jax

    heads_first = (jnp.swapaxes(x, -2, -3)[None] for x in (q, k, v))
    keep = (mask > 0)[None, :, None, None, :]
    out = cuequivariance_jax.triangle_attention(*heads_first, bias[None, None], keep, DIM**-0.5)
    return jnp.swapaxes((out[0] if isinstance(out, tuple) else out)[0], -2, -3)


def _colabfold_attention(q, k, v, bias, mask):
    from colabfold_kernels.tri_flash import pallas_attention

    mask_bias = ((mask - 1.0) * 1e9)[:, None, None, :]
    return pallas_attention(q, k, v, mask_bias, bias, DIM**-0.5, seq_major=True)


def triangle_multiplication(n: int, dtype: str) -> Case:
    """All three stages, outgoing edges, 128 channels."""
    c = CHANNELS
    vector = Array((c,), "float32")
    affine, double = (Array((c, c), "float32"), vector), (Array((c, 2 * c), "float32"), Array((2 * c,), "float32"))
    z, mask = Array((n, n, c), dtype), Array((n, n), "float32")

    def ours(z, mask, norms, inputs, outputs, implementation):
        operands = pallas_kernels.triangle_producer(z, mask, norms[0], *inputs, implementation=implementation)
        product = pallas_kernels.triangle_contraction(operands, "outgoing", implementation=implementation)
        return pallas_kernels.triangle_consumer(product, z, norms, *outputs, implementation=implementation)

    norms = ((vector, vector), (vector, vector))
    return Case(
        operation="triangle_multiplication",
        size=f"{n} x {n} x {c}",
        arrays=(z, mask, norms, (double, double), (affine, affine)),
        differentiated=(0, 2, 3, 4),
        ones=(1,),
        work=Work(flops=2.0 * c * n**3 + 12.0 * c * c * n**2, exponentials=3.0 * c * n**2, bytes=_bytes(z, z, mask)),
        sides={
            **_ours(ours, "triton", "mosaic", "xla"),
            "cuequivariance": _cuequivariance_triangle,
            "colabfold-kernels": _colabfold_triangle,
        },
    )


def _cuequivariance_triangle(z, mask, norms, inputs, outputs):
    import cuequivariance_jax

    (projection, gate), (output, output_gate) = inputs, outputs
    (norm_in, norm_out), turned = norms, lambda layer: (layer[0].T.astype(z.dtype), layer[1].astype(z.dtype))
    weights = {}
    for name, layer in (("p_in", turned(projection)), ("g_in", turned(gate)), ("norm_in", norm_in)):
        weights |= {f"{name}_weight": layer[0], f"{name}_bias": layer[1]}
    for name, layer in (("p_out", turned(output)), ("g_out", turned(output_gate)), ("norm_out", norm_out)):
        weights |= {f"{name}_weight": layer[0], f"{name}_bias": layer[1]}
    return cuequivariance_jax.triangle_multiplicative_update(z, direction="outgoing", mask=mask, **weights)


def _colabfold_triangle(z, mask, norms, inputs, outputs):
    from colabfold_kernels import tri_mul

    rows = z.reshape(-1, z.shape[-1])
    (projection, gate), (output, output_gate) = jax.tree.map(lambda x: x.astype(z.dtype), (inputs, outputs))
    operands = tri_mul.ln_gated_dual_proj(rows, *norms[0], *projection, *gate, mask.reshape(-1))
    left, right = (x.reshape(-1, *mask.shape) for x in operands)
    product = jnp.einsum("cik,cjk->cij", left, right, preferred_element_type=z.dtype).reshape(left.shape[0], -1)
    return tri_mul.trimul_epilogue_ln(product, rows, *norms[0], *norms[1], *output, *output_gate).reshape(z.shape)


def outer_product_mean(rows: int, n: int, dtype: str) -> Case:
    """32 channels a side, 128 of pairs. colabfold-kernels has none for so many rows."""
    c, z = 32, CHANNELS
    x, norm = Array((rows, n, c), dtype), Array((n, n), "float32")
    flops = 2.0 * rows * n * n * c * c + 2.0 * n * n * c * c * z
    return Case(
        operation="outer_product_mean",
        size=f"{rows} rows, {n} x {n}",
        arrays=(x, x, Array((c, c, z), "float32"), Array((z,), "float32"), norm),
        differentiated=(0, 1, 2, 3),
        ones=(4,),
        work=Work(flops=flops, exponentials=0, bytes=_bytes(x, x, norm, Array((n, n, z), dtype))),
        sides=_ours(pallas_kernels.outer_product_mean, "triton", "xla"),
    )


def transition(n: int, dtype: str) -> Case:
    """The pair representation's transition: 128 channels, 512 hidden."""
    c, f = CHANNELS, 4 * CHANNELS
    x, vector = Array((n, n, c), dtype), Array((c,), "float32")
    first, second = (Array((c, f), "float32"), Array((f,), "float32")), (Array((f, c), "float32"), vector)
    return Case(
        operation="transition",
        size=f"{n} x {n} x {c}",
        arrays=(x, (vector, vector), first, second),
        differentiated=(0, 1, 2, 3),
        work=Work(flops=4.0 * n * n * c * f, exponentials=0, bytes=_bytes(x, x)),
        sides={**_ours(pallas_kernels.transition, "triton", "xla"), "colabfold-kernels": _colabfold_transition},
    )


def _colabfold_transition(x, norm, first, second):
    from colabfold_kernels.transition import fused_transition

    (w1, b1), (w2, b2) = jax.tree.map(lambda y: y.astype(x.dtype), (first, second))
    # Written over x, which XLA copies first here, as the next call needs it.
    return fused_transition(x, *norm, w1, b1, w2, b2, add_input=True)


def layer_norm(n: int, dtype: str) -> Case:
    """Layer norm of the pair representation."""
    x, vector = Array((n, n, CHANNELS), dtype), Array((CHANNELS,), "float32")
    return Case(
        operation="layer_norm",
        size=f"{n} x {n} x {CHANNELS}",
        arrays=(x, vector, vector),
        differentiated=(0, 1, 2),
        work=Work(flops=0, exponentials=0, bytes=_bytes(x, x)),
        sides={**_ours(pallas_kernels.layer_norm, "triton", "xla"), "colabfold-kernels": _colabfold_layer_norm},
    )


def _colabfold_layer_norm(x, scale, offset):
    from colabfold_kernels.tri_mul import pallas_layer_norm

    return pallas_layer_norm(x, scale, offset)


def softmax(n: int, dtype: str) -> Case:
    """Of 32 rows of 8 heads' scores."""
    logits, bias, mask = Array((32, 8, n, n), dtype), Array((8, n, n), dtype), Array((32, n), "float32")

    def ours(logits, bias, mask, implementation):
        return pallas_kernels.softmax(logits, bias=bias, mask=mask, implementation=implementation)

    out = Array(logits.shape, "float32")
    return Case(
        operation="softmax",
        size=f"32 x 8 x {n} x {n}",
        arrays=(logits, bias, mask),
        differentiated=(0, 1),
        ones=(2,),
        work=Work(flops=0, exponentials=float(math.prod(logits.shape)), bytes=_bytes(logits, bias, mask, out)),
        sides=_ours(ours, "triton", "xla"),
    )
