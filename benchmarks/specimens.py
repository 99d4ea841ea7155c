"""Every kernel on abstract arrays such as the network has: what is compiled and tuned without a network."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.attention import mosaic as attention_mosaic
from pallas_kernels.attention import triton as attention
from pallas_kernels.layer_norm import triton as layer_norm
from pallas_kernels.outer_product_mean import triton as outer
from pallas_kernels.softmax import triton as softmax
from pallas_kernels.transition import triton as transition
from pallas_kernels.triangle_multiplication import mosaic as triangle_mosaic
from pallas_kernels.triangle_multiplication import triton as triangle

_ROWS = 128
_DTYPES = (jnp.bfloat16, jnp.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Specimen:
    """One form of an operation and abstract arguments.

    Attributes:
      kernels: Names that it asks `pallas_kernels.tuning` about.
      when: What their block sizes depend on, as in the tables.
      note: What else is particular.
      usual: Whether it is what block sizes are tuned on, of those that share them.
      function: `(*arrays, **static) -> outputs`, in Triton unless it comes from `of_mosaic`.
    """

    kernels: tuple[str, ...]
    when: dict[str, Any]
    note: str = ""
    usual: bool = True
    function: Callable
    arrays: tuple[Any, ...]
    static: dict[str, Any] = dataclasses.field(default_factory=dict)


def all_of(n: int = 256) -> Iterator[Specimen]:
    """Every kernel, in both types, at `n` residues."""
    for dtype in _DTYPES:
        kind = jnp.dtype(dtype).name
        for dim in attention.HEAD_DIMS:
            yield from _attention(n, dtype, {"dtype": kind, "dim": dim})
        # No multiple of any block: the kernels have another loop for what is left.
        yield from _attention(n - 6, dtype, {"dtype": kind, "dim": 32}, note="uneven")
        for channels in (64, 128, 256, 384):
            yield from _layer_norm(n, channels, dtype)
        logits = _array(_ROWS, 8, n, n, dtype=dtype)
        arrays = (logits, _array(8, n, n, dtype=dtype), _array(_ROWS, n))
        when = {"dtype": kind}
        yield Specimen(kernels=("softmax_forward",), when=when, function=softmax.softmax, arrays=arrays)
        for channels in (64, 128, 256):
            when = {"dtype": kind, "channels": channels}
            x, norm = _array(n, n, channels, dtype=dtype), (_array(channels), _array(channels))
            arrays = (x, norm, _affine(channels, 4 * channels), _affine(4 * channels, channels))
            yield Specimen(kernels=("transition_forward",), when=when, function=transition.transition, arrays=arrays)
        for channels in (64, 128):
            yield from _triangle(n, channels, dtype)
        operand, when = _array(512, n, 32, dtype=dtype), {"dtype": kind}
        arrays = (operand, operand, _array(32, 32, 128), _array(128), _array(n, n))
        function = outer.outer_product_mean
        yield Specimen(kernels=("outer_product_mean_forward",), when=when, function=function, arrays=arrays)


def of_mosaic(n: int = 256) -> Iterator[Specimen]:
    """Every kernel in Pallas Mosaic GPU, at `n` residues; also where they are no multiple of a block."""
    for dim in attention_mosaic.HEAD_DIMS:
        for length, note in ((n, ""), (n - 8, "uneven")):
            for specimen in _attention(length, jnp.bfloat16, {"dim": dim}, note=note):
                if specimen.kernels == ("attention_forward",) and specimen.note != "uneven q, k, v alone":
                    yield _in_mosaic(specimen, "attention_mosaic", attention_mosaic)
    for channels in triangle_mosaic.CHANNELS:
        for specimen in _triangle(n, channels, jnp.bfloat16):
            yield _in_mosaic(specimen, f"{specimen.kernels[0]}_mosaic", triangle_mosaic)


def _in_mosaic(specimen: Specimen, kernel: str, module: Any) -> Specimen:
    """The same in a module that has the functions of Triton's in Mosaic GPU. Its kernels are for one type alone."""
    when = {key: value for key, value in specimen.when.items() if key != "dtype"}
    function = getattr(module, specimen.function.__name__)
    return dataclasses.replace(specimen, kernels=(kernel,), when=when, function=function)


def _array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _affine(inputs: int, outputs: int) -> tuple[Any, Any]:
    return _array(inputs, outputs), _array(outputs)


def _attention(n: int, dtype: Any, when: dict[str, Any], note: str = "") -> Iterator[Specimen]:
    heads = 4
    x, statistics = _array(_ROWS, n, heads, when["dim"], dtype=dtype), _array(_ROWS, heads, n)
    names = ("attention_backward_queries", "attention_backward_keys")
    forms = (
        ("", attention.attention_backward, (*names, "attention_backward_bias")),
        ("atomic", attention.attention_backward_atomic, names),
    )
    for plain in (False, True):
        extras = (None, None, None) if plain else (_array(heads, n, n, dtype=dtype), _array(_ROWS, n), x)
        arrays = (x, x, x, *extras)
        kind = " ".join(filter(None, (note, "q, k, v alone" if plain else "")))
        yield Specimen(
            kernels=("attention_forward",),
            when=when,
            note=kind,
            usual=not kind,
            function=attention.attention_saving,
            arrays=arrays,
        )
        for form, function, kernels in forms[:1] if plain else forms:
            yield Specimen(
                kernels=kernels[:2] if plain else kernels,
                when=when,
                note=" ".join(filter(None, (kind, form))),
                usual=not (kind or form),
                function=function,
                arrays=(arrays, (x, statistics, statistics), x),
                static={"wanted": (0, 1, 2) if plain else (0, 1, 2, 3)},
            )


def _layer_norm(n: int, channels: int, dtype: Any) -> Iterator[Specimen]:
    x, vector = _array(n, n, channels, dtype=dtype), _array(channels)
    arrays = (x, vector, vector)
    block = max(16, 1 << (channels - 1).bit_length())
    shared: dict[str, Any] = {"when": {"dtype": jnp.dtype(dtype).name, "channels": block}, "note": str(channels)}
    yield Specimen(kernels=("layer_norm_forward",), function=layer_norm.layer_norm, arrays=arrays, **shared)
    yield Specimen(
        kernels=("layer_norm_backward",),
        function=layer_norm.layer_norm_backward,
        arrays=(arrays, (), x),
        static={"wanted": (0, 1, 2)},
        **shared,
    )


def _triangle(n: int, channels: int, dtype: Any) -> Iterator[Specimen]:
    when = {"dtype": jnp.dtype(dtype).name, "channels": channels}
    z, product = _array(n, n, channels, dtype=dtype), _array(channels, n, n, dtype=dtype)
    norm, affine = (_array(channels), _array(channels)), _affine(channels, channels)
    wide = _affine(channels, 2 * channels)
    arrays: tuple[Any, ...] = (z, _array(n, n), norm, wide, wide)
    yield Specimen(kernels=("triangle_producer",), when=when, function=triangle.producer, arrays=arrays)
    arrays = (product, z, (norm, norm), affine, affine)
    yield Specimen(kernels=("triangle_consumer",), when=when, function=triangle.consumer, arrays=arrays)
