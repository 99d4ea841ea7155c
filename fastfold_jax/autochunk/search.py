"""Beam search over how a program is divided into regions, from what is best for each region by itself."""

from collections.abc import Callable, Iterator

from fastfold_jax.autochunk.estimate import is_reduction
from fastfold_jax.autochunk.plan import Decision, Division, is_costly
from fastfold_jax.autochunk.region import options
from fastfold_jax.autochunk.schedule import LevelPlan, Placed

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
    entries = list(_regions(plan, 1, 0))
    if plan.peak > budget:
        entries.sort(key=lambda item: -item[2])
    else:
        entries.sort(key=lambda item: -item[1] * item[0][1].seconds)
    for (level, entry), _, _ in entries[:_REGIONS]:
        region = entry.item.region
        assert region is not None
        for root in region.roots:
            assert root.value.source is not None
            ways = options(level.level.equations[root.value.source], root.value)
            yield from (Decision(root.value, i) for i, way in enumerate(ways) if way != root)
        made = {root.value for root in region.roots}
        for step in region.steps:
            if is_costly(step) or is_reduction(step.equation):
                yield from (Decision(v, None) for v in step.equation.outputs if v not in made and v.bytes <= budget)


def _regions(plan: LevelPlan, repeats: int, around: int) -> Iterator[tuple[tuple[LevelPlan, Placed], int, int]]:
    """Regions that run in chunks, with how often they run and the memory in use meanwhile."""
    for entry in plan.placed:
        if entry.chunked:
            yield (plan, entry), repeats, around + entry.alive + entry.bytes
        equation = plan.level.equations[entry.item.index]
        times = equation.params["length"] if equation.name == "scan" else 1
        for inner in (p for plans in entry.inner.values() for p in plans):
            yield from _regions(inner, repeats * times, around + entry.alive)
