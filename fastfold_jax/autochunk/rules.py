"""Dimension flow: which windows of its inputs a primitive needs for a window of its result.

A registry: `register(name, Rule(...))` teaches a primitive. What has no rule is a barrier: its inputs and results are
whole, and that is never an error.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from jax import lax

from fastfold_jax.autochunk.program import Equation
from fastfold_jax.autochunk.windows import WHOLE, Chunk, Fixed, Span, Window, window

Places = dict[int, tuple[Any, int]]
"""Start and length on each cut dimension of the result."""

Flow = Callable[[Equation, Window], list[Window] | None]
Apply = Callable[[Equation, Sequence[Any], Places], list[Any]]


def bind(equation: Equation, arguments: Sequence[Any], **changes: Any) -> list[Any]:
    """Runs the equation's primitive with some parameters changed."""
    primitive = equation.primitive
    params = primitive.get_bind_params(equation.params | changes)
    functions, params = ((), params) if isinstance(params, dict) else params  # functions apart in some versions of JAX
    out = primitive.bind(*functions, *arguments, **params)
    return list(out) if primitive.multiple_results else [out]


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


# Element by element ------------------------------------------------------------------------------------------------

ELEMENTWISE = (
    "abs",
    "acos",
    "acosh",
    "add",
    "add_any",
    "and",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "bessel_i0e",
    "bessel_i1e",
    "bitcast_convert_type",
    "cbrt",
    "ceil",
    "clamp",
    "clz",
    "convert_element_type",
    "copy",
    "cos",
    "cosh",
    "digamma",
    "div",
    "eq",
    "erf",
    "erf_inv",
    "erfc",
    "exp",
    "exp2",
    "expm1",
    "floor",
    "ge",
    "gt",
    "igamma",
    "igammac",
    "imag",
    "integer_pow",
    "is_finite",
    "le",
    "lgamma",
    "log",
    "log1p",
    "logistic",
    "lt",
    "max",
    "min",
    "mul",
    "ne",
    "neg",
    "nextafter",
    "not",
    "or",
    "polygamma",
    "population_count",
    "pow",
    "real",
    "reduce_precision",
    "rem",
    "round",
    "rsqrt",
    "select_n",
    "shift_left",
    "shift_right_arithmetic",
    "shift_right_logical",
    "sign",
    "sin",
    "sinh",
    "sqrt",
    "square",
    "stop_gradient",
    "sub",
    "tan",
    "tanh",
    "xor",
)


def _elementwise(equation: Equation, w: Window) -> list[Window] | None:
    shape = equation.outputs[0].shape
    if any(value.shape and len(value.shape) != len(shape) for value in equation.inputs):
        return None
    return [fitting(w, value.shape, shape) for value in equation.inputs]


def fitting(w: Window, shape: Sequence[int], out: Sequence[int]) -> Window:
    """The window of an operand that is a scalar, or has length 1 where the result is longer."""
    return tuple((dim, span) for dim, span in w if shape and shape[dim] == out[dim])


register((*ELEMENTWISE, "optimization_barrier"), Rule(_elementwise))

# Shapes ------------------------------------------------------------------------------------------------------------


def _broadcast_flow(equation: Equation, w: Window) -> list[Window] | None:
    operand, out = equation.inputs[0], equation.outputs[0]
    source = {d: i for i, d in enumerate(equation.params["broadcast_dimensions"])}
    spans = {
        source[dim]: span for dim, span in w if dim in source and operand.shape[source[dim]] == out.shape[dim] != 1
    }
    return [window(spans)] + [WHOLE] * (len(equation.inputs) - 1)


def _out_shape(equation: Equation, places: Places) -> tuple[int, ...]:
    shape = equation.outputs[0].shape
    return tuple(places[d][1] if d in places else length for d, length in enumerate(shape))


def _broadcast_apply(equation: Equation, arguments: Sequence[Any], places: Places) -> list[Any]:
    return [lax.broadcast_in_dim(arguments[0], _out_shape(equation, places), equation.params["broadcast_dimensions"])]


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
    return [lax.reshape(arguments[0], _out_shape(equation, places))]


register("reshape", Rule(_reshape_flow, _reshape_apply))


def _iota_apply(equation: Equation, arguments: Sequence[Any], places: Places) -> list[Any]:
    dimension, dtype = equation.params["dimension"], equation.params["dtype"]
    out = lax.broadcasted_iota(dtype, _out_shape(equation, places), dimension)
    return [out + lax.convert_element_type(places[dimension][0], dtype) if dimension in places else out]


register("iota", Rule(lambda equation, w: [WHOLE] * len(equation.inputs), _iota_apply))

# Parts -------------------------------------------------------------------------------------------------------------


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
    return [lax.dynamic_slice(arguments[0], arguments[1:], _out_shape(equation, places))]


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
            mixed |= set() if value is None else {value} if isinstance(value, int) else set(value)
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

# Sums --------------------------------------------------------------------------------------------------------------


def _reduce_flow(equation: Equation, w: Window) -> list[Window] | None:
    axes, rank = equation.params["axes"], len(equation.inputs[0].shape)
    kept = [d for d in range(rank) if d not in axes]
    return [window({kept[dim]: span for dim, span in w})] * len(equation.inputs)


def _reduced(equation: Equation) -> list[list[Window]]:
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


register("dot_general", Rule(_dot_flow, combine=lax.add, reduced=_dot_reduced))
