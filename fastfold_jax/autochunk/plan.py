"""What runs chunk by chunk at one level of a program, in which order, and how large the chunks are."""

import dataclasses
import functools
import heapq
import operator
from collections.abc import Callable, Iterable

from fastfold_jax.autochunk.operation_rules import rule_of
from fastfold_jax.autochunk.operations import OPERATIONS
from fastfold_jax.autochunk.primitives.collectives import COLLECTIVES
from fastfold_jax.autochunk.program import Level, Value
from fastfold_jax.autochunk.region import Region, Root, Step, options, overlap, walk

# Of a region's time, what it must save to run in one loop with another. Else what both need is kept whole instead: what
# only one of them needs would be in the other's way, and the steps of both in memory at once.
_WORTH_JOINING = 0.1
# What is a stream's part, or the same in another order or on another device.
_MOVED = frozenset(
    ("all_to_all", "concatenate", "name", "optimization_barrier", "reshape", "slice", "squeeze", "transpose")
)

# Equations worth more than the memory traffic of reading their inputs again.
COSTLY = COLLECTIVES | frozenset(("dot_general", "conv_general_dilated", "sort", "top_k", "cumsum", "fft"))


@dataclasses.dataclass(frozen=True)
class Decision:
    """How a value is made, instead of what seems best when only its own region is looked at.

    Attributes:
      option: Position among the value's `options`; None makes it whole, for whatever reads it.
    """

    value: Value
    option: int | None


@dataclasses.dataclass(frozen=True)
class Division:
    """What determines the regions of a program.

    Attributes:
      small: Bytes up to which a value is no concern.
      decisions: At most one a value.
    """

    small: int
    decisions: frozenset[Decision] = frozenset()

    def with_decision(self, decision: Decision) -> "Division":
        """The same with one decision more, or in another's place."""
        others = {other for other in self.decisions if other.value is not decision.value}
        return dataclasses.replace(self, decisions=frozenset(others | {decision}))


@dataclasses.dataclass(eq=False)
class Item:
    """What runs at once: one equation on whole arrays, or a region.

    Attributes:
      index: Position in the program, of its last equation.
      reads, makes: Values.
      region: None for a single equation.
      acts: Whether it does something besides, see `Equation`.
    """

    index: int
    reads: list[Value]
    makes: list[Value]
    region: Region | None = None
    acts: bool = False


def is_costly(step: Step) -> bool:
    """Whether computing it twice would be felt."""
    return step.equation.name in COSTLY or step.equation.primitive in OPERATIONS


class Partition:
    """Divides a level into items.

    Attributes:
      small: Bytes up to which a value is no concern.
      anchors: Values that are made whole whatever reads them.
      choices: For values made chunk by chunk, the position among their `options` instead of what seems best.
      effort: Equations looked at so far.
    """

    def __init__(self, level: Level, division: Division, score, seconds: Callable[[Region], float]):
        self.level, self.small, self.score, self.seconds = level, division.small, score, seconds
        self.anchors = set(residual_streams(level, self.small))
        self.anchors |= {decision.value for decision in division.decisions if decision.option is None}
        self.choices = {d.value: d.option for d in division.decisions if d.option is not None}
        self._ancestors = _ancestors(level)
        self._acting = [index for index, equation in enumerate(level.equations) if equation.acts]
        self.effort = 0

    def items(self) -> list[Item]:
        """The level's items, not yet in order."""
        self._heavy: set[Value] = set()
        self._frontier: set[Value] = set()
        self._weigh()
        self._known: set[Value] = set()
        self._joined: list[list[Value]] = []
        self._walked: dict[tuple[Root, ...], Region] = {}
        self._pending: dict[int, list[Value]] = {}
        queue: list[int] = []
        items: list[Item] = []

        def need(values: Iterable[Value]) -> None:
            waiting = list(values)
            while waiting:
                value = waiting.pop()
                if value.literal is not None or value.source is None or value in self._known:
                    continue
                self._known.add(value)
                equation = self.level.equations[value.source]
                if len(equation.outputs) == 1 and value.bytes <= self.small and value not in self._frontier:
                    # Nothing to cut: what it reads is needed at once, so that regions find it to join.
                    items.append(self._single(value.source))
                    waiting += items[-1].reads
                    continue
                if value.source not in self._pending:
                    heapq.heappush(queue, -value.source)
                self._pending.setdefault(value.source, []).append(value)

        need(self.level.outputs)
        for index in self._acting:
            items.append(self._single(index))
            self._known.update(items[-1].makes)
            need(items[-1].reads)
        while queue:
            index = -heapq.heappop(queue)
            wanted = self._pending.pop(index, [])
            if not wanted:  # joined another's region
                continue
            region = self._choose(wanted)
            if region is None:
                items.append(self._single(index))
            else:
                items.append(Item(index, list(region.sources), [root.value for root in region.roots], region))
            need(items[-1].reads)
        return items

    def _single(self, index: int) -> Item:
        equation = self.level.equations[index]
        reads = [v for v in equation.inputs if v.literal is None]
        return Item(index, reads, list(equation.outputs), acts=equation.acts)

    def _weigh(self) -> None:
        for equation in self.level.equations:
            barrier = rule_of(equation) is None
            inputs = [v for v in equation.inputs if v.literal is None and v.source is not None]
            if barrier:
                self.anchors.update(equation.outputs)
            for out in equation.outputs:
                if out in self.anchors:
                    continue
                if out.bytes > self.small:
                    self._heavy.add(out)
                elif any(v.bytes > self.small and v not in self.anchors for v in inputs):
                    self._frontier.add(out)
                    self._heavy.add(out)
                elif any(v in self._heavy for v in inputs):
                    self._heavy.add(out)

    def stop(self, value: Value) -> bool:
        """Whether a region reads a value instead of making it."""
        return value in self.anchors or value in self._known or value not in self._heavy

    def _choose(self, values: list[Value]) -> Region | None:
        """The best region that makes the values, results of one equation; None if there is none."""
        ways = self._ways(values)
        for value in self.choices.keys() & set(values):
            assert value.source is not None
            chosen = list(options(self.level.equations[value.source], value))[self.choices[value]]
            ways = [way for way in ways if chosen in way]
        if not ways:
            return None
        best = min(map(self._walk, ways), key=lambda region: self.score(region, self))
        return self._join(best)

    def _ways(self, values: list[Value]) -> list[list[Root]]:
        """All ways to make results of one equation chunk by chunk."""
        first, *others = values
        assert first.source is not None
        equation = self.level.equations[first.source]
        ways = [[root] for root in options(equation, first)]
        if not others:
            return ways
        # Several together along a dimension that all of them have.
        return [
            [*way, *(dataclasses.replace(way[0], value=value) for value in others)]
            for way in ways
            if way[0].dim is not None and all(value.shape == first.shape for value in others)
        ]

    def _walk(self, roots: list[Root]) -> Region:
        """The region, reading what other parts of the program need as well and what is costly to make twice."""
        before = self._walked.get(tuple(roots))
        if before is not None and self._known.isdisjoint(before.made_within):
            return before
        extra: set[Value] = set()
        while True:
            region = walk(self.level, roots, lambda v: self.stop(v) or v in extra)
            self.effort += len(region.steps)
            found = self._shared(region)
            if found is None:
                self._walked[tuple(roots)] = region
                return region
            extra.add(found)

    def _shared(self, region: Region) -> Value | None:
        """The first value that is costly, made by the region, and made again by what the region reads."""
        made = {root.value for root in region.roots}
        seeds = [v for v in region.sources if v.source is not None and v in self._heavy and v not in self.anchors]
        seeds = [v for v in seeds if v not in made]
        if not seeds:
            return None
        costly: set[Value] = set()
        for step in region.steps:
            if is_costly(step) or any(v in costly for v, _ in step.inputs):
                costly.update(step.equation.outputs)
        above = functools.reduce(operator.or_, (self._above(seed) for seed in seeds))
        candidates = [
            step
            for step in region.steps
            if above >> step.index & 1
            and not made.intersection(step.equation.outputs)
            and costly.intersection(step.equation.outputs)
        ]
        if not candidates:  # most often, and seen without the walk
            return None
        elsewhere = walk(
            self.level, [Root(v, None, (), 1) for v in seeds], self._stop_for_shared(seeds), through_whole=True
        )
        self.effort += len(elsewhere.steps)
        windows: dict[int, list] = {}
        for step in elsewhere.steps:
            windows.setdefault(step.index, []).append(step.window)
        read_here_alone = {v for step in region.steps if step.index not in windows for v, _ in step.inputs}
        for step in candidates:
            if not any(overlap(step.window, w) for w in windows.get(step.index, ())):
                continue
            for out in step.equation.outputs:
                if out in region.sources:  # read already; the step is there for another of its results
                    continue
                if out in read_here_alone:
                    return out
        return None

    def _stop_for_shared(self, seeds: list[Value]):
        chosen = set(seeds)
        return lambda v: (v in self.anchors or v not in self._heavy) and v not in chosen

    def _join(self, region: Region) -> Region:
        """Takes along other values that would need the same costly steps by themselves."""
        if self._acting:
            return region  # what runs together could need something done before the one and after the other
        for index in sorted(self._pending, reverse=True):
            values = self._pending[index]
            if values and self._independent(region, values[0]):
                joint = self._joint(region, values)
                if joint is not None:
                    region, self._pending[index] = joint, []
        if len(region.roots) > 1:
            self._joined.append([root.value for root in region.roots])
        return region

    def _above(self, value: Value) -> int:
        """The equations that a value depends on, as bits."""
        assert value.source is not None
        return self._ancestors[value.source]

    def _independent(self, region: Region, value: Value) -> bool:
        """Whether they can run together: neither needs the other, nor anything joined before that needs one of them."""

        def needs(one: Value, other: Value) -> bool:
            return bool(self._above(one) >> other.source & 1)  # type: ignore[operator]

        roots = [root.value for root in region.roots]
        if any(needs(root, value) for root in roots):
            return False
        roots.append(value)
        return not any(
            any(needs(one, root) for one in joined for root in roots)
            and any(needs(root, one) for one in joined for root in roots)
            for joined in self._joined
        )

    def _joint(self, region: Region, values: list[Value]) -> Region | None:
        mine = {s.index: s.window for s in region.steps if is_costly(s) or s.equation.outputs[0].bytes > self.small}
        above = self._above(values[0])
        if not any(above >> index & 1 for index in mine):
            return None
        for roots in self._ways(values):
            if roots[0].length != region.length:
                continue
            other = self._walk(roots)
            if not any(mine.get(step.index) == step.window for step in other.steps):
                continue
            joint = self._walk([*region.roots, *roots])
            if not set(joint.sources) <= set(region.sources) | set(other.sources):
                continue
            alone = self.seconds(other)
            if self.seconds(region) + alone - self.seconds(joint) >= _WORTH_JOINING * alone:
                return joint
        return None


def residual_streams(level: Level, small: int) -> list[Value]:
    """Values that another is added to again and again, as the residual stream of a transformer.

    Each can take the memory of the one before, so making it whole costs nothing. A stream goes on in its parts, and
    where devices exchange it.
    """
    found: list[Value] = []
    known = set(level.inputs)
    for equation in level.equations:
        if equation.bodies or equation.acts:
            known.update(equation.outputs)
            continue
        out = equation.outputs[0]
        if equation.name in _MOVED and out.bytes > small and known.intersection(equation.inputs):
            known.add(out)
            continue
        like = [v for v in equation.inputs if v.shape == out.shape and v.aval.dtype == out.aval.dtype]
        rule = OPERATIONS.get(equation.primitive)
        adds = equation.name in ("add", "add_any") or (rule is not None and rule.residual)
        if adds and out.bytes > small and known.intersection(like):
            known.add(out)
            found.append(out)
    return found


def _ancestors(level: Level) -> list[int]:
    """For each equation, the equations that it depends on, itself included, as bits."""
    bits: list[int] = []
    for index, equation in enumerate(level.equations):
        mask = 1 << index
        for value in equation.inputs:
            if value.source is not None:
                mask |= bits[value.source]
        bits.append(mask)
    return bits
