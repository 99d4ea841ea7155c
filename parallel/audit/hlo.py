"""Reads a compiled program's text: computations, and their instructions in the order they were scheduled in."""

import dataclasses
import json
import math
import re

_BITS = {"pred": 8, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"([a-z]+\d*[a-z0-9]*)\[([\d,<=]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"\s*([a-z][\w\-]*)\(")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"(?:branch_computations|called_computations|calls)=\{([^}]*)\}")
_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
_MESH = re.compile(r"mesh\[([^\]]*)\] \{([^}]*)\}")
_GROUPS = re.compile(rf"replica_groups=(\{{\{{.*?\}}\}}|\{{\}}|\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?|{_MESH.pattern})")
_PAIRS = re.compile(r"source_target_pairs=(\{\{.*?\}\})")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass(frozen=True)
class Shape:
    """One array: its element type and dimensions."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many numbers."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Their size; a type's bits stand in its name."""
        digits = re.search(r"\d+", self.dtype)
        bits = _BITS.get(self.dtype, int(digits[0]) if digits else 0)
        return self.elements * bits // 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instruction:
    """One step of a computation.

    Attributes:
      shapes: The arrays it makes: several where it makes a tuple.
      operands: Names of the instructions it reads.
      called: Names of computations it runs.
      literal: What stands in its parentheses: a parameter's number, for example.
      attributes: The rest of its line.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    called: tuple[str, ...]
    literal: str
    attributes: str

    @property
    def bytes(self) -> int:
        """Size of what it makes."""
        return sum(shape.bytes for shape in self.shapes)

    @property
    def source(self) -> str:
        """Where in the JAX program it comes from."""
        match = _NAME.search(self.attributes)
        return match[1] if match else ""

    @property
    def trip_count(self) -> int:
        """How often a loop runs; 1 where XLA does not know."""
        match = _TRIPS.search(self.attributes)
        return int(match[1]) if match else 1

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Devices that exchange with each other; empty for all of the program's."""
        match = _GROUPS.search(self.attributes) or _PAIRS.search(self.attributes)
        if match is None and (start := self.attributes.find("replica_groups=")) >= 0:
            raise ValueError(f"{self.name}: groups of devices in an unknown form: {self.attributes[start:][:80]}")
        return _parse_groups(match[1]) if match else ()

    def integers(self, attribute: str) -> tuple[int, ...]:
        """The numbers of an attribute such as `lhs_contracting_dims={2}`."""
        match = re.search(rf"\b{attribute}=\{{([\d,]*)\}}", self.attributes)
        return tuple(int(number) for number in match[1].split(",") if number) if match else ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Computation:
    """A sequence of instructions; the last one in the text is not always its result, `root` is."""

    name: str
    instructions: tuple[Instruction, ...]
    root: str

    def by_name(self) -> dict[str, Instruction]:
        """Its instructions by name."""
        return {instruction.name: instruction for instruction in self.instructions}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Module:
    """A whole program.

    Attributes:
      num_partitions: Devices that it runs on.
    """

    computations: dict[str, Computation]
    entry: str
    num_partitions: int


def parse(text: str) -> Module:
    """The program.

    Raises:
      ValueError: if the text is no scheduled HLO module.
    """
    header, _, rest = text.partition("\n")
    if not header.startswith("HloModule") or "is_scheduled=true" not in header:
        raise ValueError("not the text of a compiled program: its first line is no scheduled HLO module's")
    partitions = re.search(r"num_partitions=(\d+)", header)
    computations: dict[str, Computation] = {}
    lines: list[Instruction] = []
    entry, name, root = "", None, ""
    for line in rest.splitlines():
        if name is None:
            if start := _COMPUTATION.match(line):
                name, root, lines = start[2], "", []
                entry = name if start[1] else entry
        elif line.startswith("}"):
            computations[name] = Computation(name=name, instructions=tuple(lines), root=root)
            name = None
        elif match := _INSTRUCTION.match(line):
            lines.append(_instruction(match[1], match[2]))
            root = match[1] if line.lstrip().startswith("ROOT") else root
    if not entry:
        raise ValueError("a scheduled HLO module without an entry computation")
    return Module(computations=computations, entry=entry, num_partitions=int(partitions[1]) if partitions else 1)


def _instruction(name: str, text: str) -> Instruction:
    shape_text, rest = _split_type(text)
    opcode = _OPCODE.match(rest)
    assert opcode, text
    inside, attributes = _split_parentheses(rest[opcode.end() - 1 :])
    called = [*_CALLED.findall(attributes)]
    for group in _BRANCHES.findall(attributes):
        called += [branch.strip().lstrip("%") for branch in group.split(",") if branch.strip()]
    return Instruction(
        name=name,
        opcode=opcode[1],
        shapes=tuple(Shape(*_array(match)) for match in _ARRAY.finditer(shape_text)),
        operands=tuple(re.findall(r"%([\w.\-]+)", inside)),
        called=tuple(called),
        literal=inside,
        attributes=attributes,
    )


def _array(match: re.Match) -> tuple[str, tuple[int, ...]]:
    return match[1], tuple(int(size.lstrip("<=")) for size in match[2].split(",") if size)


def _split_type(text: str) -> tuple[str, str]:
    """A result's type and what follows it; a tuple's type stands in parentheses."""
    if text.startswith("("):
        inside, rest = _split_parentheses(text)
        return inside, rest
    kind, _, rest = text.partition(" ")
    return kind, rest


def _split_parentheses(text: str) -> tuple[str, str]:
    depth = 0
    for index, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[1:index], text[index + 1 :]
    raise ValueError(f"parentheses do not close: {text[:80]}")


def _parse_groups(text: str) -> tuple[tuple[int, ...], ...]:
    """`{{0,1},{2,3}}`; or `[2,2]<=[4]`, with an optional transposition `T(1,0)`; or `mesh['a'=2,'b'=2] {'b'}`."""
    if text.startswith("{"):
        return tuple(tuple(json.loads(f"[{group}]")) for group in re.findall(r"\{([\d,]+)\}", text))
    if mesh := _MESH.fullmatch(text):
        return _groups_of_mesh(dict(re.findall(r"'([^']*)'=(\d+)", mesh[1])), re.findall(r"'([^']*)'", mesh[2]))
    shape, source, order = re.fullmatch(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text).groups()  # type: ignore[union-attr]
    rows, columns = (int(size) for size in shape.split(","))
    sizes = [int(size) for size in source.split(",")]
    axes = [int(axis) for axis in order.split(",")] if order else list(range(len(sizes)))
    return _rows(_transposed(sizes, axes), rows, columns)


def _groups_of_mesh(axes: dict[str, str], within: list[str]) -> tuple[tuple[int, ...], ...]:
    """Devices in the order of a mesh, those apart that differ in another than the given axes."""
    names, sizes = list(axes), [int(size) for size in axes.values()]
    order = [*(axis for axis in names if axis not in within), *within]
    columns = math.prod(sizes[names.index(axis)] for axis in within)
    flat = _transposed(sizes, [names.index(axis) for axis in order])
    return _rows(flat, len(flat) // columns, columns)


def _rows(flat: list[int], rows: int, columns: int) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(flat[row * columns : (row + 1) * columns]) for row in range(rows))


def _transposed(sizes: list[int], axes: list[int]) -> list[int]:
    """0, 1, 2, ... laid out in `sizes`, its axes put into another order, and read off again."""
    strides = [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
    flat = [0]
    for axis in axes:
        flat = [start + step * strides[axis] for start in flat for step in range(sizes[axis])]
    return flat
