"""A plan, as data and as text."""

import dataclasses

from fastfold_jax.autochunk.budget import gib
from fastfold_jax.autochunk.schedule import LevelPlan, Loop


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegionReport:
    """One loop of the plan.

    Attributes:
      inside: Where it is: the loops and branches around it, outermost first.
      makes: Shapes and types of the arrays that it writes.
      dimension: The dimension of the first that is cut; None where chunks are summed up.
      length, chunk: Of that dimension.
      in_place: Whether it writes over what it reads.
      operations: Names of the operations in it, those that are no plain primitives.
      alive: Bytes alive around it.
      before, after: Bytes that it takes beside those, whole and in chunks.
      slowdown: Predicted, of itself: 0.1 for 10 percent.
    """

    inside: tuple[str, ...]
    makes: tuple[str, ...]
    dimension: int | None
    length: int
    chunk: int
    in_place: bool
    operations: tuple[str, ...]
    alive: int
    before: int
    after: int
    slowdown: float

    def __str__(self) -> str:
        where = " > ".join(self.inside) or "program"
        along = "summed over" if self.dimension is None else f"dimension {self.dimension} of"
        place = ", in place" if self.in_place else ""
        names = f" [{', '.join(self.operations)}]" if self.operations else ""
        return (
            f"{where}: {', '.join(self.makes)}: {along} {self.length} in chunks of {self.chunk}{place}{names}; "
            f"{gib(self.before)} -> {gib(self.after)} beside {gib(self.alive)}, time {self.slowdown:+.0%}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explanation:
    """What was decided for a program, and what it costs.

    Attributes:
      target: Device kind.
      budget: Bytes.
      arguments: Bytes of arguments, which count.
      before, after: Peak in bytes, by estimate, arguments and results included.
      slowdown: Predicted for the whole program.
      regions: What runs in chunks, in order.
    """

    target: str
    budget: int
    arguments: int
    before: int
    after: int
    slowdown: float
    regions: tuple[RegionReport, ...]

    @property
    def summary(self) -> str:
        """In one line."""
        return (
            f"{gib(self.after)} instead of {gib(self.before)} on {self.target}, budget {gib(self.budget)}: "
            f"{len(self.regions)} loops, predicted time {self.slowdown:+.1%}"
        )

    def __str__(self) -> str:
        return "\n".join([self.summary, *(f"  {region}" for region in self.regions)])


def explain(plan: LevelPlan, arguments: int, budget: int, scheduler) -> Explanation:
    """Describes a plan.

    Args:
      scheduler: Who made it; remembers what regions take as a whole.
    """
    return Explanation(
        target=scheduler.target.name,
        budget=budget,
        arguments=arguments,
        before=arguments + plan.whole.bytes,
        after=arguments + plan.peak,
        slowdown=plan.seconds / plan.whole.seconds - 1 if plan.whole.seconds else 0.0,
        regions=tuple(_report(loop, arguments, scheduler) for loop in plan.loops()),
    )


def _report(loop: Loop, arguments: int, scheduler) -> RegionReport:
    region, size = loop.region, loop.entry.size
    whole, cut = (scheduler.measure(region, length) for length in (region.length, size))
    first = region.roots[0]
    return RegionReport(
        inside=tuple(e.name + (f" x {e.times}" if e.name == "scan" else "") for e in loop.inside),
        makes=tuple(root.value.aval.str_short() for root in region.roots),
        dimension=first.dim,
        length=region.length,
        chunk=size,
        in_place=bool(loop.entry.in_place),
        operations=tuple(dict.fromkeys(step.equation.origin for step in region.steps if step.equation.origin)),
        alive=arguments + loop.around,
        before=whole.bytes,
        after=cut.bytes,
        slowdown=cut.seconds / whole.seconds - 1 if whole.seconds else 0.0,
    )
