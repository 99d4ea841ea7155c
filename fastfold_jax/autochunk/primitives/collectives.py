"""Exchanges between devices, which may run piece by piece along the dimensions that they leave alone.

Every device runs the same plan, so all of them exchange the same pieces in the same order.
"""

import numbers

from fastfold_jax.autochunk.program import Equation
from fastfold_jax.autochunk.rules import Rule, register
from fastfold_jax.autochunk.windows import Window, window

COLLECTIVES = frozenset(
    (
        "all_gather",
        "all_gather_invariant",
        "all_to_all",
        "pmax",
        "pmin",
        "ppermute",
        "psum",
        "psum_invariant",
        "reduce_scatter",
    )
)
"""What waits for other devices: dearer than memory traffic of the same size."""


def _all_to_all_flow(equation: Equation, w: Window) -> list[Window] | None:
    params = equation.params
    if not params["tiled"] or any(dim in (params["split_axis"], params["concat_axis"]) for dim, _ in w):
        return None
    return [w]


register("all_to_all", Rule(_all_to_all_flow))


def _all_gather_flow(equation: Equation, w: Window) -> list[Window] | None:
    gathered = equation.params["all_gather_dimension"]
    if any(dim == gathered for dim, _ in w):
        return None
    if equation.params["tiled"]:
        return [w]
    return [window({dim - (dim > gathered): span for dim, span in w})]


register(("all_gather", "all_gather_invariant"), Rule(_all_gather_flow))


def _reduce_scatter_flow(equation: Equation, w: Window) -> list[Window] | None:
    scattered, tiled = equation.params["scatter_dimension"], equation.params["tiled"]
    if tiled:
        return None if any(dim == scattered for dim, _ in w) else [w]
    return [window({dim + (dim >= scattered): span for dim, span in w})]


register("reduce_scatter", Rule(_reduce_scatter_flow))


def _same_place_flow(equation: Equation, w: Window) -> list[Window] | None:
    axes = equation.params.get("axes", ())
    if any(isinstance(axis, numbers.Integral) for axis in axes):  # sums over a dimension as well
        return None
    return [w]


register(("pmax", "pmin", "ppermute", "psum", "psum_invariant"), Rule(_same_place_flow))
