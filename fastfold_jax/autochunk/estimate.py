"""Memory and time of one chunk of a region, as XLA would run it: what it fuses takes no memory."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import jax

from fastfold_jax.autochunk.operations import OPERATIONS
from fastfold_jax.autochunk.primitives.collectives import COLLECTIVES
from fastfold_jax.autochunk.primitives.elementwise import ELEMENTWISE
from fastfold_jax.autochunk.program import Equation, Level, Value, num_bytes, read
from fastfold_jax.autochunk.region import Region, Step
from fastfold_jax.autochunk.target import Target
from fastfold_jax.autochunk.windows import Window, chunk_part, extent, moving

_VIEWS = frozenset(("reshape", "squeeze", "stop_gradient", "copy", "optimization_barrier", "name", "pvary"))
# XLA computes these inside of whatever reads them.
_FUSED = _VIEWS | frozenset(ELEMENTWISE) | {
    "broadcast_in_dim", "transpose", "slice", "dynamic_slice", "iota", "gather", "concatenate", "stack", "pad", "rev"
}  # fmt: skip
_EXPONENTIALS = frozenset(("exp", "exp2", "expm1", "logistic", "tanh", "erf", "log", "log1p"))

# What is read to make a value, over the value's own size, from where on XLA keeps it for several readers.
_DEAR = 1.75


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Memory and time of a chunk, a region, or a level.

    Attributes:
      bytes: Most memory at once beside sources and roots.
      seconds: Predicted time.
    """

    bytes: int
    seconds: float


def is_reduction(equation: Equation) -> bool:
    """Whether the equation folds a dimension of what it reads."""
    return equation.name.startswith(("reduce_", "arg")) and equation.name != "reduce_precision"


class _Node:
    """A window of a value: made by a step, or read from a source.

    Attributes:
      bytes: What it adds to memory while it lives.
      traffic: What is moved to read or to write it.
      fused: Computed inside of what reads it, unless that is a kernel.
      stored: In memory at some time.
      moving: Another for each chunk.
    """

    __slots__ = ("bytes", "elements", "fused", "inputs", "moving", "readers", "step", "stored", "traffic")

    def __init__(self, step: Step | None, elements: int, size: int, fused: bool):
        self.step, self.elements, self.fused = step, elements, fused
        self.bytes = self.traffic = size
        self.inputs: list[_Node] = []
        self.readers: list[_Node] = []
        self.stored, self.moving = False, True


def graph(region: Region, size: int) -> list[_Node]:
    """A node for each step, and one for each window of a source, in order of execution."""
    nodes: dict[tuple[Value, Window], _Node] = {}
    order: list[_Node] = []
    tops = {root.value for root in region.roots}
    for step in region.steps:
        shape = extent(step.equation.outputs[0].shape, step.window, size) if step.equation.outputs else ()
        total = sum(num_bytes(extent(o.shape, step.window, size), o.aval.dtype) for o in step.equation.outputs)
        node = _Node(step, math.prod(shape), total, step.equation.name in _FUSED)
        for value, w in step.inputs:
            if value.literal is not None:
                continue
            source = nodes.get((value, w)) or nodes.get((value, chunk_part(w)))
            if source is None:
                source = nodes[value, w] = _source(value, w, size)
                order.append(source)
            node.inputs.append(source)
            source.readers.append(node)
        for value in step.equation.outputs:
            nodes[value, step.window] = node
        order.append(node)
        if any(value in tops for value in step.equation.outputs) and node.fused:
            node.bytes = 0  # written to its place at once
    for node in reversed(order):
        needed = node.stored or any(not reader.fused and not _folds(reader) for reader in node.readers)
        if node.step is None:
            if not node.moving and not needed:
                node.traffic = 0  # what is repeated along a dimension is read as often when nothing is cut
            node.bytes = node.bytes if needed and node.moving else 0
            node.stored = True
        elif node.step.equation.name in _VIEWS and node.inputs and needed:
            node.inputs[0].stored, node.stored = True, False
        else:
            node.stored = needed or not node.fused or not node.readers
    return order


def _source(value: Value, w: Window, size: int) -> _Node:
    """A part of a value that lies in memory: it takes more only where a kernel needs the part by itself."""
    shape = extent(value.shape, w, size)
    node = _Node(None, math.prod(shape), num_bytes(shape, value.aval.dtype), True)
    node.moving = moving(w)
    return node


def _folds(node: _Node) -> bool:
    return node.step is not None and is_reduction(node.step.equation)


def _stored_inputs(order: Sequence[_Node]) -> dict[_Node, set[_Node]]:
    """For each node, what it reads from memory, through what is fused.

    What several read and is dearer to make again than to read, such as a residual sum, is stored after all.
    """
    reads: dict[_Node, set[_Node]] = {}
    for node in order:
        found: set[_Node] = set()
        for source in node.inputs:
            if source.stored:
                found.add(source)
            else:
                found |= reads[source]
        reads[node] = found
        if len(node.readers) > 1 and sum(source.traffic for source in found) > _DEAR * node.traffic:
            node.stored = True
    return reads


def _matmul_seconds(step: Step, target: Target, size: int) -> float:
    (left_contract, _), (left_batch, _) = step.equation.params["dimension_numbers"]
    (left, left_window), (right, right_window) = step.inputs
    lengths, rights = extent(left.shape, left_window, size), extent(right.shape, right_window, size)
    contracted = math.prod(lengths[d] for d in left_contract)
    batch = math.prod(lengths[d] for d in left_batch)
    rows, columns = (math.prod(x) // max(1, contracted * batch) for x in (lengths, rights))
    tiles = batch * math.ceil(rows / target.tile) * math.ceil(columns / target.tile)
    if tiles == 0:
        return 0.0
    padded = 2.0 * tiles * target.tile**2 * contracted
    if batch * min(rows, columns) < target.tile or min(rows, columns) == 1:
        padded = 2.0 * batch * rows * columns * contracted
    waves = math.ceil(tiles / target.units) * target.units / tiles
    rate = target.matmul if left.aval.dtype.itemsize <= 2 else target.matmul32
    return padded * min(waves, 4.0) / rate


def _seconds(node: _Node, reads: set[_Node], target: Target, size: int) -> float:
    assert node.step is not None
    name = node.step.equation.name
    exponentials = node.elements / target.exponentials if name in _EXPONENTIALS else 0.0
    if not node.stored:
        return exponentials
    moved = node.traffic + sum(source.traffic for source in reads)
    if name in COLLECTIVES:
        return moved / 2 / target.link + target.latency
    work = _matmul_seconds(node.step, target, size) if name == "dot_general" else 0.0
    if node.step.equation.primitive in OPERATIONS:
        work = (
            operation_seconds(node.step.equation, target)
            * node.elements
            / math.prod(node.step.equation.outputs[0].shape)
        )
    return max(work, moved / target.bandwidth) + target.launch + exponentials


@functools.lru_cache(maxsize=1024)
def _operation_level(equation: Equation, platform: str) -> Level:
    """The operation, opened."""
    rule = OPERATIONS[equation.primitive]
    specs = [jax.ShapeDtypeStruct(v.shape, v.aval.dtype) for v in equation.inputs]
    return read(jax.make_jaxpr(lambda *leaves: rule.reference(*leaves, **equation.params))(*specs), platform)


def operation_seconds(equation: Equation, target: Target) -> float:
    """Time of an operation that is a kernel: that of its products and exponentials."""
    total = 0.0
    for inner in _operation_level(equation, target.platform).equations:
        if inner.name == "dot_general":
            step = Step(inner, 0, (), [(value, ()) for value in inner.inputs])
            total += _matmul_seconds(step, target, 1)
        elif inner.name in _EXPONENTIALS:
            total += math.prod(inner.outputs[0].shape) / target.exponentials
    return total


def measure(region: Region, size: int, target: Target, inside: Mapping[int, int] | None = None) -> Estimate:
    """Memory and time of one chunk of a region; the whole length stands for no loop at all.

    Args:
      inside: Bytes that a step's own loops or branches take while it runs, by the number of its equation.
    """
    inside = inside or {}
    order = graph(region, size)
    reads = _stored_inputs(order)
    last: dict[_Node, int] = {}
    for position, node in enumerate(order):
        if node.stored:
            for source in reads[node]:
                last[source] = position
    live = peak = 0
    seconds = 0.0
    freed: dict[int, int] = {}
    for node, position in last.items():
        freed[position] = freed.get(position, 0) + node.bytes
    for position, node in enumerate(order):
        if node.stored:
            live += node.bytes
            peak = max(peak, live + (inside.get(node.step.index, 0) if node.step is not None else 0))
        if node.step is not None:
            seconds += _seconds(node, reads[node], target, size)
        live -= freed.get(position, 0)
        if node.stored and node not in last:
            live -= node.bytes
    return Estimate(peak, seconds)
