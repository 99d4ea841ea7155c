"""Dimension flow of named operations, read off the dimensions that they declare."""

from typing import Any

import jax

from fastfold_jax.autochunk import primitives  # noqa: F401, whose rules are then known
from fastfold_jax.autochunk.operations import OPERATIONS
from fastfold_jax.autochunk.program import Equation
from fastfold_jax.autochunk.rules import RULES, Rule
from fastfold_jax.autochunk.windows import WHOLE, Span, Window, window


def rule_of(equation: Equation) -> Rule | None:
    """How to compute parts of an equation's result; None for a barrier."""
    if equation.primitive in OPERATIONS:
        return None if OPERATIONS[equation.primitive].dimensions is None else _OPERATION
    return None if equation.bodies or equation.acts else RULES.get(equation.name)


def _flow(equation: Equation, w: Window) -> list[Window] | None:
    dimensions = OPERATIONS[equation.primitive].dimensions
    assert dimensions is not None, "a barrier"
    arguments, result = dimensions
    names = _named(result, len(equation.outputs[0].shape))
    spans: dict[str, Span] = {}
    for dim, span in w:
        if names[dim] == ".":
            return None
        spans[names[dim]] = span
    flat = _leaves(arguments, equation.params["treedef"], len(equation.inputs))
    windows = []
    for words, value in zip(flat, equation.inputs, strict=True):
        named = _named(words, len(value.shape))
        windows.append(
            window({d: spans[n] for d, n in enumerate(named) if n in spans and value.shape[d] > 1}) if spans else WHOLE
        )
    return windows


_OPERATION = Rule(_flow)


def _leaves(arguments: Any, treedef: Any, num: int) -> list[str]:
    """The words of each array, in order; arguments that are None have none."""
    order = jax.tree.unflatten(treedef, range(num))
    found: dict[int, str] = {}

    def walk(words: Any, position: Any) -> None:
        if isinstance(position, int):
            found[position] = words
        elif position is not None:
            for word, part in zip(words, position, strict=True):
                walk(word, part)

    walk(arguments, tuple(order))
    return [found[i] for i in range(num)]


def _named(words: str, rank: int) -> list[str]:
    """A name for each dimension; those of `*b` are counted from its last, as dimensions are matched in broadcasting."""
    names = words.split()
    if names and names[0] in ("*b", "*#b"):
        lead = rank - len(names) + 1
        return [f"*{lead - i}" for i in range(lead)] + names[1:]
    assert len(names) == rank, f"{words!r} does not describe {rank} dimensions"
    return names
