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
            for atomic in (False, True) if extras else (False,):
                yield Specimen(
                    name="attention_backward",
                    case=case + ", atomic" * atomic,
                    function=triton.attention_backward,
                    arrays=(arrays, (x, statistics, statistics), x),
                    static={"wanted": (0, 1, 2, 3) if extras else (0, 1, 2), "atomic": atomic},
                )
