"""The function to differentiate: the original, whose loops keep nothing but their carry for the backward pass."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

from fastfold_jax.autochunk.binding import bind, scan
from fastfold_jax.autochunk.program import Equation, Value, places_results, scope_of


def remembering_carries(closed: Any) -> Callable[..., list[Any]]:
    """A closed jaxpr as a function; bodies of `scan` are checkpointed.

    What a body computes is then planned together with its derivative, and not stacked up for all steps.
    """

    def run(*arguments: Any) -> list[Any]:
        values: dict[Any, Any] = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
        values.update(zip(closed.jaxpr.invars, arguments, strict=True))
        for eqn in closed.jaxpr.eqns:
            inputs = [atom.val if isinstance(atom, core.Literal) else values[atom] for atom in eqn.invars]
            if eqn.primitive.name == "scan":
                step = jax.checkpoint(remembering_carries(eqn.params["jaxpr"]), prevent_cse=False)
                results = scan(eqn.params, step, inputs)
            elif eqn.primitive.name in ("jit", "pjit") and not places_results(eqn.params):
                results = remembering_carries(eqn.params["jaxpr"])(*inputs)
            else:
                operands = [Value(atom.aval) for atom in eqn.invars]
                lone = Equation(eqn.primitive, dict(eqn.params), operands, [], context=eqn.ctx, scope=scope_of(eqn))
                results = bind(lone, inputs)
            values.update(zip(eqn.outvars, results, strict=True))
        return [atom.val if isinstance(atom, core.Literal) else values[atom] for atom in closed.jaxpr.outvars]

    return run
