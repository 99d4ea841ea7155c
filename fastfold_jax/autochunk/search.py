"""Beam search over how a program is divided into regions, from what is best for each region by itself."""

import math
from collections.abc import Callable, Iterator

from fastfold_jax.autochunk.estimate import is_reduction
from fastfold_jax.autochunk.plan import Decision, Division, is_costly
from fastfold_jax.autochunk.region import options
from fastfold_jax.autochunk.schedule import LevelPlan

# States that are kept from round to round, rounds, plans, and equations looked at: seconds, whatever the program. Not a
# limit of time, which would give every process of a run, and every run, a plan of its own.
_WIDTH = 3
_ROUNDS = 4
_MOST = 40
_EFFORT = 150_000
# Regions of a plan where other decisions are tried: those that lose the most time, or take the most memory.
_REGIONS = 4

Plan = Callable[[Division], LevelPlan]


def search(plan: Plan, start: Division, budget: int, effort: Callable[[], int]) -> LevelPlan:
    """The best plan found: the fastest within a budget, or else the smallest.

    A state is a set of decisions; its neighbours decide one thing more, or otherwise, about one of the regions that
    cost most. Each is judged as a whole program.

    Args:
      plan: Makes the plan for a division of the program.
      start: The division without decisions.
      budget: Bytes beside the program's inputs.
      effort: Equations looked at so far, in planning.
    """
    most = effort() + _EFFORT

    def cost(found: LevelPlan) -> tuple[int, float]:
        return max(0, found.peak - budget), found.seconds

    known = {start: plan(start)}
    beam = [start]
    for _ in range(_ROUNDS):
        best = min(cost(found) for found in known.values())
        for division in beam:
            for decision in _alternatives(known[division], budget):
                other = division.with_decision(decision)
                if other not in known and len(known) < _MOST and effort() < most:
                    known[other] = plan(other)
        beam = sorted(known, key=lambda division: cost(known[division]))[:_WIDTH]
        if cost(known[beam[0]]) >= best:
            break
    return known[beam[0]]


def _alternatives(plan: LevelPlan, budget: int) -> Iterator[Decision]:
    """What could be decided otherwise about the regions that cost most."""
    loops = list(plan.loops())
    if plan.peak > budget:
        loops.sort(key=lambda loop: -(loop.around + loop.entry.bytes))
    else:
        loops.sort(key=lambda loop: -math.prod(equation.times for equation in loop.inside) * loop.entry.seconds)
    for loop in loops[:_REGIONS]:
        region = loop.region
        for root in region.roots:
            assert root.value.source is not None
            ways = options(loop.plan.level.equations[root.value.source], root.value)
            yield from (Decision(root.value, i) for i, way in enumerate(ways) if way != root)
        made = {root.value for root in region.roots}
        for step in region.steps:
            if is_costly(step) or is_reduction(step.equation):
                yield from (Decision(v, None) for v in step.equation.outputs if v not in made and v.bytes <= budget)
