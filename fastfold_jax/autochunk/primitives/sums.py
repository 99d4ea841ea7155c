"""Primitives that fold dimensions: reductions and matrix products."""

from typing import Any

import jax.numpy as jnp
from jax import lax

from fastfold_jax.autochunk.program import Equation
from fastfold_jax.autochunk.rules import Rule, register
from fastfold_jax.autochunk.windows import Chunk, Span, Window, window


def _reduce_flow(equation: Equation, w: Window) -> list[Window] | None:
    axes, rank = equation.params["axes"], len(equation.inputs[0].shape)
    kept = [d for d in range(rank) if d not in axes]
    return [window({kept[dim]: span for dim, span in w})] * len(equation.inputs)


def _reduced(equation: Equation) -> list[list[Window]]:
    if equation.name in ("reduce_max", "reduce_min") and jnp.iscomplexobj(equation.outputs[0].aval):
        return []  # complex numbers have no least one to begin with
    return [[((axis, Chunk()),)] for axis in equation.params["axes"]]


for _names, _combine in (
    (("reduce_sum",), lax.add),
    (("reduce_max",), lax.max),
    (("reduce_min",), lax.min),
    (("reduce_prod",), lax.mul),
    (("reduce_and",), lax.bitwise_and),
    (("reduce_or",), lax.bitwise_or),
):
    register(_names, Rule(_reduce_flow, combine=_combine, reduced=_reduced))
register(("argmax", "argmin"), Rule(_reduce_flow))


def _dot_flow(equation: Equation, w: Window) -> list[Window] | None:
    (left_contract, right_contract), (left_batch, right_batch) = equation.params["dimension_numbers"]
    left, right = (len(value.shape) for value in equation.inputs)
    left_free = [d for d in range(left) if d not in left_contract and d not in left_batch]
    right_free = [d for d in range(right) if d not in right_contract and d not in right_batch]
    of_left: dict[int, Span] = {}
    of_right: dict[int, Span] = {}
    for dim, span in w:
        if dim < len(left_batch):
            of_left[left_batch[dim]], of_right[right_batch[dim]] = span, span
        elif dim < len(left_batch) + len(left_free):
            of_left[left_free[dim - len(left_batch)]] = span
        else:
            of_right[right_free[dim - len(left_batch) - len(left_free)]] = span
    return [window(of_left), window(of_right)]


def _dot_reduced(equation: Equation) -> list[list[Window]]:
    contracted, _ = equation.params["dimension_numbers"]
    return [[((left, Chunk()),), ((right, Chunk()),)] for left, right in zip(*contracted, strict=True)]


def _sum(one: Any, other: Any) -> Any:
    return lax.bitwise_or(one, other) if one.dtype == jnp.bool_ else lax.add(one, other)


register("dot_general", Rule(_dot_flow, combine=_sum, reduced=_dot_reduced))
