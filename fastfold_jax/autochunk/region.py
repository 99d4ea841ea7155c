"""Regions: what has to run for a chunk of some values, found by walking back from them."""

import dataclasses
import functools
import heapq
from collections.abc import Callable, Hashable, Iterator, Sequence

from fastfold_jax.autochunk.operation_rules import rule_of
from fastfold_jax.autochunk.program import Equation, Level, Value
from fastfold_jax.autochunk.rules import Rule, length_on
from fastfold_jax.autochunk.windows import Chunk, Fixed, Window, chunk_part, moving


@dataclasses.dataclass(frozen=True)
class Root:
    """A value that a region makes whole, chunk by chunk.

    Attributes:
      value: What is made.
      dim: The dimension its chunks are put on; None where results of chunks are combined, as in a sum.
      reads: The windows of its equation's inputs, for a combined one.
      length: Of the dimension that is cut.
      name: The primitive that makes it.
    """

    value: Value
    dim: int | None
    reads: tuple[Window, ...]
    length: int
    name: str = ""

    @property
    def window(self) -> Window:
        """The part of the value that one chunk is."""
        return () if self.dim is None else ((self.dim, Chunk()),)


@dataclasses.dataclass(eq=False)
class Step:
    """One equation on a window of its results; inputs are (value, window)."""

    equation: Equation
    index: int
    window: Window
    inputs: list[tuple[Value, Window]]


@dataclasses.dataclass(eq=False)
class Region:
    """Equations that run together, chunk by chunk.

    Attributes:
      roots: What it makes.
      steps: What runs for each chunk, in order.
      sources: Every value read that it does not make, with the windows that are read.
      length: Of the dimension that is cut.
    """

    roots: tuple[Root, ...]
    steps: list[Step]
    sources: dict[Value, set[Window]]
    length: int

    @functools.cached_property
    def identity(self) -> Hashable:
        """Equal for regions that make the same by the same steps."""
        return self.roots, tuple((step.index, step.window) for step in self.steps)

    @functools.cached_property
    def made_within(self) -> frozenset[Value]:
        """What its steps make and only they read."""
        made = {value for step in self.steps for value in step.equation.outputs}
        return frozenset(made.difference(root.value for root in self.roots))

    def in_place(self, root: Root) -> list[Value]:
        """Values whose memory could become the root's: read at the very place that is written, and nowhere else."""
        return [
            value
            for value, windows in self.sources.items()
            if value.literal is None
            and value.shape == root.value.shape
            and value.aval.dtype == root.value.aval.dtype
            and root.dim is not None
            and all((root.dim, Chunk()) in w for w in windows)
        ]


def options(equation: Equation, value: Value) -> Iterator[Root]:
    """All ways to make an equation's result chunk by chunk."""
    rule = rule_of(equation)
    if rule is None:
        return
    for dim, length in enumerate(value.shape):
        if length > 1 and rule.flow(equation, ((dim, Chunk()),)) is not None:
            yield Root(value, dim, (), length, equation.name)
    if rule.reduced is not None:
        for windows in rule.reduced(equation):
            length = length_on(equation, windows)
            if length > 1:
                yield Root(value, None, tuple(windows), length, equation.name)


def walk(level: Level, roots: Sequence[Root], stop: Callable[[Value], bool], *, through_whole: bool = False) -> Region:
    """The region that makes some values.

    Args:
      level: Where the values are.
      roots: What to make.
      stop: Values that will exist whole, to be read and not made.
      through_whole: Follow values that are needed whole, too, instead of reading them.
    """
    found = _Walk(level, roots, stop, through_whole)
    while found.queue:
        found.step_back()
    found.steps.reverse()
    return Region(tuple(roots), found.steps, found.sources, min(root.length for root in roots))


class _Walk:
    """Goes back from roots to what is only read, an equation at a time, the last first."""

    def __init__(self, level: Level, roots: Sequence[Root], stop: Callable[[Value], bool], through_whole: bool):
        self.level, self.stop, self.through_whole = level, stop, through_whole
        self.tops = {root.value: root for root in roots}
        self.steps: list[Step] = []
        self.sources: dict[Value, set[Window]] = {}
        self.queue: list[int] = []
        self._queued: set[int] = set()
        self._demands: dict[Value, set[Window]] = {}
        for root in roots:
            self._make(root.value, root.window)

    def step_back(self) -> None:
        """Adds the steps of the last equation of which something is demanded."""
        index = -heapq.heappop(self.queue)
        equation = self.level.equations[index]
        for w in joined(self._wanted(equation)):
            reads = self._reads(equation, w)
            if reads is None:
                for out in equation.outputs:
                    if out in self._demands:
                        self.sources.setdefault(out, set()).update(self._demands[out])
                continue
            inputs = list(zip(equation.inputs, reads, strict=True))
            self.steps.append(Step(equation, index, w, inputs))
            for value, read in inputs:
                self._demand(value, read)

    def _demand(self, value: Value, w: Window) -> None:
        """Has a value read or made."""
        if value.literal is not None:
            return
        whole = not (moving(w) or self.through_whole)
        if value.source is None or (self.stop(value) and value not in self.tops) or whole:
            self.sources.setdefault(value, set()).add(w)
        else:
            self._make(value, w)

    def _make(self, value: Value, w: Window) -> None:
        self._demands.setdefault(value, set()).add(w)
        assert value.source is not None
        if value.source not in self._queued:
            self._queued.add(value.source)
            heapq.heappush(self.queue, -value.source)

    def _wanted(self, equation: Equation) -> set[Window]:
        """Windows of the results that are to be made."""
        wanted: set[Window] = set()
        for out in equation.outputs:
            if out in self.sources and out not in self.tops:  # needed whole by another step: read
                self.sources[out] |= self._demands.pop(out, set())
            wanted |= self._demands.get(out, set())
        return wanted

    def _reads(self, equation: Equation, w: Window) -> Sequence[Window] | None:
        """The windows of the inputs, None where the results cannot be made in parts."""
        top = next((self.tops[out] for out in equation.outputs if out in self.tops), None)
        if top is not None and top.reads:
            return top.reads
        rule = rule_of(equation)
        reads = _flow(rule, equation, w) if rule is not None and _same_shapes(equation) else None
        return [()] * len(equation.inputs) if reads is None and self.through_whole else reads


def joined(windows: set[Window]) -> list[Window]:
    """Windows to compute: several fixed parts for the same chunk are computed as one and cut after."""
    groups: dict[Window, set[Window]] = {}
    for w in windows:
        groups.setdefault(chunk_part(w), set()).add(w)
    return [part if len(group) > 1 else next(iter(group)) for part, group in groups.items()]


def overlap(one: Window, other: Window) -> bool:
    """Whether two windows may have elements in common, judged by their fixed parts."""
    spans = dict(other)
    for dim, mine in one:
        theirs = spans.get(dim)
        if not (isinstance(mine, Fixed) and isinstance(theirs, Fixed)):
            continue
        if mine.start + mine.length <= theirs.start or theirs.start + theirs.length <= mine.start:
            return False
    return True


def _flow(rule: Rule, equation: Equation, w: Window) -> list[Window] | None:
    """The windows of the inputs, remembered: planning asks for the same again and again."""
    if w not in equation.flows:
        equation.flows[w] = rule.flow(equation, w)
    return equation.flows[w]


def _same_shapes(equation: Equation) -> bool:
    return all(out.shape == equation.outputs[0].shape for out in equation.outputs)
