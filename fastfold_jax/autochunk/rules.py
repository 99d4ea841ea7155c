"""Dimension flow: which windows of its inputs a primitive needs for a window of its result.

A registry, filled by `primitives`: `register(name, Rule(...))` teaches another. What has no rule is a barrier: its
inputs and results are whole, and that is never an error.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from fastfold_jax.autochunk.binding import bind
from fastfold_jax.autochunk.program import Equation
from fastfold_jax.autochunk.windows import Chunk, Window

Places = dict[int, tuple[Any, int]]
"""Start and length on each cut dimension of the result."""

Flow = Callable[[Equation, Window], list[Window] | None]
Apply = Callable[[Equation, Sequence[Any], Places], list[Any]]


def _unchanged(equation: Equation, arguments: Sequence[Any], places: Places) -> list[Any]:
    return bind(equation, arguments)


@dataclasses.dataclass(frozen=True)
class Rule:
    """How to compute a part of a primitive's result.

    Attributes:
      flow: (equation, window of the result) -> windows of its inputs, or None where that window can't be had alone.
      apply: Runs it on those parts; given where parameters depend on the shape.
      combine: For a primitive that reduces dimensions: how results of two parts of such a dimension become one.
      reduced: For the same: (equation) -> for each dimension reduced, the inputs' windows of a chunk of it.
    """

    flow: Flow
    apply: Apply = _unchanged
    combine: Callable[[Any, Any], Any] | None = None
    reduced: Callable[[Equation], list[list[Window]]] | None = None


RULES: dict[str, Rule] = {}
"""By the primitive's name."""


def register(names: str | Sequence[str], rule: Rule) -> None:
    """Teaches primitives."""
    for name in [names] if isinstance(names, str) else names:
        RULES[name] = rule


def length_on(equation: Equation, windows: Sequence[Window]) -> int:
    """How long the dimension is that chunks of these windows of the inputs cut."""
    for value, w in zip(equation.inputs, windows, strict=True):
        for dim, span in w:
            if isinstance(span, Chunk):
                return value.shape[dim] // span.scale
    raise AssertionError("no chunk in any window")


def shape_at(equation: Equation, places: Places) -> tuple[int, ...]:
    """Shape of a part of the equation's result."""
    shape = equation.outputs[0].shape
    return tuple(places[d][1] if d in places else length for d, length in enumerate(shape))
