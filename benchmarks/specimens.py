"""Arrays of the sizes the model has, for every kernel: what is compiled, tuned and timed without a model."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True, kw_only=True)
class Specimen:
    """One form of an operation and abstract arguments.

    Attributes:
      name: Of the operation.
      case: Which sizes and types.
      function: In Triton: `(*arrays, **static) -> outputs`.
    """

    name: str
    case: str
    function: Callable
    arrays: tuple[Any, ...]
    static: dict[str, Any] = dataclasses.field(default_factory=dict)


def all_of() -> Iterator[Specimen]:
    """Every kernel, in both types."""
    for dtype in (jnp.bfloat16, jnp.float32):
        yield from _attention(dtype)
        yield from _rows(dtype)
        yield from _pairs(dtype)


def _array(*shape: int, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _attention(dtype) -> Iterator[Specimen]:
    from pallas_kernels.attention import triton

    for dim in triton.HEAD_DIMS:
        rows, n, heads = 128, 256, 4
        for extras in (True, False):
            x = _array(rows, n, heads, dim, dtype=dtype)
            bias, mask, gate = (_array(heads, n, n, dtype=dtype), _array(rows, n), x) if extras else (None, None, None)
            arrays, statistics = (x, x, x, bias, mask, gate), _array(rows, heads, n)
            case = f"{jnp.dtype(dtype).name}, d={dim}{', bias, mask, gate' if extras else ''}"
            yield Specimen(name="attention", case=case, function=triton.attention_saving, arrays=arrays)
            forms = {"": triton.attention_backward, ", atomic": triton.attention_backward_atomic}
            for form, function in list(forms.items())[: 2 if extras else 1]:
                yield Specimen(
                    name="attention_backward",
                    case=case + form,
                    function=function,
                    arrays=(arrays, (x, statistics, statistics), x),
                    static={"wanted": (0, 1, 2, 3) if extras else (0, 1, 2)},
                )


def _affine(inputs: int, outputs: int) -> tuple[Any, Any]:
    return _array(inputs, outputs), _array(outputs)


def _rows(dtype) -> Iterator[Specimen]:
    from pallas_kernels.layer_norm import triton as layer_norm
    from pallas_kernels.softmax import triton as softmax
    from pallas_kernels.transition import triton as transition

    kind = jnp.dtype(dtype).name
    for channels in (64, 128, 256, 384):
        x, vector = _array(512, 256, channels, dtype=dtype), _array(channels)
        static, arrays = {"epsilon": 1e-5}, (x, vector, vector)
        case = f"{kind}, c={channels}"
        yield Specimen(name="layer_norm", case=case, function=layer_norm.layer_norm, arrays=arrays, static=static)
        yield Specimen(
            name="layer_norm_backward",
            case=case,
            function=layer_norm.layer_norm_backward,
            arrays=(arrays, (), x),
            static={**static, "wanted": (0, 1, 2)},
        )
    logits = _array(128, 8, 256, 256, dtype=dtype)
    arrays = (logits, _array(8, 256, 256, dtype=dtype), _array(128, 256))
    yield Specimen(name="softmax", case=kind, function=softmax.softmax, arrays=arrays)
    for channels in (64, 128, 256):
        x, vector = _array(512, 256, channels, dtype=dtype), _array(channels)
        arrays = (x, (vector, vector), _affine(channels, 4 * channels), _affine(4 * channels, channels))
        yield Specimen(name="transition", case=f"{kind}, c={channels}", function=transition.transition, arrays=arrays)


def _pairs(dtype) -> Iterator[Specimen]:
    from pallas_kernels.outer_product_mean import triton as outer
    from pallas_kernels.triangle_multiplication import triton as triangle

    kind, n = jnp.dtype(dtype).name, 256
    for c in (64, 128):
        z, norm = _array(n, n, c, dtype=dtype), (_array(c), _array(c))
        case = f"{kind}, c={c}"
        arrays = (z, _array(n, n), norm, _affine(c, 2 * c), _affine(c, 2 * c))
        yield Specimen(name="triangle_producer", case=case, function=triangle.producer, arrays=arrays)
        product = _array(c, n, n, dtype=dtype)
        arrays = (product, z, (norm, norm), _affine(c, c), _affine(c, c))
        yield Specimen(name="triangle_consumer", case=case, function=triangle.consumer, arrays=arrays)
    operand = _array(512, n, 32, dtype=dtype)
    arrays = (operand, operand, _array(32, 32, 128), _array(128), _array(n, n))
    yield Specimen(name="outer_product_mean", case=kind, function=outer.outer_product_mean, arrays=arrays)
