"""Primitives that work element by element."""

from collections.abc import Sequence
from typing import Any

from fastfold_jax.autochunk.binding import made_varying, varying
from fastfold_jax.autochunk.program import Equation
from fastfold_jax.autochunk.rules import Places, Rule, register
from fastfold_jax.autochunk.windows import Window

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
    "name",
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


def _made_varying(equation: Equation, arguments: Sequence[Any], places: Places) -> list[Any]:
    return [made_varying(arguments[0], varying(equation.outputs[0].aval))]


register((*ELEMENTWISE, "optimization_barrier"), Rule(_elementwise))
register("pvary", Rule(_elementwise, _made_varying))
