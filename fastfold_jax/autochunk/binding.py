"""Running an equation as it was traced: with the same settings, in the same scopes, on operands of the same types."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax import lax

from fastfold_jax.autochunk.program import Equation, scan_counts


def bind(equation: Equation, arguments: Sequence[Any], **changes: Any) -> list[Any]:
    """Runs the equation's primitive with some parameters changed."""
    primitive = equation.primitive
    params = primitive.get_bind_params(equation.params | changes)
    functions, params = ((), params) if isinstance(params, dict) else params  # functions apart in some versions of JAX
    with _as_traced(equation):
        out = primitive.bind(*functions, *_typed(equation, arguments), **params)
    return list(out) if primitive.multiple_results else [out]


def scan(params: dict[str, Any], step: Callable[..., list[Any]], arguments: Sequence[Any]) -> list[Any]:
    """Runs a `scan` with these parameters, but with `step` as its body: `(*constants, *carry, *xs) -> carry and ys`."""
    consts, carried = scan_counts(params, len(arguments))
    constants, carry, xs = arguments[:consts], arguments[consts : consts + carried], arguments[consts + carried :]

    def body(carry: Any, xs: Any) -> tuple[Any, Any]:
        out = step(*constants, *carry, *xs)
        return out[:carried], out[carried:]

    carry, ys = lax.scan(body, carry, xs, params["length"], params["reverse"], params["unroll"])
    return [*carry, *ys]


@contextlib.contextmanager
def _as_traced(equation: Equation) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if equation.context is not None:
            stack.enter_context(equation.context.manager)
        if equation.scope:
            stack.enter_context(jax.named_scope(equation.scope))
        yield


def varying(array: Any) -> frozenset[str]:
    """Inside `shard_map`: the axes of the mesh along which an array, or its type, differs from device to device."""
    aval = array if isinstance(array, jax.core.ShapedArray) else jax.typeof(array)
    return frozenset(getattr(getattr(aval, "manual_axis_type", None), "varying", ()))


def made_varying(x: Any, axes: frozenset[str]) -> Any:
    """The array as one that differs along these axes too."""
    missing = tuple(sorted(axes - varying(x)))
    return lax.pcast(x, missing, to="varying") if missing else x


def _typed(equation: Equation, arguments: Sequence[Any]) -> list[Any]:
    """Operands that differ along the axes that the equation was traced for.

    What comes out of a loop may differ along more than what was traced; the others must, then, as well.
    """
    traced = [varying(value.aval) for value in equation.inputs]
    now = [varying(x) for x in arguments]
    if not any(traced) and not any(now):
        return list(arguments)
    more = frozenset().union(*(here - there for here, there in zip(now, traced, strict=True)))
    return [made_varying(x, there | more) for x, there in zip(arguments, traced, strict=True)]
