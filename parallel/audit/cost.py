"""What an instruction costs on a machine: a roofline for compute, bandwidth and latency for collectives."""

import dataclasses
import math
import re

from parallel.audit.hlo import Computation, Instruction, Module

# Nothing is computed: names for parts of what lies in memory already, or work on the host.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "partition-id", "replica-id", "after-all",
    "opt-barrier", "add-dependency", "iota", "get-dimension-size",
}  # fmt: skip
_GEMM_TARGETS = ("gemm", "matmul", "$dot")
_VIEWS = ("bitcast", "get-tuple-element")
_OPERATION = re.compile(r"op\.\w+")
# As XLA writes it of its own products, and of a library's.
_HIGHEST = re.compile(r'operand_precision(?:=\{|":\[")highest', re.IGNORECASE)
_SLICES = ("dynamic-slice", "slice", "gather")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """Rates of one device and of the links between devices; the defaults are an H200's, as far as it reaches them.

    Attributes:
      matmul_tflops: TFLOP/s of matrix products in 16 bits.
      matmul_tf32_tflops: The same of float32 products at JAX's default precision: in TF32.
      matmul_float32_tflops: The same of float32 products at the highest precision, which no tensor core does.
      memory_tbs: TB/s of device memory.
      link_gbs: GB/s that a device sends, and at the same time receives, within a node.
      network_gbs: The same between nodes.
      latency_us: Microseconds that a collective takes at least.
      devices_per_node: Devices with fast links among them.
    """

    matmul_tflops: float = 790.0
    matmul_tf32_tflops: float = 395.0
    matmul_float32_tflops: float = 50.0
    memory_tbs: float = 4.3
    link_gbs: float = 0.8 * 450.0
    network_gbs: float = 0.8 * 50.0
    latency_us: float = 10.0
    devices_per_node: int = 8

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(f"{field.name}={getattr(self, field.name)}: accepted are numbers above 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What an instruction does on one device.

    Attributes:
      flops, tf32_flops, float32_flops: Of matrix products in 16 bits, and in float32 at the default and the highest
        precision.
      bytes: Read from memory and written to it.
    """

    flops: float = 0.0
    tf32_flops: float = 0.0
    float32_flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in dataclasses.fields(Work)})

    def seconds(self, machine: Machine) -> float:
        """Whichever takes longer, arithmetic or memory."""
        arithmetic = (
            self.flops / machine.matmul_tflops
            + self.tf32_flops / machine.matmul_tf32_tflops
            + self.float32_flops / machine.matmul_float32_tflops
        )
        return max(arithmetic, self.bytes / machine.memory_tbs) / 1e12


def within_operations(computation: Computation) -> frozenset[str]:
    """Arrays that nothing outside the operation that makes them reads: a fused kernel would not store them.

    The model's operations stand in scopes whose names begin with `op.`.
    """
    users: dict[str, list[Instruction]] = {instruction.name: [] for instruction in computation.instructions}
    for instruction in computation.instructions:
        for operand in instruction.operands:
            users.get(operand, []).append(instruction)

    def stays(instruction: Instruction, scope: str) -> bool:
        return bool(users[instruction.name]) and all(
            stays(user, scope) if user.opcode in _VIEWS else _operation(user) == scope
            for user in users[instruction.name]
        )

    found: set[str] = set()
    for instruction in computation.instructions:
        scope = _operation(instruction)
        is_view_of_one = instruction.opcode in _VIEWS and not found.isdisjoint(instruction.operands)
        if is_view_of_one or (scope and instruction.opcode not in _VIEWS and stays(instruction, scope)):
            found.add(instruction.name)
    return frozenset(found)


def _operation(instruction: Instruction) -> str | None:
    match = _OPERATION.search(instruction.source)
    return match[0] if match else None


def compute(
    instruction: Instruction, computation: Computation, module: Module, kept: frozenset[str] = frozenset()
) -> Work:
    """The work of an instruction that is neither a collective nor runs other computations by itself.

    Args:
      kept: Arrays that are taken to stay on the chip, neither written to memory nor read from it.
    """
    if instruction.opcode in _FREE or instruction.opcode.endswith(("-done", "-update")):
        return Work()
    by_name = computation.by_name()
    operands = [by_name[name] for name in instruction.operands]
    if instruction.opcode == "fusion":
        return _fusion(instruction, operands, module, kept)
    products = _product(instruction, operands)
    if instruction.opcode in _SLICES:
        return Work(bytes=2 * instruction.bytes)
    if instruction.opcode == "dynamic-update-slice":
        return Work(bytes=2 * operands[1].bytes)
    moved = sum(array.bytes for array in (instruction, *operands) if array.name not in kept)
    return dataclasses.replace(products, bytes=float(moved))


def _fusion(fusion: Instruction, operands: list[Instruction], module: Module, kept: frozenset[str]) -> Work:
    """Matrix products inside; bytes of what enters and leaves, of a large array's slice only that."""
    body = module.computations[fusion.called[0]]
    inside = body.by_name()
    work = Work()
    for instruction in body.instructions:
        work += _product(instruction, [inside[name] for name in instruction.operands])
        if instruction.opcode == "fusion":
            nested = _fusion(instruction, [inside[name] for name in instruction.operands], module, kept)
            work += dataclasses.replace(nested, bytes=0.0)
    parameters = [instruction for instruction in body.instructions if instruction.opcode == "parameter"]
    parameters.sort(key=lambda parameter: int(parameter.literal))
    read = sum(
        _read(parameter, body)
        for parameter, operand in zip(parameters, operands, strict=True)
        if operand.name not in kept
    )
    written = 0 if fusion.name in kept else _written(body.root, inside)
    return dataclasses.replace(work, bytes=float(read + written))


def _read(parameter: Instruction, body: Computation) -> int:
    """Bytes of a fusion's parameter that it reads."""
    names, total = {parameter.name}, 0
    for user in body.instructions:
        if not names & set(user.operands):
            continue
        if user.opcode in ("bitcast", "copy", "reshape"):
            names.add(user.name)
        elif user.opcode in _SLICES and user.operands[0] in names:
            total += user.bytes
        elif user.opcode == "dynamic-update-slice" and user.operands[0] in names:
            continue  # updated in place: what is not overwritten is not touched
        else:
            return parameter.bytes
    return min(total, parameter.bytes)


def _written(root: str, inside: dict[str, Instruction]) -> int:
    instruction = inside[root]
    if instruction.opcode == "tuple":
        return sum(_written(name, inside) for name in instruction.operands)
    if instruction.opcode == "bitcast":
        return _written(instruction.operands[0], inside)
    if instruction.opcode == "dynamic-update-slice":
        return inside[instruction.operands[1]].bytes
    return instruction.bytes


def _product(instruction: Instruction, operands: list[Instruction]) -> Work:
    """Floating-point operations of a matrix product, two for each multiplication; 0 for all else."""
    if instruction.opcode == "dot":
        left, right = operands[0].shapes[0], operands[1].shapes[0]
        contracted = math.prod(left.dims[axis] for axis in instruction.integers("lhs_contracting_dims"))
        flops = 2.0 * instruction.shapes[0].elements * contracted
    elif instruction.opcode == "custom-call" and _is_gemm(instruction):
        left, right = operands[0].shapes[0], operands[1].shapes[0]
        # Of m x k, k x n and m x n, whatever is batched or transposed: the product is (mkn)².
        batch = _batch(instruction)
        sizes = (left.elements / batch) * (right.elements / batch) * (instruction.shapes[0].elements / batch)
        flops = 2.0 * batch * math.sqrt(sizes)
    else:
        return Work()
    if not left.dtype == right.dtype == "f32":
        return Work(flops=flops)
    return Work(float32_flops=flops) if _HIGHEST.search(instruction.attributes) else Work(tf32_flops=flops)


def _is_gemm(instruction: Instruction) -> bool:
    target = instruction.attributes.partition('custom_call_target="')[2].partition('"')[0]
    return any(part in target for part in _GEMM_TARGETS)


def _batch(instruction: Instruction) -> int:
    dims = instruction.shapes[0].dims
    return math.prod(dims[:-2])


_SENT = {
    "all-to-all": lambda size, n: size * (n - 1) / n,
    "all-gather": lambda size, n: size * (n - 1) / n,
    "reduce-scatter": lambda size, n: size * (n - 1) / n,
    "all-reduce": lambda size, n: 2 * size * (n - 1) / n,
    "collective-permute": lambda size, n: size,
    "collective-broadcast": lambda size, n: size,
}


def collective_kind(instruction: Instruction) -> str | None:
    """`all-to-all` and so on for an instruction that begins one, synchronous or not; None for any other."""
    name = instruction.opcode.removesuffix("-start")
    return name if name in _SENT else None


def bytes_sent(kind: str, whole_bytes: int, devices: int) -> float:
    """Bytes that each device sends (and receives) where the collective moves data along rings or directly.

    Args:
      whole_bytes: Of a device's operand or its result, whichever is larger.
      devices: How many exchange with each other.
    """
    return _SENT[kind](whole_bytes, devices) if devices > 1 else 0.0


def collective_seconds(sent: float, group: tuple[int, ...], machine: Machine) -> float:
    """Time of a collective within a group of devices, numbered node by node.

    Across nodes every device of a node sends its share over its own network adapter.
    """
    if len(group) < 2:
        return 0.0
    nodes = {device // machine.devices_per_node for device in group}
    seconds = sent / (machine.link_gbs * 1e9) if len(nodes) < len(group) else 0.0
    if len(nodes) > 1:
        seconds = max(seconds, sent * len(nodes) / len(group) / (machine.network_gbs * 1e9))
    return seconds + machine.latency_us * 1e-6
