"""A planned level as JAX calls: loops that keep the large array in their carry and update it in place."""

import collections
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from fastfold_jax.autochunk.binding import bind, made_varying, scan, varying
from fastfold_jax.autochunk.operation_rules import rule_of
from fastfold_jax.autochunk.program import Equation, Level, Value
from fastfold_jax.autochunk.region import Region, Root
from fastfold_jax.autochunk.rules import RULES
from fastfold_jax.autochunk.schedule import LevelPlan, Placed
from fastfold_jax.autochunk.windows import Window, chunk_part, cut, put

# Below this, where an array lies in memory is left to XLA.
_PINNED_BYTES = 2**20


def evaluate(plan: LevelPlan, arguments: Sequence[Any]) -> list[Any]:
    """Runs a level as planned, on arrays or tracers."""
    return _Emitter(plan).run(arguments)


class _Emitter:
    def __init__(self, plan: LevelPlan):
        self.plan = plan
        self.level: Level = plan.level
        self.values: dict[Value, Any] = {}
        self.readers: dict[Value, list[Value]] = {}
        self.recent: list[Value] = []
        self.unread = collections.Counter(value for entry in plan.placed for value in entry.item.reads)
        self.unread.update(self.level.outputs)

    def run(self, arguments: Sequence[Any]) -> list[Any]:
        self.values.update(zip(self.level.inputs, arguments, strict=True))
        self.values.update(self.level.constants)
        if not self.plan.placed:
            for equation in self.level.equations:
                self._whole(equation, {})
        for entry in self.plan.placed:
            region = entry.item.region
            if entry.waits:
                self._wait(entry)
            if region is None:
                self._whole(self.level.equations[entry.item.index], entry.inner)
            elif not entry.chunked:
                parts = _chunk(region, self._sources(region), 0, region.length)
                self.values.update((root.value, part) for root, part in zip(region.roots, parts, strict=True))
            else:
                self._loop(entry, region)
            for value in entry.item.reads:
                self.readers.setdefault(value, []).extend(entry.item.makes)
                self.unread[value] -= 1
            self.recent += entry.item.makes
        outputs = [(value, self._value(value)) for value in self.level.outputs]
        # Callers get arrays, also of what is known from the start.
        return [x if value.literal is None else jnp.asarray(x) for value, x in outputs]

    def _value(self, value: Value) -> Any:
        return value.literal if value.literal is not None else self.values[value]

    def _sources(self, region: Region) -> dict[Value, Any]:
        return {value: self._value(value) for value in region.sources}

    def _whole(self, equation: Equation, inner: dict[str, tuple[LevelPlan, ...]]) -> None:
        arguments = [self._value(value) for value in equation.inputs]
        if any(plan.chunked for plans in inner.values() for plan in plans):
            results = _ENTERED[equation.name](equation, inner, arguments)
        else:
            results = bind(equation, arguments)
        self.values.update(zip(equation.outputs, results, strict=True))

    def _loop(self, entry: Placed, region: Region) -> None:
        self._order_reads(entry)
        sources = self._sources(region)
        carried = {root: entry.in_place.get(root.value) for root in region.roots}
        start = [
            made_varying(_initial(root), varying(root.value.aval)) if source is None else sources[source]
            for root, source in carried.items()
        ]
        invariant = {value: x for value, x in sources.items() if value not in carried.values()}

        def step(begin: Any, size: int, carry: list[Any]) -> list[Any]:
            here = dict(invariant)
            here.update((source, x) for (_, source), x in zip(carried.items(), carry, strict=True) if source)
            parts = _chunk(region, here, begin, size)
            return [_merge(root, x, part, begin, size) for root, x, part in zip(carried, carry, parts, strict=True)]

        size = entry.size
        chunks, rest = divmod(region.length, size)
        carry = lax.fori_loop(0, chunks, lambda i, carry: step(i * size, size, carry), start)
        if rest:
            carry = step(chunks * size, rest, carry)
        for root, x in zip(carried, carry, strict=True):
            self.values[root.value] = x.astype(root.value.aval.dtype) if root.dim is None else x

    def _wait(self, entry: Placed) -> None:
        """What an item reads is there when everything before is: XLA would run them at once, and need room for all.

        What nobody reads any more is left out. Those who did have ended too, and may have overwritten it.
        """
        self._tie([*entry.item.reads, *(value for value in self.recent if self.unread[value])])
        self.recent = []

    def _order_reads(self, entry: Placed) -> None:
        """Everything made from a value comes before the value is overwritten; otherwise XLA would keep a copy."""
        for source in entry.in_place.values():
            self._tie([source, *self.readers.get(source, ())])

    def _tie(self, values: Sequence[Value]) -> None:
        """None of the values can be read before all of them are there.

        Inside `shard_map` those apart that differ along other axes of the mesh: a barrier would make them alike.
        """
        alike: dict[frozenset[str], list[Value]] = {}
        for value in dict.fromkeys(values):
            if value in self.values:
                alike.setdefault(varying(self.values[value]), []).append(value)
        for tied in alike.values():
            self.values.update(zip(tied, lax.optimization_barrier([self.values[v] for v in tied]), strict=True))


def _pinned(x: Any) -> Any:
    """Row-major, so that XLA does not transpose the whole array for the sake of one reader."""
    if x.ndim < 2 or x.size * x.dtype.itemsize < _PINNED_BYTES:
        return x
    return with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))


_IDENTITIES = {"reduce_prod": 1, "reduce_and": -1, "reduce_or": 0, "reduce_sum": 0, "dot_general": 0}


def _initial(root: Root) -> Any:
    """What the carry holds before the first chunk."""
    aval = root.value.aval
    if root.dim is not None:
        return lax.empty(aval.shape, aval.dtype) if hasattr(lax, "empty") else jnp.zeros(aval.shape, aval.dtype)
    name = root.name
    dtype = _accumulator(aval.dtype)
    if name in ("reduce_max", "reduce_min"):
        if dtype == jnp.bool_:
            return jnp.full(aval.shape, name == "reduce_min", dtype)
        if jnp.issubdtype(dtype, jnp.floating):
            return jnp.full(aval.shape, -jnp.inf if name == "reduce_max" else jnp.inf, dtype)
        info = jnp.iinfo(dtype)
        return jnp.full(aval.shape, info.min if name == "reduce_max" else info.max, dtype)
    if dtype == jnp.bool_:
        return jnp.full(aval.shape, name == "reduce_and", dtype)
    return jnp.full(aval.shape, _IDENTITIES[name], dtype)


def _accumulator(dtype: Any) -> Any:
    """Sums of 16-bit numbers are kept in float32 from chunk to chunk."""
    return jnp.float32 if jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize < 4 else dtype


def _merge(root: Root, whole: Any, part: Any, start: Any, size: int) -> Any:
    if root.dim is not None:
        return _pinned(put(whole, part, root.window, start, size))
    combine = RULES[root.name].combine
    assert combine is not None
    return combine(whole, part.astype(whole.dtype))


def _chunk(region: Region, sources: dict[Value, Any], start: Any, size: int) -> list[Any]:
    """The roots' parts for one chunk."""
    made: dict[tuple[Value, Window], Any] = {}
    kept_apart = _products_to_add_to(region)

    def read(value: Value, w: Window) -> Any:
        if value.literal is not None:
            return value.literal
        if (value, w) in made:
            return made[value, w]
        part = chunk_part(w)
        if (value, part) in made:
            return cut(made[value, part], w, start, size, cut_already=part)
        made[value, w] = cut(sources[value], w, start, size)
        return made[value, w]

    for step in region.steps:
        arguments = [read(value, w) for value, w in step.inputs]
        places = {dim: span.place(start, size) for dim, span in step.window}
        rule = rule_of(step.equation)
        assert rule is not None
        results = rule.apply(step.equation, arguments, places)
        if step.equation in kept_apart:
            results = lax.optimization_barrier(results)
        made.update(((out, step.window), x) for out, x in zip(step.equation.outputs, results, strict=True))
    return [read(root.value, root.window) for root in region.roots]


def _products_to_add_to(region: Region) -> set[Equation]:
    """Matrix products to which a matrix is added that is the same for several of them, such as a bias of attention.

    XLA would hand the matrix to the product's kernel, and for that write it out once for each product.
    """
    products = {out: s.equation for s in region.steps if s.equation.name == "dot_general" for out in s.equation.outputs}
    found = set()
    for step in region.steps:
        if step.equation.name != "add":
            continue
        for product, other in (step.equation.inputs, step.equation.inputs[::-1]):
            repeated = [n for n, m in zip(other.shape, product.shape, strict=False) if n == 1 < m]
            if product in products and repeated and sum(n > 1 for n in other.shape) > 1:
                found.add(products[product])
    return found


def _function(plan: LevelPlan):
    return lambda *arguments: evaluate(plan, arguments)


def _scan(equation: Equation, inner: dict[str, tuple[LevelPlan, ...]], arguments: list[Any]) -> list[Any]:
    return scan(equation.params, _function(inner["jaxpr"][0]), arguments)


def _while(equation: Equation, inner: dict[str, tuple[LevelPlan, ...]], arguments: list[Any]) -> list[Any]:
    params, (plan,) = equation.params, inner["body_jaxpr"]
    cond_consts, body_consts = params["cond_nconsts"], params["body_nconsts"]
    for_cond, rest = arguments[:cond_consts], arguments[cond_consts:]
    for_body, carry = rest[:body_consts], rest[body_consts:]
    condition = jax.extend.core.jaxpr_as_fun(params["cond_jaxpr"])

    def going(carry: list[Any]) -> Any:
        return condition(*for_cond, *carry)[0]

    def body(carry: list[Any]) -> list[Any]:
        return evaluate(plan, [*for_body, *carry])

    def body_of_batch(carry: list[Any]) -> list[Any]:
        """The loop goes on until all are done, and those that are done stay as they are."""
        on = going(carry)
        return [lax.select(_like(on, new), new, old) for new, old in zip(body(carry), carry, strict=True)]

    (on,) = params["cond_jaxpr"].out_avals
    return lax.while_loop(lambda carry: jnp.any(going(carry)), body_of_batch if on.shape else body, carry)


def _like(mask: Any, x: Any) -> Any:
    """A mask of the leading dimensions for the whole array."""
    return lax.broadcast_in_dim(mask, x.shape, range(mask.ndim))


def _cond(equation: Equation, inner: dict[str, tuple[LevelPlan, ...]], arguments: list[Any]) -> list[Any]:
    return lax.switch(arguments[0], [_function(plan) for plan in inner["branches"]], *arguments[1:])


def _checkpoint(equation: Equation, inner: dict[str, tuple[LevelPlan, ...]], arguments: list[Any]) -> list[Any]:
    """What is computed again for a backward pass must not be merged with the first time."""
    return evaluate(inner["jaxpr"][0], lax.optimization_barrier(arguments))


def _shard_map(equation: Equation, inner: dict[str, tuple[LevelPlan, ...]], arguments: list[Any]) -> list[Any]:
    params, (plan,) = equation.params, inner["jaxpr"]
    function = jax.shard_map(
        _function(plan),
        mesh=params["mesh"],
        in_specs=tuple(params["in_specs"]),
        out_specs=list(params["out_specs"]),
        axis_names=set(params["newly_manual_axes"]),
        check_vma=params["check_vma"],
    )
    return function(*arguments)


_ENTERED = {"scan": _scan, "while": _while, "cond": _cond, "shard_map": _shard_map}
_ENTERED |= dict.fromkeys(("checkpoint", "remat", "remat2"), _checkpoint)
