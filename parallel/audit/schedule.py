"""Plays a compiled program's schedule through: when each collective runs, and which compute hides it.

Two resources work side by side, the compute stream and the links. A collective begins when its start is reached and the
one before it is done; compute goes on until it reaches the collective's done, and waits there for what is missing.
"""

import dataclasses

from parallel.audit.cost import (
    Machine,
    bytes_sent,
    collective_kind,
    collective_seconds,
    compute,
    within_operations,
)
from parallel.audit.hlo import Computation, Instruction, Module


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """One collective of a computation.

    Attributes:
      kind: `all-to-all` and so on.
      source: Where in the JAX program it comes from.
      devices: How many exchange with each other.
      bytes: Sent by each device.
      seconds: From its begin on the links to its end.
      between: Seconds of compute between its start and its done.
      exposed: Seconds that compute waits for it.
    """

    kind: str
    source: str
    devices: int
    bytes: float
    seconds: float
    between: float
    exposed: float

    @property
    def hidden_bytes(self) -> float:
        """The share of its bytes that nothing waits for."""
        return self.bytes * (1.0 - min(self.exposed / self.seconds, 1.0)) if self.seconds else self.bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timeline:
    """One run of a computation.

    Attributes:
      name: The computation's.
      trips: How often it runs where it is a loop's body.
      seconds: One run, waits and inner loops included.
      compute: Seconds of compute in it, inner loops included.
      collectives: Its own, in the order started.
      loops: Computations that it runs as loops or calls.
    """

    name: str
    trips: int
    seconds: float
    compute: float
    collectives: tuple[Collective, ...]
    loops: tuple["Timeline", ...]

    @property
    def bytes(self) -> float:
        """Sent by each device in one run, without inner loops."""
        return sum(collective.bytes for collective in self.collectives)

    @property
    def exposed(self) -> float:
        """Seconds that compute waits in one run, without inner loops."""
        return sum(collective.exposed for collective in self.collectives)

    def all(self) -> list[tuple[int, "Timeline"]]:
        """This and all inner timelines, each with how often it runs in all."""
        inner = [(self.trips * times, timeline) for loop in self.loops for times, timeline in loop.all()]
        return [(self.trips, self), *inner]


def play(module: Module, machine: Machine, *, fused: bool = False) -> Timeline:
    """The whole program's timeline.

    Args:
      fused: As if each of the model's operations were one kernel that keeps to the chip what it alone reads.
    """
    return _Player(module, machine, fused).play(module.entry, trips=1)


def durations(module: Module, machine: Machine, *, fused: bool = False) -> dict[str, float]:
    """Seconds that each instruction takes by itself, by name; a collective's stand with its start.

    Args:
      fused: See `play`.
    """
    player = _Player(module, machine, fused)
    player.play(module.entry, trips=1)
    return player.durations


@dataclasses.dataclass
class _Running:
    instruction: Instruction
    kind: str
    sent: float
    devices: int
    seconds: float
    ends: float
    compute_before: float


class _Clock:
    """The two resources while one computation runs, and what has run.

    Attributes:
      now: Seconds since its beginning.
      links: When they are free, in the same seconds.
      computed: Seconds of compute so far.
    """

    def __init__(self):
        self.now = self.links = self.computed = 0.0
        self.collectives: list[Collective] = []
        self.loops: list[Timeline] = []

    def run(self, seconds: float, compute: float) -> None:
        """Something on the compute stream, with so many seconds of compute in it."""
        self.now += seconds
        self.computed += compute

    def wait(self, item: _Running) -> None:
        """Compute reaches the collective's done."""
        exposed = max(0.0, item.ends - self.now)
        self.now += exposed
        self.collectives.append(
            Collective(
                kind=item.kind,
                source=item.instruction.source,
                devices=item.devices,
                bytes=item.sent,
                seconds=item.seconds,
                between=self.computed - item.compute_before,
                exposed=exposed,
            )
        )

    def timeline(self, name: str, trips: int) -> Timeline:
        """All of it, at the end."""
        return Timeline(
            name=name,
            trips=trips,
            seconds=max(self.now, self.links),
            compute=self.computed,
            collectives=tuple(self.collectives),
            loops=tuple(self.loops),
        )


class _Player:
    def __init__(self, module: Module, machine: Machine, fused: bool):
        self._module = module
        self._machine = machine
        self._fused = fused
        self.durations: dict[str, float] = {}

    def play(self, name: str, *, trips: int) -> Timeline:
        computation = self._module.computations[name]
        kept = within_operations(computation) if self._fused else frozenset()
        clock = _Clock()
        running: dict[str, _Running] = {}
        for instruction in computation.instructions:
            if (kind := self._kind(instruction)) is not None:
                item = self._begin(instruction, kind, computation, clock)
                self.durations[instruction.name] = item.seconds
                if self._is_start(instruction):
                    running[instruction.name] = item
                else:
                    clock.wait(item)
            elif started := self._started(instruction, running):
                clock.wait(running.pop(started))
            elif instruction.opcode in ("while", "call", "conditional") and instruction.called:
                loop = self._inner(instruction)
                clock.loops.append(loop)
                clock.run(loop.trips * loop.seconds, loop.trips * loop.compute)
            else:
                seconds = compute(instruction, computation, self._module, kept).seconds(self._machine)
                self.durations[instruction.name] = seconds
                clock.run(seconds, seconds)
        return clock.timeline(name, trips)

    def _inner(self, instruction: Instruction) -> Timeline:
        """A loop's body, a call, or the longest of a conditional's branches."""
        if instruction.opcode == "while":
            body = instruction.attributes.partition("body=")[2].lstrip("%").split(",")[0].split()[0]
            return self.play(body, trips=instruction.trip_count)
        return max((self.play(name, trips=1) for name in instruction.called), key=lambda branch: branch.seconds)

    def _begin(self, instruction: Instruction, kind: str, computation: Computation, clock: _Clock) -> _Running:
        source = self._wrapped(instruction) or instruction
        groups = source.groups
        pairs = kind == "collective-permute"
        everyone = tuple(range(self._module.num_partitions))
        group = everyone if pairs or not groups else max(groups, key=len)
        by_name = computation.by_name()
        operands = sum(by_name[name].bytes for name in instruction.operands)
        # A start makes its operands and results as one tuple; some kinds' operand, others' result is the whole.
        results = instruction.bytes - (operands if self._is_start(instruction) else 0)
        sent = bytes_sent(kind, max(operands, results), len(group))
        seconds = collective_seconds(sent, group, self._machine)
        clock.links = max(clock.now, clock.links) + seconds
        return _Running(
            instruction=source,
            kind=kind,
            sent=sent,
            devices=len(group),
            seconds=seconds,
            ends=clock.links,
            compute_before=clock.computed,
        )

    def _wrapped(self, instruction: Instruction) -> Instruction | None:
        """The collective inside a generic `async-start`."""
        if instruction.opcode != "async-start" or not instruction.called:
            return None
        inside = self._module.computations[instruction.called[0]].instructions
        return next((inner for inner in inside if collective_kind(inner) is not None), None)

    def _kind(self, instruction: Instruction) -> str | None:
        return collective_kind(self._wrapped(instruction) or instruction)

    @staticmethod
    def _is_start(instruction: Instruction) -> bool:
        return instruction.opcode.endswith("-start")

    @staticmethod
    def _started(instruction: Instruction, running: dict[str, _Running]) -> str | None:
        if not instruction.opcode.endswith("-done"):
            return None
        return next((name for name in instruction.operands if name in running), None)
