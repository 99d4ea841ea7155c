"""Primitives that take parts, put them together, or mix elements along some dimensions only."""

import numbers
from collections.abc import Sequence
from typing import Any

from jax import lax

from fastfold_jax.autochunk.binding import bind
from fastfold_jax.autochunk.program import Equation
from fastfold_jax.autochunk.rules import Flow, Places, Rule, register, shape_at
from fastfold_jax.autochunk.windows import WHOLE, Chunk, Fixed, Span, Window, window


def _slice_flow(equation: Equation, w: Window) -> list[Window] | None:
    shape, params, spans = equation.inputs[0].shape, equation.params, dict(w)
    strides = params["strides"] or (1,) * len(shape)
    narrowed: dict[int, Span] = {}
    for dim, (start, limit, stride) in enumerate(
        zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    ):
        span = spans.get(dim)
        if stride != 1:
            if span is not None:
                return None
        elif span is None:
            if limit - start < shape[dim]:
                narrowed[dim] = Fixed(start, limit - start)
        elif isinstance(span, Fixed):
            narrowed[dim] = Fixed(span.start + start, span.length)
        else:
            narrowed[dim] = Chunk(span.scale, span.offset + start)
    return [window(narrowed)]


def _slice_apply(equation: Equation, arguments: Sequence[Any], places: Places) -> list[Any]:
    x, params = arguments[0], equation.params
    for dim, stride in enumerate(params["strides"] or ()):
        if stride != 1:
            x = lax.slice_in_dim(x, params["start_indices"][dim], params["limit_indices"][dim], stride, dim)
    return [x]


register("slice", Rule(_slice_flow, _slice_apply))


def _dynamic_slice_flow(equation: Equation, w: Window) -> list[Window] | None:
    operand, out = equation.inputs[0].shape, equation.outputs[0].shape
    if any(operand[dim] != out[dim] for dim, _ in w):
        return None
    return [w] + [WHOLE] * (len(equation.inputs) - 1)


def _dynamic_slice_apply(equation: Equation, arguments: Sequence[Any], places: Places) -> list[Any]:
    # Not `lax.dynamic_slice`, which would count a negative start from the end; the primitive clamps it.
    return bind(equation, arguments, slice_sizes=shape_at(equation, places))


register("dynamic_slice", Rule(_dynamic_slice_flow, _dynamic_slice_apply))


def _dynamic_update_slice_flow(equation: Equation, w: Window) -> list[Window] | None:
    operand, update = equation.inputs[0].shape, equation.inputs[1].shape
    if any(operand[dim] != update[dim] for dim, _ in w):
        return None
    return [w, w] + [WHOLE] * (len(equation.inputs) - 2)


register("dynamic_update_slice", Rule(_dynamic_update_slice_flow))


def _along_others(*names: str) -> Flow:
    """For primitives that mix elements along the dimensions that a parameter names, and no others."""

    def flow(equation: Equation, w: Window) -> list[Window] | None:
        mixed: set[int] = set()
        for name in names:
            value = equation.params.get(name)
            mixed |= set() if value is None else {int(value)} if isinstance(value, numbers.Integral) else set(value)
        if any(dim in mixed for dim, _ in w):
            return None
        return [w if value.shape else WHOLE for value in equation.inputs]

    return flow


register("concatenate", Rule(_along_others("dimension")))
register(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), Rule(_along_others("axis")))
register("rev", Rule(_along_others("dimensions")))
register("sort", Rule(_along_others("dimension")))


def _top_k_flow(equation: Equation, w: Window) -> list[Window] | None:
    last = len(equation.inputs[0].shape) - 1
    return None if any(dim == equation.params.get("axis", last) % (last + 1) for dim, _ in w) else [w]


register("top_k", Rule(_top_k_flow))


def _stack_flow(equation: Equation, w: Window) -> list[Window] | None:
    axis = equation.params["axis"]
    if any(dim == axis for dim, _ in w):
        return None
    return [window({dim - (dim > axis): span for dim, span in w})] * len(equation.inputs)


register("stack", Rule(_stack_flow))


def _pad_flow(equation: Equation, w: Window) -> list[Window] | None:
    if any(equation.params["padding_config"][dim] != (0, 0, 0) for dim, _ in w):
        return None
    return [w, WHOLE]


register("pad", Rule(_pad_flow))


def _gather_flow(equation: Equation, w: Window) -> list[Window] | None:
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    operand, indices = equation.inputs[0].shape, equation.inputs[1].shape
    batching = tuple(numbers.operand_batching_dims)
    gone = set(numbers.collapsed_slice_dims) | set(batching)
    offset_to_operand = dict(zip(numbers.offset_dims, (d for d in range(len(operand)) if d not in gone), strict=True))
    batch = [d for d in range(len(equation.outputs[0].shape)) if d not in numbers.offset_dims]
    of_indices = dict(zip(batch, range(len(indices) - 1), strict=True))
    from_operand: dict[int, Span] = {}
    from_indices: dict[int, Span] = {}
    for dim, span in w:
        if dim in offset_to_operand:
            source = offset_to_operand[dim]
            if sizes[source] != operand[source] or source in numbers.start_index_map:
                return None
            from_operand[source] = span
            continue
        from_indices[of_indices[dim]] = span
        if of_indices[dim] in numbers.start_indices_batching_dims:
            from_operand[batching[numbers.start_indices_batching_dims.index(of_indices[dim])]] = span
    return [window(from_operand), window(from_indices)]


def _gather_apply(equation: Equation, arguments: Sequence[Any], places: Places) -> list[Any]:
    numbers, sizes = equation.params["dimension_numbers"], list(equation.params["slice_sizes"])
    gone = set(numbers.collapsed_slice_dims) | set(numbers.operand_batching_dims)
    kept = [d for d in range(len(sizes)) if d not in gone]
    for out_dim, operand_dim in zip(numbers.offset_dims, kept, strict=True):
        if out_dim in places:
            sizes[operand_dim] = places[out_dim][1]
    return bind(equation, arguments, slice_sizes=tuple(sizes))


register("gather", Rule(_gather_flow, _gather_apply))


def _scatter_flow(equation: Equation, w: Window) -> list[Window] | None:
    numbers = equation.params["dimension_numbers"]
    operand, _, updates = (value.shape for value in equation.inputs)
    gone = set(numbers.inserted_window_dims) | set(numbers.operand_batching_dims)
    kept = [d for d in range(len(operand)) if d not in gone]
    to_update = dict(zip(kept, numbers.update_window_dims, strict=True))
    spans: dict[int, Span] = {}
    for dim, span in w:
        update = to_update.get(dim)
        if update is None or dim in numbers.scatter_dims_to_operand_dims or updates[update] != operand[dim]:
            return None
        spans[update] = span
    return [w, WHOLE, window(spans)]


register(("scatter", "scatter-add", "scatter_add", "scatter-mul", "scatter-min", "scatter-max"), Rule(_scatter_flow))
