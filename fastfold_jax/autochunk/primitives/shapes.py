"""Primitives that change shapes: broadcasts, transpositions, reshapes, iota."""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from fastfold_jax.autochunk.program import Equation
from fastfold_jax.autochunk.rules import Places, Rule, register, shape_at
from fastfold_jax.autochunk.windows import WHOLE, Chunk, Fixed, Span, Window, window


def _broadcast_flow(equation: Equation, w: Window) -> list[Window] | None:
    operand, out = equation.inputs[0], equation.outputs[0]
    source = {d: i for i, d in enumerate(equation.params["broadcast_dimensions"])}
    spans = {
        source[dim]: span for dim, span in w if dim in source and operand.shape[source[dim]] == out.shape[dim] != 1
    }
    return [window(spans)] + [WHOLE] * (len(equation.inputs) - 1)


def _broadcast_apply(equation: Equation, arguments: Sequence[Any], places: Places) -> list[Any]:
    return [lax.broadcast_in_dim(arguments[0], shape_at(equation, places), equation.params["broadcast_dimensions"])]


register("broadcast_in_dim", Rule(_broadcast_flow, _broadcast_apply))


def _transpose(equation: Equation, w: Window) -> list[Window] | None:
    permutation = equation.params["permutation"]
    return [window({permutation[dim]: span for dim, span in w})]


register("transpose", Rule(_transpose))


def _squeeze(equation: Equation, w: Window) -> list[Window] | None:
    gone = {d % len(equation.inputs[0].shape) for d in equation.params["dimensions"]}
    kept = [d for d in range(len(equation.inputs[0].shape)) if d not in gone]
    return [window({kept[dim]: span for dim, span in w})]


register("squeeze", Rule(_squeeze))


def _scaled(span: Span, factor: int) -> Span:
    if isinstance(span, Fixed):
        return Fixed(span.start * factor, span.length * factor)
    return Chunk(span.scale * factor, span.offset * factor)


def _divided(span: Span, factor: int) -> Span | None:
    values = (span.start, span.length) if isinstance(span, Fixed) else (span.scale, span.offset)
    if any(value % factor for value in values):
        return None
    return type(span)(*(value // factor for value in values))


def _reshape_span(source: Sequence[int], target: Sequence[int], dim: int, span: Span) -> tuple[int, Span] | None:
    """Where a span of dimension `dim` of the target lies in the source."""
    before = math.prod(target[:dim])
    product = 1
    for d, length in enumerate(source):
        if product == before and length > 1:
            if length == target[dim]:
                return d, span
            if length % target[dim] == 0:  # the target's dimension is the leading part of this one
                return d, _scaled(span, length // target[dim])
            if target[dim] % length == 0:  # this one is the leading part of the target's dimension
                divided = _divided(span, target[dim] // length)
                return None if divided is None else (d, divided)
            return None
        product *= length
    return None


def _reshape_flow(equation: Equation, w: Window) -> list[Window] | None:
    if equation.params.get("dimensions") is not None:
        return None
    spans: dict[int, Span] = {}
    for dim, span in w:
        found = _reshape_span(equation.inputs[0].shape, equation.outputs[0].shape, dim, span)
        if found is None or found[0] in spans:
            return None
        spans[found[0]] = found[1]
    return [window(spans)] + [WHOLE] * (len(equation.inputs) - 1)


def _reshape_apply(equation: Equation, arguments: Sequence[Any], places: Places) -> list[Any]:
    return [lax.reshape(arguments[0], shape_at(equation, places))]


register("reshape", Rule(_reshape_flow, _reshape_apply))


def _iota_apply(equation: Equation, arguments: Sequence[Any], places: Places) -> list[Any]:
    dimension, dtype = equation.params["dimension"], equation.params["dtype"]
    if dimension not in places:
        return [lax.broadcasted_iota(dtype, shape_at(equation, places), dimension)]
    # Counted in whole numbers: a type of 16 bits cannot tell neighbours apart beyond some hundreds.
    counting = dtype if jnp.issubdtype(dtype, jnp.integer) else jnp.int32
    out = lax.broadcasted_iota(counting, shape_at(equation, places), dimension)
    return [lax.convert_element_type(out + lax.convert_element_type(places[dimension][0], counting), dtype)]


register("iota", Rule(lambda equation, w: [WHOLE] * len(equation.inputs), _iota_apply))
