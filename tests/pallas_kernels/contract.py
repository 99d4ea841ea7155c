"""The contract that every implementation of every operation keeps: values and gradients against float64 equations."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import equations
import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.attention.api import ATTENTION
from pallas_kernels.attention.self_attention import SELF_ATTENTION
from pallas_kernels.dispatch import Operation
from pallas_kernels.layer_norm.api import LAYER_NORM
from pallas_kernels.outer_product_mean.api import OUTER_PRODUCT_MEAN
from pallas_kernels.softmax.api import SOFTMAX
from pallas_kernels.transition.api import TRANSITION
from pallas_kernels.triangle_multiplication.api import CONSUMER, CONTRACTION, PRODUCER

TOLERANCES = {"float32": 1e-5, "bfloat16": 1e-2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """Arguments of an operation.

    Attributes:
      arrays: None and nested as the operation takes them.
      narrow: Indices of the arguments whose type is that of the activations; the others are float32.
      constant: Indices of the arguments without a gradient.
    """

    name: str
    operation: Operation
    arrays: tuple[Any, ...]
    narrow: tuple[int, ...]
    constant: tuple[int, ...] = ()
    static: dict[str, Any] = dataclasses.field(default_factory=dict)

    def cast(self, dtype: str) -> tuple[Any, ...]:
        """The arguments as the operation gets them."""
        types = [dtype if index in self.narrow else "float32" for index in range(len(self.arrays))]
        pairs = zip(self.arrays, types, strict=True)
        return tuple(jax.tree.map(lambda x, kind=kind: jnp.asarray(x, kind), array) for array, kind in pairs)


def check(case: Case, dtype: str, implementation: str) -> None:
    """Values and all gradients of one case, compiled.

    Raises:
      AssertionError: if one is too far from float64.
    """
    arrays = case.cast(dtype)
    moving = tuple(i for i, x in enumerate(arrays) if x is not None and i not in case.constant)
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda x: jnp.asarray(np.float64(x)), arrays)
        equation = getattr(equations, case.operation.name)
        want, pullback = jax.vjp(of_some(equation, exact, moving, case.static), *(exact[i] for i in moving))
        cotangent = np.random.default_rng(7).standard_normal(want.shape)
        cotangent = np.asarray(jnp.asarray(cotangent, dtype if _narrow_result(case) else "float32"))
        want_grads = pullback(jnp.asarray(np.float64(cotangent)))

    static = {**case.static}
    static["attend" if case.operation is SELF_ATTENTION else "implementation"] = implementation

    @jax.jit
    def run(*values):
        out, pullback = jax.vjp(of_some(_stacked(case.operation), arrays, moving, static), *values)
        return out, pullback(jnp.asarray(cotangent, out.dtype))

    # Or GPUs would multiply float32 with ten bits of mantissa.
    with jax.default_matmul_precision("highest"):
        out, grads = run(*(arrays[i] for i in moving))
        alone = jax.jit(lambda *arrays: _stacked(case.operation)(*arrays, **static))(*arrays)
    for result in (out, alone):
        assert result.dtype == jnp.dtype(dtype if _narrow_result(case) else "float32")
        _close(result, want, TOLERANCES[dtype], f"{case.name}: values")
    for index, grad, want_grad in zip(moving, grads, want_grads, strict=True):
        leaves = zip(*map(jax.tree.leaves, (grad, want_grad, arrays[index])), strict=True)
        for got, wanted, like in leaves:
            assert got.dtype == like.dtype
            _close(got, wanted, TOLERANCES[dtype], f"{case.name}: gradient of argument {index} {like.shape}")


def _narrow_result(case: Case) -> bool:
    return case.operation is not SOFTMAX


def _stacked(operation):
    """As one array what an operation returns as several."""

    def call(*arrays, **static):
        out = operation(*arrays, **static)
        return jnp.stack(out) if isinstance(out, list) else out

    return call


def of_some(function, arrays, moving, static):
    """The function of those arguments alone whose indices are given; the others stay what they are."""

    def of_moving(*values):
        changed = list(arrays)
        for index, value in zip(moving, values, strict=True):
            changed[index] = value
        return function(*changed, **static)

    return of_moving


def _close(got, want, tolerance, what):
    """The error's Euclidean norm relative to that of the values; both may be zero."""
    got, want = np.float64(got), np.float64(want)
    assert got.shape == want.shape, what
    error = np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-30)
    assert error < tolerance, f"{what}: relative error {error:.2e}, allowed {tolerance}"


class _Draw:
    """Normal numbers, always the same."""

    def __init__(self):
        self.rng = np.random.default_rng(3)

    def __call__(self, *shape, scale=1.0):
        return (self.rng.standard_normal(shape) * scale).astype(np.float32)

    def affine(self, inputs, outputs):
        return self(inputs, outputs, scale=inputs**-0.5), self(outputs)

    def mask(self, *shape):
        return (self.rng.random(shape) > 0.4).astype(np.float32)


def masks(batch: int, keys: int) -> dict[str, np.ndarray | None]:
    """Every pattern; the first has one batch element with no key among others that have some."""
    draw = _Draw()
    tail = np.ones((batch, keys), np.float32)
    tail[:, keys - 4 :] = 0
    mixed = draw.mask(batch, keys)
    mixed[0] = 0
    return {
        "mixed": mixed,
        "none": None,
        "kept": np.ones((batch, keys), np.float32),
        "tail": tail,
        "random": draw.mask(batch, keys),
        "masked": np.zeros((batch, keys), np.float32),
        "shared": draw.mask(1, keys),
    }


def attention(
    mask: str, dim: int, lengths: tuple[int, int], *, extras: bool = True, heads: int = 2, batch: int = 3
) -> Case:
    """Attention on a rectangle."""
    draw, (q_len, k_len) = _Draw(), lengths
    q, gate = draw(batch, q_len, heads, dim), draw(batch, q_len, heads, dim)
    k, v = draw(batch, k_len, heads, dim), draw(batch, k_len, heads, dim)
    bias, gate = (draw(heads, q_len, k_len), gate) if extras else (None, None)
    return Case(
        name=f"attention {mask} d={dim} {q_len}x{k_len} {extras=}",
        operation=ATTENTION,
        arrays=(q, k, v, bias, masks(batch, k_len)[mask], gate),
        narrow=(0, 1, 2, 3, 5),
        constant=(4,),
    )


def self_attention() -> Case:
    draw, (rows, n, c, h, d) = _Draw(), (2, 18, 16, 2, 8)
    weights = tuple(draw(c, h, d, scale=c**-0.5) for _ in range(4))
    output = draw(h, d, c, scale=(h * d) ** -0.5), draw(c)
    arrays = (draw(rows, n, c), draw.mask(rows, n), draw(h, n, n), weights, draw(h, d), output)
    return Case(
        name="self_attention",
        operation=SELF_ATTENTION,
        arrays=arrays,
        narrow=(0, 2),
        constant=(1,),
    )


def triangle_stages(n: int, m: int, channels: int, out: int) -> tuple[Case, Case]:
    """Producer of operands of so many channels, and consumer of their product, on a rectangle."""
    draw = _Draw()
    norm = lambda size: (draw(size), draw(size))  # noqa: E731
    z = draw(n, m, channels)
    wide = [draw.affine(channels, 2 * out) for _ in range(2)]
    produced = (z, draw.mask(n, m), norm(channels), *wide)
    consumed = (draw(out, n, m), z, (norm(channels), norm(out)), draw.affine(out, channels))
    consumed = (*consumed, draw.affine(channels, channels))
    return (
        Case(name="triangle_producer", operation=PRODUCER, arrays=produced, narrow=(0,), constant=(1,)),
        Case(name="triangle_consumer", operation=CONSUMER, arrays=consumed, narrow=(0, 1)),
    )


def others() -> Iterator[Case]:
    """The other operations, on rectangles whose sizes are multiples of nothing."""
    draw = _Draw()
    for shape in ((2, 3, 5, 7), (1, 2, 3, 37)):
        batch, heads, _, keys = shape
        for mask in ("mixed", "none", "shared") if keys == 7 else ("random",):
            bias = None if mask == "none" else draw(heads, *shape[2:])
            arrays = (draw(*shape), bias, masks(batch, keys)[mask])
            yield Case(name=f"softmax {shape} {mask}", operation=SOFTMAX, arrays=arrays, narrow=(0, 1), constant=(2,))
    for channels, rows in ((32, 37), (21, 5)):
        arrays = (draw(3, rows, channels) * 3 + 2, draw(channels), draw(channels))
        yield Case(name=f"layer_norm {channels}", operation=LAYER_NORM, arrays=arrays, narrow=(0,))
    c, n, m = 32, 5, 7
    norm = (draw(c), draw(c))
    # Hidden channels far from zero, on either side: near it, rounding decides whether there is a gradient.
    first = draw.affine(c, 4 * c)[0], np.repeat(np.float32([-9, 9]), 2 * c)
    arrays = (draw(n, m, c), norm, first, draw.affine(4 * c, c))
    yield Case(name="transition", operation=TRANSITION, arrays=arrays, narrow=(0,))
    yield from triangle_stages(n, m, c, c)
    for direction in ("outgoing", "incoming"):
        yield Case(
            name=f"triangle_contraction {direction}",
            operation=CONTRACTION,
            arrays=(draw(2, 3, n, m),),
            narrow=(0,),
            static={"direction": direction},
        )
    arrays = (draw(9, n, 8), draw(9, m, 16), draw(8, 16, 16), draw(16), np.abs(draw(n, m)) + 1)
    yield Case(name="outer_product_mean", operation=OUTER_PRODUCT_MEAN, arrays=arrays, narrow=(0, 1))


OTHERS = {case.name: case for case in others()}
