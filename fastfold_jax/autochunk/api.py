"""`autochunk`: a function like the one given, that fits a memory budget."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from fastfold_jax.autochunk import budget as budgets
from fastfold_jax.autochunk import cache
from fastfold_jax.autochunk import target as targets
from fastfold_jax.autochunk.budget import Budget, BudgetError
from fastfold_jax.autochunk.derivative import remembering_carries
from fastfold_jax.autochunk.emit import evaluate
from fastfold_jax.autochunk.explain import Explanation, explain
from fastfold_jax.autochunk.plan import Division
from fastfold_jax.autochunk.program import Level, effect_may_be_differentiated, keeps_operations, num_bytes, read
from fastfold_jax.autochunk.schedule import LevelPlan, Scheduler
from fastfold_jax.autochunk.search import search
from fastfold_jax.autochunk.target import Target
from fastfold_jax.errors import UserError

logger = logging.getLogger(__name__)

# Of the budget: arrays smaller than this are left alone. A finer look takes longer and is taken where need be.
_SMALL_SHARES = (256, 4096, 65536)
# Predicted loss of time up to which nothing better is searched for.
_FAST_ENOUGH = 0.02
# Halvings of the budget without a smaller plan, after which the smallest is found.
_PATIENCE = 2


@dataclasses.dataclass(frozen=True)
class _Planned:
    plan: LevelPlan
    explanation: Explanation
    name: str = ""


@dataclasses.dataclass(frozen=True)
class _Traced:
    """A function as a jaxpr of captured values and then its arguments' arrays.

    Attributes:
      values: Those that it is traced with, and may be called with.
      donated: For each of them, whether its memory may be used again.
    """

    jaxpr: Any
    values: list[Any]
    donated: list[bool]
    out_tree: Any


class Chunked:
    """What `autochunk` returns."""

    def __init__(
        self,
        function: Callable[..., Any],
        memory_budget: Budget,
        max_slowdown: float,
        target: Target | None,
        donate_argnums: int | Sequence[int],
    ):
        functools.update_wrapper(self, function, updated=())
        self._function = function
        self._budget = memory_budget
        self._max_slowdown = max_slowdown
        self._target = target
        self._donated = (donate_argnums,) if isinstance(donate_argnums, int) else tuple(donate_argnums)
        self._planned: dict[Any, _Planned] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function, chunk by chunk where need be."""
        traced = self._trace(args, kwargs)
        plan = self._plan(traced).plan
        if all(effect_may_be_differentiated(effect) for effect in traced.jaxpr.effects):
            out = _differentiable(traced, plan, self._again)(*traced.values)
        else:
            out = evaluate(plan, traced.values)
        return jax.tree.unflatten(traced.out_tree, out)

    def with_budget(self, memory_budget: Budget) -> "Chunked":
        """The same function for another budget."""
        return Chunked(self._function, budgets.checked(memory_budget), self._max_slowdown, self._target, self._donated)

    def explain(self, *args: Any, **kwargs: Any) -> Explanation:
        """The plan for arguments of these shapes, which may be `jax.ShapeDtypeStruct`s.

        Raises:
          BudgetError: if the budget cannot be met.
        """
        return self._plan(self._trace(args, kwargs)).explanation

    def curve(self, *args: Any, **kwargs: Any) -> list[tuple[int, float]]:
        """(peak in bytes, predicted seconds) of plans from the whole program down to the smallest."""
        return self._program(self._trace(args, kwargs)).curve()

    @property
    def explanations(self) -> list[Explanation]:
        """Explanations of all plans made so far, oldest first; inside `shard_map`, of one device's plans."""
        return [planned.explanation for planned in self._planned.values()]

    @property
    def names(self) -> list[str]:
        """Names of all plans made so far; a program, budget and device have the same name in every process."""
        return [planned.name for planned in self._planned.values()]

    def _trace(self, args: tuple, kwargs: dict) -> _Traced:
        leaves, treedef = jax.tree.flatten((args, kwargs))
        # What is no array, such as a flag, stays what it is: the function may look at it.
        places = [i for i, leaf in enumerate(leaves) if hasattr(leaf, "shape") and hasattr(leaf, "dtype")]
        arrays = [leaves[i] for i in places]

        def of_arrays(*values: Any) -> Any:
            full = list(leaves)
            for i, value in zip(places, values, strict=True):
                full[i] = value
            args, kwargs = jax.tree.unflatten(treedef, full)
            return self._function(*args, **kwargs)

        closed, shape = jax.make_jaxpr(of_arrays, return_shape=True)(*arrays)
        _refuse_sharded(closed.jaxpr)
        jaxpr = closed.jaxpr
        opened = jaxpr.replace(
            constvars=(), invars=[*jaxpr.constvars, *jaxpr.invars], debug_info=jaxpr.debug_info.with_unknown_names()
        )
        given = {argnum % len(args) for argnum in self._donated} if args else set()
        donated = [i in given for i, arg in enumerate(args) for _ in jax.tree.leaves(arg)]
        donated += [False] * (len(leaves) - len(donated))
        return _Traced(
            core.ClosedJaxpr(opened, ()),
            [*closed.consts, *arrays],
            [False] * len(closed.consts) + [donated[i] for i in places],
            jax.tree.structure(shape),
        )

    def _plan(self, traced: _Traced) -> _Planned:
        key = (str(traced.jaxpr), tuple(traced.donated))
        if key not in self._planned:
            self._planned[key] = self._kept_or_planned(traced)
            explanation = self._planned[key].explanation
            if explanation.regions:
                logger.info("%s", explanation.summary)
            if explanation.slowdown > self._max_slowdown:
                logger.warning(
                    "a budget of %s is predicted to cost %.0f %% of time, more than max_slowdown=%g allows for",
                    budgets.gib(explanation.budget),
                    100 * explanation.slowdown,
                    self._max_slowdown,
                )
        return self._planned[key]

    def _kept_or_planned(self, traced: _Traced) -> _Planned:
        program = self._program(traced)
        budget = budgets.of_device(program.scheduler.target) if self._budget == "device" else self._budget
        try:
            return self._of(program, budget, (traced.jaxpr, traced.donated, "kernels whole"))
        except BudgetError as error:
            if not keeps_operations(program.level):
                raise
            logger.info("%s; opening the operations that are kernels", error)
        program = self._program(traced, opened=True)
        return self._of(program, budget, (traced.jaxpr, traced.donated, "kernels opened"))

    def _of(self, program: "Program", budget: Budget, identity: tuple) -> _Planned:
        """The plan that was kept, or a new one."""
        name = cache.key(*identity, budget, program.scheduler.target)
        kept = cache.load(name, program.level)
        if kept is not None:
            return dataclasses.replace(program.described(*kept), name=name)
        planned = program.planned(budget)
        cache.save(name, planned.plan, planned.explanation.budget)
        return dataclasses.replace(planned, name=name)

    def _program(self, traced: _Traced, *, opened: bool = False) -> "Program":
        """The program to plan.

        Args:
          opened: Cut inside operations even where they are kernels on the target.
        """
        target = self._target or targets.current()
        level = read(traced.jaxpr, None if opened else target.platform)
        return Program(level, target, traced.donated)

    def _again(self, function: Callable[..., Any]) -> "Chunked":
        """Another function with the same budget: the derivative."""
        return Chunked(function, self._budget, float("inf"), self._target, ())


class Program:
    """A level at the top, with what surrounds it: arguments in memory, and a target."""

    def __init__(self, level: Level, target: Target, donated: Sequence[bool]):
        self.level = level
        self.scheduler = Scheduler(target)
        self._found: list[LevelPlan] = []
        self.overwritable = {value for value, given in zip(level.inputs, donated, strict=True) if given}
        constants = sum(num_bytes(jnp.shape(c), jnp.result_type(c)) for _, c in level.constants)
        self.arguments = sum(value.bytes for value in level.inputs) + constants

    def plan(self, budget: int) -> LevelPlan:
        """The fastest plan found for a budget (bytes, arguments included), or else the smallest."""
        unchanged = self.scheduler.unchanged(self.level)
        if self.arguments + unchanged.peak <= budget:
            return unchanged
        for share in _SMALL_SHARES:
            self._found.append(self._divided(budget, Division(max(1, budget // share))))
            if self.arguments + self._found[-1].peak <= budget:
                break
        return self._best(budget)

    def _divided(self, budget: int, division: Division) -> LevelPlan:
        plan = self.scheduler.plan(self.level, budget - self.arguments, self.overwritable, division)
        # In another order alone it takes what XLA makes of it, not what is left by the plan's account.
        return plan if plan.chunked else self.scheduler.unchanged(self.level)

    def _searched(self, budget: int) -> None:
        """Looks for something faster than what each region's own best gives, or smaller where that does not fit."""
        for share in _SMALL_SHARES:
            plan = functools.partial(self._divided, budget)
            start = Division(max(1, budget // share))
            self._found.append(search(plan, start, budget - self.arguments, lambda: self.scheduler.effort))
            if self.arguments + self._found[-1].peak <= budget:
                break

    def _best(self, budget: int) -> LevelPlan:
        within = [plan for plan in self._found if self.arguments + plan.peak <= budget]
        return min(within, key=lambda p: p.seconds) if within else min(self._found, key=lambda p: p.peak)

    def planned(self, budget: Budget) -> _Planned:
        """The plan for a budget.

        Raises:
          BudgetError: if none is small enough.
        """
        if budget == "min":
            size = self.smallest_worthwhile()
        else:
            size = budgets.of_device(self.scheduler.target) if budget == "device" else int(budget)
        plan = self.plan(size)
        if self.arguments + plan.peak > size or plan.seconds > (1 + _FAST_ENOUGH) * plan.whole.seconds:
            self._searched(size)
            plan = self._best(size)
        if self.arguments + plan.peak > size:
            smallest, plan = self.smallest(), self._best(size)
            if self.arguments + plan.peak > size:
                raise BudgetError(size, smallest)
        return self.described(plan, size)

    def described(self, plan: LevelPlan, budget: int) -> _Planned:
        """A plan with its explanation."""
        return _Planned(plan, explain(plan, self.arguments, budget, self.scheduler))

    def smallest(self) -> int:
        """Bytes of the smallest plan found, however slow.

        Nothing that was found for another budget counts: a program that is asked for these bytes will find them.
        """
        room = peak = self.scheduler.whole(self.level).bytes
        before, idle = len(self._found), 0
        while room > 0 and idle < _PATIENCE:  # what counts as small, and so what is cut, depends on the budget
            room //= 2
            self.plan(self.arguments + room)
            smallest = min(plan.peak for plan in self._found[before:])
            idle = idle + 1 if smallest >= peak else 0
            peak = min(peak, smallest)
        return self.arguments + peak

    def curve(self) -> list[tuple[int, float]]:
        """(peak in bytes, seconds) of plans from the whole program down to the smallest."""
        whole = self.arguments + self.scheduler.whole(self.level).bytes
        points = [(whole, self.scheduler.whole(self.level).seconds)]
        budget = whole
        while True:
            # The next smaller class that is not met already.
            next_class = budget * 2 ** (-1 / budgets.CLASSES_AN_OCTAVE) * 1.0001
            budget = budgets.rounded_down(min(next_class, points[-1][0] - 1))
            plan = self.plan(budget)
            if budget <= self.arguments or self.arguments + plan.peak > budget:
                return points
            points.append((self.arguments + plan.peak, plan.seconds))

    def smallest_worthwhile(self) -> int:
        """Where one GiB less, or for small programs a sixteenth of its memory, would cost more than half the speed."""
        points = self.curve()
        unit = min(2**30, points[0][0] / 16)
        best = points[0]
        for point in points[1:]:
            saved = (best[0] - point[0]) / unit
            # A step that saves little may be dear by itself and yet be on the way to more that is cheap.
            if saved > 0 and (point[1] / best[1]) ** (1 / saved) <= 2:
                best = point
        return best[0]


def _refuse_sharded(jaxpr: core.Jaxpr) -> None:
    """A budget is one device's.

    Raises:
      UserError: if the type of an array says that it is split over the devices of a mesh.
    """
    for var in (*jaxpr.constvars, *jaxpr.invars):
        spec = getattr(getattr(var.aval, "sharding", None), "spec", ())
        if any(part is not None for part in spec):
            raise UserError(
                f"autochunk: {var.aval.str_short()} is split over a mesh ({spec}), but a memory budget is one "
                "device's; put it inside: jax.shard_map(autochunk(f), ...)"
            )


def _differentiable(traced: _Traced, plan: LevelPlan, again: Callable[[Callable], Chunked]) -> Callable[..., list[Any]]:
    """The planned program; its derivative is the original's, planned anew.

    Differentiating a loop that overwrites its carry would keep a copy of the carry for each chunk.
    """
    original = remembering_carries(traced.jaxpr)

    @jax.custom_vjp
    def run(*inputs):
        return evaluate(plan, inputs)

    def forward(*inputs):
        return evaluate(plan, inputs), inputs

    def backward(inputs, cotangents):
        moving = [i for i, x in enumerate(inputs) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
        given = [i for i, ct in enumerate(cotangents) if ct.dtype != jax.dtypes.float0]

        def pull_back(inputs, cotangents):
            def of_moving(*values):
                full = list(inputs)
                for i, value in zip(moving, values, strict=True):
                    full[i] = value
                out = original(*full)
                return [out[i] for i in given]

            return jax.vjp(of_moving, *(inputs[i] for i in moving))[1](cotangents)

        pulled = again(pull_back)(list(inputs), [cotangents[i] for i in given])
        gradients: list[Any] = [None] * len(inputs)
        for i, gradient in zip(moving, pulled, strict=True):
            gradients[i] = gradient
        return tuple(gradients)

    run.defvjp(forward, backward)
    return run


def autochunk(
    function: Callable[..., Any],
    memory_budget: Budget = "device",
    max_slowdown: float = 0.1,
    *,
    target: Target | None = None,
    donate_argnums: int | Sequence[int] = (),
) -> Chunked:
    """A function with the same results that runs parts of itself chunk by chunk, so as to fit a memory budget.

    Use it inside `jit`, where it takes effect: `jax.jit(autochunk(f, memory_budget=2**33))`. Inside `shard_map` the
    budget is that of each device. It can be differentiated in reverse mode; to have one plan for value and gradient,
    chunk `jax.value_and_grad(f)`. `autochunk(jax.vmap(f))` plans with the batch, `jax.vmap(autochunk(f))` without.

    Args:
      function: Of arrays, or pytrees of arrays, to the same. What is no array, such as a Python number or a flag, is
        given to it as it is, as with `static_argnums` of `jit`.
      memory_budget: Bytes for arguments, results and everything between; `device` for what the device has; `min` for
        as little as is worth it: until a further GiB would cost more than half of the speed.
      max_slowdown: Predicted loss of time, 0.1 for 10 percent, beyond which a warning is logged.
      target: Device that it will run on, where that is not the default one.
      donate_argnums: Arguments whose memory may be used again; give `jit` the same.

    Returns:
      A callable with a method `explain(*args)`. Calling either raises `BudgetError` where the budget cannot be met.
    """
    return Chunked(function, budgets.checked(memory_budget), max_slowdown, target, donate_argnums)


__all__ = ["BudgetError", "Chunked", "Program", "autochunk"]
