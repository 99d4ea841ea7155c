"""The order in which a level's items run, what is alive meanwhile, and the chunk sizes that fit beside it."""

import dataclasses
import heapq
import itertools
from collections.abc import Callable, Hashable, Iterator

from fastfold_jax.autochunk.estimate import Estimate, measure
from fastfold_jax.autochunk.plan import Division, Item, Partition
from fastfold_jax.autochunk.program import Equation, Level, Value, levels_of, scan_counts
from fastfold_jax.autochunk.region import Region, Step
from fastfold_jax.autochunk.target import Target
from fastfold_jax.autochunk.windows import Window

_SCORED_SHARE = 32
_HARDLY_LONGER = 1.02
_WORTH_A_REMAINDER = 1.01
_ALIGNED_FROM = 64
_SPARING_FROM = 0.25


@dataclasses.dataclass(eq=False)
class Placed:
    """An item, its chunks, and the memory around it.

    Attributes:
      size: Chunk; 0 for an equation on whole arrays, the length for a region that runs without a loop.
      in_place: For each root, the value whose memory it takes.
      bytes: Its own, beside what is alive.
      alive: Bytes alive when it runs, its results included.
      seconds: Predicted.
      waits: Whether it begins when all before it have ended: beside them it would not fit.
      inner: Plans of the levels inside, by parameter.
    """

    item: Item
    size: int = 0
    in_place: dict[Value, Value] = dataclasses.field(default_factory=dict)
    bytes: int = 0
    alive: int = 0
    seconds: float = 0.0
    waits: bool = False
    inner: dict[str, tuple["LevelPlan", ...]] = dataclasses.field(default_factory=dict)

    @property
    def chunked(self) -> bool:
        """Whether it is a loop."""
        return self.item.region is not None and self.size < self.item.region.length


@dataclasses.dataclass(eq=False)
class LevelPlan:
    """A level, planned.

    Attributes:
      peak: Bytes beside the level's inputs.
      seconds: Predicted, all iterations of loops inside included.
      whole: Peak and time without any chunk.
    """

    level: Level
    placed: list[Placed]
    peak: int
    seconds: float
    whole: Estimate

    @property
    def chunked(self) -> bool:
        """Whether anything in it runs chunk by chunk."""
        return next(self.loops(), None) is not None

    def loops(self, around: int = 0, inside: tuple[Equation, ...] = ()) -> Iterator["Loop"]:
        """The regions that run in chunks, in order, with those of the levels inside.

        Args:
          around: Bytes alive around this level.
          inside: The equations that this level is inside of.
        """
        for entry in self.placed:
            if entry.chunked:
                yield Loop(self, entry, around + entry.alive, inside)
            equation = self.level.equations[entry.item.index]
            for plan in (plan for plans in entry.inner.values() for plan in plans):
                yield from plan.loops(around + entry.alive, (*inside, equation))


@dataclasses.dataclass(frozen=True, eq=False)
class Loop:
    """A region that runs in chunks, and where.

    Attributes:
      plan: Of the level that it is in.
      entry: The region with its chunks.
      around: Bytes alive around it.
      inside: The loops and branches that it is inside of, outermost first.
    """

    plan: LevelPlan
    entry: Placed
    around: int
    inside: tuple[Equation, ...]

    @property
    def region(self) -> Region:
        """What runs."""
        assert self.entry.item.region is not None
        return self.entry.item.region


class Scheduler:
    """Plans levels for a target; remembers what it has planned.

    Attributes:
      effort: Equations looked at so far, which is what planning takes its time for.
    """

    def __init__(self, target: Target):
        self.target = target
        self._measured: dict[tuple[Hashable, int], Estimate] = {}
        self._plans: dict[tuple[int, int, Division], LevelPlan] = {}
        self._orders: dict[tuple[int, Division], list[Item]] = {}
        self._whole: dict[int, Estimate] = {}
        self._values: dict[int, set[Value]] = {}
        self.effort = 0

    def plan(self, level: Level, budget: int, overwritable: set[Value], division: Division) -> LevelPlan:
        """A level's plan: its regions with the largest chunks that fit.

        Args:
          budget: Bytes beside the level's inputs, rounded down to a multiple of what is small.
          overwritable: Inputs whose memory may be used again.
          division: What determines the regions.
        """
        budget = max(budget, 0) // division.small * division.small
        key = (id(level), budget, self._concerning(level, division))
        if key not in self._plans:
            if self.whole(level).bytes <= budget * _SPARING_FROM:
                self._plans[key] = self.unchanged(level)
            else:
                self._plans[key] = self._place(level, division, budget, overwritable)
        return self._plans[key]

    def _concerning(self, level: Level, division: Division) -> Division:
        """The division with only those decisions that are about the level or what is inside it."""
        if not division.decisions:
            return division
        values = self._inside(level)
        return Division(division.small, frozenset(d for d in division.decisions if d.value in values))

    def _inside(self, level: Level) -> set[Value]:
        if id(level) not in self._values:
            found = {value for equation in level.equations for value in equation.outputs}
            found.update(*(self._inside(body) for equation in level.equations for body in levels_of(equation)))
            self._values[id(level)] = found
        return self._values[id(level)]

    def _order(self, level: Level, division: Division) -> list[Item]:
        """The level's items, in order."""
        own = {value for equation in level.equations for value in equation.outputs}
        division = Division(division.small, frozenset(d for d in division.decisions if d.value in own))
        if (id(level), division) not in self._orders:
            partition = Partition(level, division, self._score, self._whole_seconds)
            self._orders[id(level), division] = arrange(partition.items())
            self.effort += partition.effort
        return self._orders[id(level), division]

    def unchanged(self, level: Level) -> LevelPlan:
        """The level as it is."""
        whole = self.whole(level)
        return LevelPlan(level, [], whole.bytes, whole.seconds, whole)

    def whole(self, level: Level) -> Estimate:
        """Memory and time of a level as it is."""
        if id(level) not in self._whole:
            steps = [Step(e, i, (), [(v, ()) for v in e.inputs]) for i, e in enumerate(level.equations)]
            sources: dict[Value, set[Window]] = {v: {()} for v in level.inputs}
            inside: dict[int, int] = {}
            seconds = 0.0
            for index, equation in enumerate(level.equations):
                if inner := [self.whole(body) for body in levels_of(equation)]:
                    seconds += equation.times * max(body.seconds for body in inner)
                    inside[index] = max(body.bytes for body in inner)
            estimate = measure(Region((), steps, sources, 1), 1, self.target, inside)
            self._whole[id(level)] = Estimate(estimate.bytes, estimate.seconds + seconds)
        return self._whole[id(level)]

    def measure(self, region: Region, size: int) -> Estimate:
        """Memory and time of a region in chunks of a size, and what remains."""
        chunk, (times, rest) = self._chunk(region, size), divmod(region.length, size)
        return Estimate(chunk.bytes, chunk.seconds * times + (self._chunk(region, rest).seconds if rest else 0.0))

    def _chunk(self, region: Region, size: int) -> Estimate:
        """Memory and time of one chunk, remembered."""
        key = (region.identity, size)
        if key not in self._measured:
            self._measured[key] = measure(region, size, self.target)
        return self._measured[key]

    def _whole_seconds(self, region: Region) -> float:
        """Time of a region that runs without a loop."""
        return self._chunk(region, region.length).seconds

    def _score(self, region: Region, partition: Partition) -> tuple:
        """What a way to cut costs, less is better: the least memory, values it needs whole included, times slowdown."""
        size = self._largest(region, partition.small * _SCORED_SHARE)
        slowdown = self.measure(region, size).seconds / max(self.measure(region, region.length).seconds, 1e-9)
        needed = sum(v.bytes for v in region.sources if not partition.stop(v))
        made = sum(root.value.bytes for root in region.roots if not region.in_place(root))
        strided = sum((root.dim or 0) for root in region.roots)
        return (needed + made + self._chunk(region, 1).bytes) * slowdown, strided

    def _place(self, level: Level, division: Division, budget: int, overwritable: set[Value]) -> LevelPlan:
        order = self._order(level, division)
        last: dict[Value, int] = {}
        for position, item in enumerate(order):
            for value in item.reads:
                last[value] = position
        for value in level.outputs:
            last[value] = len(order)
        alive: dict[Value, int] = {}
        peak, seconds = 0, 0.0
        placed = []
        side_by_side = 0  # bytes, if all items since the last that waited ran at once
        for position, item in enumerate(order):
            entry = Placed(item)
            free = {v for v in item.reads if last[v] == position and (v in alive or v in overwritable)}
            before = sum(alive.values())
            self._allocate(level, entry, free, alive)
            entry.alive = sum(alive.values())
            self._fill(level, entry, budget - entry.alive, division)
            peak, seconds = max(peak, entry.alive + entry.bytes), seconds + entry.seconds
            alone = max(0, entry.alive - before) + entry.bytes
            entry.waits = position > 0 and side_by_side + alone > budget
            side_by_side = alone + (before if entry.waits else side_by_side)
            placed.append(entry)
            for value in [v for v in alive if last.get(v, position) <= position]:
                del alive[value]
        return LevelPlan(level, placed, peak, seconds, self.whole(level))

    def _allocate(self, level: Level, entry: Placed, free: set[Value], alive: dict[Value, int]) -> None:
        """Makes room for an item's results, where possible in memory that it is the last to read."""
        item, taken = entry.item, set()
        if item.region is None:
            equation = level.equations[item.index]
            for out, source in _carried(equation):
                if source in free and source not in taken:
                    entry.in_place[out] = source
                    taken.add(source)
        else:
            for root in item.region.roots:
                for source in item.region.in_place(root):
                    if source in free and source not in taken:
                        entry.in_place[root.value] = source
                        taken.add(source)
                        break
        for value in item.makes:
            taken_from = entry.in_place.get(value)
            alive[value] = value.bytes if taken_from is None else alive.pop(taken_from, 0)

    def _fill(self, level: Level, entry: Placed, room: int, division: Division) -> None:
        """The largest chunks that fit into `room` bytes, or the plans of what is inside."""
        region = entry.item.region
        if region is not None:
            entry.size = self._size(region, room, in_place=bool(entry.in_place))
            estimate = self.measure(region, entry.size)
            entry.bytes, entry.seconds = estimate.bytes, estimate.seconds
            return
        equation = level.equations[entry.item.index]
        if not equation.bodies:
            step = Step(equation, entry.item.index, (), [(v, ()) for v in equation.inputs])
            entry.seconds = measure(Region((), [step], {}, 1), 1, self.target).seconds
            return
        for name, bodies in equation.bodies.items():
            plans = tuple(self.plan(body, room, _overwritable(equation, body), division) for body in bodies)
            entry.inner[name] = plans
            entry.bytes = max([entry.bytes, *(p.peak for p in plans)])
            entry.seconds += equation.times * max(p.seconds for p in plans)

    def _size(self, region: Region, room: int, *, in_place: bool) -> int:
        """The fastest chunk that fits, or a smaller one that takes hardly longer.

        A remainder is a second body to compile, and pays only where it saves some time. Where it does not read what the
        loop made, XLA begins it before this loop and others, beside which it then lies in memory. XLA packs the buffers
        of all steps into one block, where what a step takes without need is in another's way.
        """
        most = largest(region.length, lambda size: self._chunk(region, size).bytes <= room)
        size = suited(region.length, most)
        larger = most - most % 8 if most >= _ALIGNED_FROM else most
        faster = self.measure(region, larger).seconds * _WORTH_A_REMAINDER < self.measure(region, size).seconds
        if faster and (in_place or region.length % size):
            size = larger
        longest = self.measure(region, size).seconds * _HARDLY_LONGER
        while size > 1 and self._chunk(region, size).bytes > room * _SPARING_FROM:
            smaller = suited(region.length, size // 2)
            if self.measure(region, smaller).seconds > longest:
                break
            size = smaller
        return size

    def _largest(self, region: Region, room: int) -> int:
        return suited(region.length, largest(region.length, lambda size: self._chunk(region, size).bytes <= room))


def largest(length: int, fits: Callable[[int], bool]) -> int:
    """The largest size of chunk that fits; 1 if none does."""
    if fits(length):
        return length
    low, high = 1, length
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def suited(length: int, most: int) -> int:
    """A size of chunk up to `most`, where possible not much less, that divides the length or suits hardware."""
    for size in range(most, most // 2, -1):
        if length % size == 0 and (size % 8 == 0 or size < 8):
            return size
    return next(most - most % unit for unit in (128, 64, 32, 16, 8, 4, 2, 1) if most >= unit)


def arrange(items: list[Item]) -> list[Item]:
    """Items in an order in which each has what it reads, and whatever reads a value comes before who overwrites it."""
    maker = {value: i for i, item in enumerate(items) for value in item.makes}
    before: list[set[int]] = [{maker[v] for v in item.reads if v in maker} - {i} for i, item in enumerate(items)]
    ancestors: list[int] = [0] * len(items)
    by_index = sorted(range(len(items)), key=lambda i: items[i].index)
    for one, next_one in itertools.pairwise(i for i in by_index if items[i].acts):
        before[next_one].add(one)
    for i in _topological(before, by_index):
        for j in before[i]:
            ancestors[i] |= ancestors[j] | 1 << j
    readers: dict[Value, list[int]] = {}
    for i, item in enumerate(items):
        for value in item.reads:
            readers.setdefault(value, []).append(i)
    for i in by_index:
        region = items[i].region
        for root in region.roots if region is not None else ():
            for value in region.in_place(root) if region is not None else ():
                for j in readers[value]:
                    if j != i and not ancestors[j] >> i & 1 and not _reaches(before, j, i):
                        before[i].add(j)
    return [items[i] for i in _topological(before, by_index)]


def _reaches(before: list[set[int]], start: int, goal: int) -> bool:
    seen, stack = set(), [start]
    while stack:
        i = stack.pop()
        if i == goal:
            return True
        if i not in seen:
            seen.add(i)
            stack += before[i]
    return False


def _topological(before: list[set[int]], preference: list[int]) -> list[int]:
    rank = {i: r for r, i in enumerate(preference)}
    after: dict[int, list[int]] = {}
    waiting = [len(b) for b in before]
    for i, needed in enumerate(before):
        for j in needed:
            after.setdefault(j, []).append(i)
    ready = [(rank[i], i) for i, count in enumerate(waiting) if count == 0]
    heapq.heapify(ready)
    order = []
    while ready:
        _, i = heapq.heappop(ready)
        order.append(i)
        for j in after.get(i, ()):
            waiting[j] -= 1
            if waiting[j] == 0:
                heapq.heappush(ready, (rank[j], j))
    assert len(order) == len(before), "items depend on each other"
    return order


def _carried(equation: Equation) -> list[tuple[Value, Value]]:
    """(result, initial value) of what a loop carries."""
    if equation.name == "scan":
        consts, carry = scan_counts(equation.params, len(equation.inputs))
        return list(zip(equation.outputs[:carry], equation.inputs[consts : consts + carry], strict=True))
    if equation.name == "while":
        consts = equation.params["cond_nconsts"] + equation.params["body_nconsts"]
        return list(zip(equation.outputs, equation.inputs[consts:], strict=True))
    return []


def _overwritable(equation: Equation, body: Level) -> set[Value]:
    if equation.name == "scan":
        consts, carry = scan_counts(equation.params, len(equation.inputs))
        return set(body.inputs[consts : consts + carry])
    if equation.name == "while":
        return set(body.inputs[equation.params["body_nconsts"] :])
    return set()
