"""A jaxpr as one flat list of equations: calls are opened, what is not used is gone, loops keep their bodies."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from fastfold_jax.autochunk.operations import OPERATIONS
from fastfold_jax.errors import UserError

# Calls whose body may stand in their place. A derivative rule is no longer needed: whoever differentiates a chunked
# function differentiates the original, see `api`.
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr"}
_CALLS |= {"custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr", "custom_vjp_call_jaxpr": "fun_jaxpr"}
_REMATERIALISED = ("checkpoint", "remat", "remat2")


@dataclasses.dataclass(eq=False)
class Value:
    """An array of the program.

    Attributes:
      aval: Shape and type.
      literal: Its value where the program knows it.
      source: Index of the equation that makes it; None for inputs and literals.
    """

    aval: Any
    literal: Any = None
    source: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of its dimensions."""
        return self.aval.shape

    @property
    def bytes(self) -> int:
        """Size in memory."""
        return num_bytes(self.aval.shape, self.aval.dtype)


def num_bytes(shape: Sequence[int], dtype: Any) -> int:
    """Size of an array in memory; a key of random numbers counts as two words."""
    itemsize = dtype.itemsize if isinstance(dtype, np.dtype) else getattr(dtype, "itemsize", 8)
    return math.prod(shape) * itemsize


@dataclasses.dataclass(eq=False)
class Equation:
    """One step: `outputs = primitive(*inputs, **params)`.

    Attributes:
      bodies: The levels inside a loop, branches or the like, by name of the parameter.
      origin: Name of the operation that it was part of, for reports.
      context: JAX's settings when it was traced, such as how random numbers are drawn; None for the present ones.
      scope: Names of the scopes around it, for profiles.
      acts: Whether it does something besides its results, such as printing: it runs once, and in its turn.
      flows: For windows of its results, the windows of its inputs, as far as they are known.
    """

    primitive: core.Primitive
    params: dict[str, Any]
    inputs: list[Value]
    outputs: list[Value]
    bodies: dict[str, "tuple[Level, ...]"] = dataclasses.field(default_factory=dict)
    origin: str = ""
    context: Any = None
    scope: str = ""
    acts: bool = False
    flows: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The primitive's name."""
        return self.primitive.name

    @property
    def times(self) -> int:
        """How often what is inside runs, as far as that is known: once for a loop whose end depends on values."""
        return self.params["length"] if self.name == "scan" else 1


@dataclasses.dataclass(eq=False)
class Level:
    """A list of equations that runs as a whole: the program, or the body of a loop."""

    inputs: list[Value]
    constants: list[tuple[Value, Any]]
    equations: list[Equation]
    outputs: list[Value]


class _Reader:
    def __init__(self, platform: str | None):
        self.platform = platform
        self.equations: list[Equation] = []
        self.constants: list[tuple[Value, Any]] = []

    def read(
        self, jaxpr: core.Jaxpr, consts: Sequence[Any], inputs: Sequence[Value], origin: str, scope: str = ""
    ) -> list[Value]:
        values: dict[core.Var, Value] = dict(zip(jaxpr.invars, inputs, strict=True))
        for var, const in zip(jaxpr.constvars, consts, strict=True):
            if isinstance(const, Value):
                values[var] = const
                continue
            values[var] = Value(var.aval)
            self.constants.append((values[var], const))

        def value(atom: Any) -> Value:
            return Value(atom.aval, atom.val) if isinstance(atom, core.Literal) else values[atom]

        for eqn in jaxpr.eqns:
            operands = [value(atom) for atom in eqn.invars]
            results = self.equation(eqn, operands, origin, "/".join(filter(None, (scope, scope_of(eqn)))))
            values.update((var, out) for var, out in zip(eqn.outvars, results, strict=True))
        return [value(atom) for atom in jaxpr.outvars]

    def equation(self, eqn: Any, operands: list[Value], origin: str, scope: str) -> list[Value]:
        name, params = eqn.primitive.name, eqn.params
        if name in _CALLS and _CALLS[name] in params and not places_results(params):
            body = params[_CALLS[name]]
            return self.read(body.jaxpr, body.consts, operands, origin, scope)
        if name in _REMATERIALISED and not (params["differentiated"] and params["prevent_cse"]):
            return self.read(params["jaxpr"], (), operands, origin, scope)
        rule = OPERATIONS.get(eqn.primitive)
        if rule is not None and (self.platform is None or not rule.fused(self.platform, **params)):
            return self.inline(lambda *leaves: rule.reference(*leaves, **params), operands, name)
        if name == "split":
            return self.split(eqn, operands, origin)
        if name == "optimization_barrier" and len(operands) > 1:
            # It keeps each value from being merged with its readers; the order among them is AutoChunk's to choose.
            return [out for x in operands for out in self.inline(jax.lax.optimization_barrier, [x], origin)]
        outputs = [Value(var.aval, source=len(self.equations)) for var in eqn.outvars]
        self.equations.append(
            Equation(
                eqn.primitive,
                dict(params),
                operands,
                outputs,
                bodies=self.bodies(name, params),
                origin=origin,
                context=eqn.ctx,
                scope=scope,
                acts=_acts(eqn),
            )
        )
        return outputs

    def inline(self, function: Callable[..., Any], operands: list[Value], origin: str) -> list[Value]:
        """The equations of a function of arrays."""
        specs = [jax.ShapeDtypeStruct(v.shape, v.aval.dtype) for v in operands]
        traced = jax.make_jaxpr(function)(*specs)
        return self.read(traced.jaxpr, traced.consts, operands, origin)

    def split(self, eqn: Any, operands: list[Value], origin: str) -> list[Value]:
        """One slice for each part, so that each can be followed by itself."""
        axis, start, outputs = eqn.params["axis"], 0, []
        for size in eqn.params["sizes"]:
            outputs += self.inline(
                lambda x, start=start, size=size: jax.lax.slice_in_dim(x, start, start + size, axis=axis),
                operands,
                origin,
            )
            start += size
        return outputs

    def bodies(self, name: str, params: dict[str, Any]) -> dict[str, tuple[Level, ...]]:
        if name in ("scan", "shard_map", *_REMATERIALISED):
            return {"jaxpr": (read(params["jaxpr"], self.platform),)}
        if name == "while":
            return {"body_jaxpr": (read(params["body_jaxpr"], self.platform),)}
        if name == "cond":
            return {"branches": tuple(read(branch, self.platform) for branch in params["branches"])}
        return {}


def scope_of(eqn: Any) -> str:
    """The scopes that an equation of a jaxpr is in, within that jaxpr."""
    return str(eqn.source_info.name_stack)


def effect_may_be_differentiated(effect: Any) -> bool:
    """Whether JAX takes an effect inside of a function with a derivative of its own: a callback's it does not."""
    return type(effect).__name__ not in ("IOEffect", "OrderedIOEffect")


def _acts(eqn: Any) -> bool:
    """Whether an equation has effects; that it uses an axis of a mesh, which JAX counts as one, is none.

    Raises:
      UserError: if it is about a mutable reference: who reads it after whom is not followed.
    """
    effects = [effect for effect in eqn.effects if type(effect).__name__ != "NamedAxisEffect"]
    if any("Ref" in cls.__name__ or "Mutable" in cls.__name__ for e in effects for cls in type(e).__mro__):
        raise UserError(f"autochunk: mutable references (`{eqn.primitive.name}`) are not supported; use values")
    return bool(effects)


def places_results(params: dict[str, Any]) -> bool:
    """Whether a call says how its arguments or results lie on devices, which is lost if it is opened."""
    given = (*params.get("in_shardings", ()), *params.get("out_shardings", ()))
    return any(type(sharding).__name__ != "UnspecifiedValue" for sharding in given)


def read(jaxpr: Any, platform: str | None) -> Level:
    """Flattens a jaxpr, open or closed.

    Args:
      platform: What it will run on, which decides whether operations are kernels there. None opens all of them.
    """
    closed_consts = getattr(jaxpr, "consts", ())
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    reader = _Reader(platform)
    inputs = [Value(var.aval) for var in inner.invars]
    outputs = reader.read(inner, closed_consts, inputs, "")
    return _without_unused(Level(inputs, reader.constants, reader.equations, outputs))


def keeps_operations(level: Level) -> bool:
    """Whether any operation in it is kept whole."""
    return any(
        equation.primitive in OPERATIONS or any(keeps_operations(body) for body in levels_of(equation))
        for equation in level.equations
    )


def levels_of(equation: Equation) -> list[Level]:
    """The levels inside an equation."""
    return [level for levels in equation.bodies.values() for level in levels]


def scan_counts(params: dict[str, Any], num_inputs: int) -> tuple[int, int]:
    """How many of the inputs of a `scan` are constants and how many are carried, in that order."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    constants, carried, _ = params["ft_in"].update(range(num_inputs)).unpack()  # JAX 0.12
    return len(list(constants)), len(list(carried))


def _without_unused(level: Level) -> Level:
    used = {id(v) for v in level.outputs}
    kept = []
    for equation in reversed(level.equations):
        if equation.acts or any(id(out) in used for out in equation.outputs):
            kept.append(equation)
            used.update(id(v) for v in equation.inputs)
    kept.reverse()
    for index, equation in enumerate(kept):
        for out in equation.outputs:
            out.source = index
    constants = [(value, const) for value, const in level.constants if id(value) in used]
    return Level(level.inputs, constants, kept, level.outputs)
