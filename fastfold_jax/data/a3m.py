"""A3M: aligned columns in upper case, what is inserted between them in lower case.

Parsing is a few passes of C over blocks of whole records (split, translate, compare), never a Python step per letter.
A block that does not come out even is tidied (wrapped rows, comments, blank lines) and tried again; only what is then
still wrong is searched line by line, for the message.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int8, Integer, UInt8

from fastfold_jax.data.alignment import INVALID, Alignment, Source, letter_table, smallest_counts
from fastfold_jax.data.textfile import (
    BYTE_ORDER_MARK,
    END,
    InputError,
    at,
    normalise,
    normalise_part,
    opened,
    shown,
)

_BLOCK = 1 << 22  # bytes parsed at a time: scratch memory is a few times this, whatever the file's size
_ROW_END = 0xFE
_INSERTED = b"abcdefghijklmnopqrstuvwxyz."  # a2m's dots pad insertions of other rows; they mean nothing here
_CODES = bytes(_ROW_END if byte == ord("\n") else code for byte, code in enumerate(letter_table()))
_LETTERS = bytes(code for code in range(256) if _CODES[code] != INVALID and code != ord("\n")) + _INSERTED
_ACCEPTED = "accepted are the letters A to Z, '-' for a gap, and lower case for insertions"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """All rows of an A3M file, before anything is required of the first: see `Alignment` for the arrays."""

    residues: Int8[np.ndarray, "rows cols"]
    deletions: Integer[np.ndarray, "rows cols"]
    descriptions: tuple[str, ...]
    first: str  # row 0 as written


def parse_a3m(data: bytes, *, file: str, source: Source = "other") -> Alignment:
    """The alignment in an A3M text.

    Rows may be wrapped; blank lines and lines that begin with ``#`` or ``;`` are skipped. What is inserted after the
    last column of a row belongs to no column and is dropped, as in AlphaFold.

    Args:
        data: the file's content.
        file: its name, for messages.
        source: what it came from.

    Raises:
        InputError: the file is empty, binary or no A3M, rows differ in length, a letter is no amino acid, or the first
            row, which must be the query, has gaps or insertions.
    """
    reader = RowReader(file=file)
    for block in blocks(normalise(data, file=file)):
        reader.add(block)
    return reader.alignment(source)


def read_a3m(path: Path, *, source: Source, choose: Callable[[int], Integer[np.ndarray, " kept"]]) -> Alignment:
    """The chosen rows of an A3M file, which is never in memory as a whole.

    The file is read twice, first to count its rows. All rows are checked, and those that are kept parsed.

    Args:
        path: the file.
        source: what it came from.
        choose: from the number of rows, which to keep: their indices, ascending, 0 (the query) among them.

    Raises:
        InputError: as `parse_a3m`.
    """
    expected = sum(block.startswith(b">") + block.count(b"\n>") for block in file_blocks(path))
    while True:
        reader = RowReader(file=str(path), keep=choose(expected))
        for block in file_blocks(path):
            reader.add(block)
        if reader.count in (expected, 0):
            return reader.alignment(source)
        expected = reader.count  # headers that are indented were not counted


class RowReader:
    """Takes the text of an A3M file in blocks of whole records, checks all rows and keeps some.

    Args:
        file: its name, for messages.
        keep: indices of the rows to keep, ascending; None for all.
        look: told the residues of all rows, block after block.

    Attributes:
        count: rows so far, kept or not.
    """

    def __init__(
        self,
        *,
        file: str,
        keep: Integer[np.ndarray, " kept"] | None = None,
        look: Callable[[UInt8[np.ndarray, "rows cols"]], None] | None = None,
    ):
        self.count = 0
        self._file = file
        self._keep = keep
        self._look = look
        self._lines = 0
        self._query_line = 0
        self._width = 0
        self._first = b""
        self._residues: list[np.ndarray] = []
        self._deletions: list[np.ndarray] = []
        self._descriptions: list[str] = []

    def add(self, block: bytes) -> None:
        """The next block, which ends with a line.

        Raises:
            InputError: something in it is wrong.
        """
        self._query_line = self._query_line or self._lines + _first_row_line(block)
        lines = block.split(b"\n")
        lines.pop()  # what follows the last newline
        headers, rows = lines[0::2], lines[1::2]
        grid = _pack(headers, rows, self._width)
        if grid is None:
            headers, rows = _tidy(lines)
            grid = _pack(headers, rows, self._width)
        if grid is None:
            raise _fault(lines, self._lines, self._query_line, self._width, self._file)
        if not self._width:
            self._width, self._first = grid.shape[1] - 1, rows[0]
        if self._look:
            self._look(grid[:, :-1])
        self._take(headers, rows, grid)
        self.count += len(rows)
        self._lines += len(lines)

    def _take(self, headers: list[bytes], rows: list[bytes], grid: UInt8[np.ndarray, "rows width"]) -> None:
        """Parses those rows of a block that are kept."""
        if self._keep is not None:
            low, high = np.searchsorted(self._keep, [self.count, self.count + len(rows)])
            chosen = self._keep[low:high] - self.count
            if not chosen.size:
                return
            if chosen.size < len(rows):
                grid = grid[chosen]
                headers, rows = [headers[i] for i in chosen], [rows[i] for i in chosen]
        self._residues.append(grid[:, :-1].astype(np.int8))
        self._deletions.append(_deletions(b"\n".join(rows) + b"\n", grid.shape))
        self._descriptions += [header[1:].strip() for header in b"\n".join(headers).decode().split("\n")]

    def rows(self) -> Rows:
        """The rows that were kept."""
        if not self._residues:
            raise InputError(f"{self._file}: the file is empty")
        return Rows(
            residues=np.concatenate(self._residues),
            deletions=np.concatenate(self._deletions),
            descriptions=tuple(self._descriptions),
            first=self._first.replace(b".", b"").decode(),
        )

    def alignment(self, source: Source) -> Alignment:
        """The same as an alignment, of which the first row must be the query.

        Raises:
            InputError: it has gaps or insertions.
        """
        rows = self.rows()
        for position, letter in enumerate(rows.first, start=1):
            if not letter.isupper():
                what = "a gap" if letter == "-" else f"an insertion ({letter!r})"
                raise InputError(
                    f"{at(self._file, self._query_line)}: the first row, {shown(rows.descriptions[0])}, has {what} at "
                    f"letter {position}; it must be the query itself, in upper case and without gaps"
                )
        return Alignment(
            residues=rows.residues,
            deletions=rows.deletions,
            descriptions=rows.descriptions,
            source=source,
            query=rows.first,
        )


def blocks(text: bytes) -> Iterator[bytes]:
    """Runs of whole records, a little over `_BLOCK` bytes each; what precedes the first record goes with it."""
    start = 0
    first = 0 if text.startswith(b">") else text.find(b"\n>") + 1
    while start < len(text):
        end = text.find(b"\n>", max(start + _BLOCK, first)) + 1 or len(text)
        yield text[start:end]
        start = end


def file_blocks(path: Path) -> Iterator[bytes]:
    """The same of a file, with Unix line ends.

    Raises:
        InputError: the file cannot be read, or is binary.
    """
    lines = 0
    with opened(path) as file:
        rest = file.read(len(BYTE_ORDER_MARK)).removeprefix(BYTE_ORDER_MARK)
        while chunk := file.read(_BLOCK):
            text = rest + chunk
            # What precedes the first record goes with it, so the first block ends at the second header.
            first = 0 if lines or text.startswith(b">") else text.find(b"\n>") + 1
            end = text.rfind(b"\n>", first) + 1
            if end:
                yield normalise_part(text[:end], file=str(path), lines_before=lines)
                lines += text.count(b"\n", 0, end)
            rest = text[end:]
    rest = normalise_part(rest.rstrip(END), file=str(path), lines_before=lines)
    if rest and not rest.isspace():
        yield rest if rest.endswith(b"\n") else rest + b"\n"


def _pack(headers: list[bytes], rows: list[bytes], width: int) -> UInt8[np.ndarray, "rows width"] | None:
    """Residues of rows that are one line each, or None if anything is amiss.

    There is one column more than the alignment has: the line's end, which also takes what is inserted after the last
    column. With `width` 0 the first row tells how many columns there are.
    """
    if not rows or len(headers) != len(rows) or not all(header[:1] == b">" for header in headers):
        return None
    width = width or len(rows[0].translate(None, _INSERTED))
    codes = (b"\n".join(rows) + b"\n").translate(_CODES, _INSERTED)
    if not width or len(codes) != len(rows) * (width + 1) or INVALID in codes:
        return None
    grid = np.frombuffer(codes, np.uint8).reshape(len(rows), width + 1)
    return grid if (grid[:, -1] == _ROW_END).all() else None


def _deletions(joined: bytes, shape: tuple[int, int]) -> Integer[np.ndarray, "rows cols"]:
    """How many lower-case letters stand left of each column; `shape` counts the line's end as a column."""
    if b"." in joined:
        joined = joined.replace(b".", b"")
    inserted = np.flatnonzero(np.frombuffer(joined, np.uint8) >= ord("a"))
    # An inserted letter precedes the column whose number is the count of letters before it that are not inserted.
    column = inserted - np.arange(inserted.size)
    runs = np.flatnonzero(np.diff(column, prepend=-1))
    lengths = np.diff(runs, append=inserted.size)
    counts = np.zeros(shape[0] * shape[1], smallest_counts(lengths))
    counts[column[runs]] = lengths
    return counts.reshape(shape)[:, :-1]


def _tidy(lines: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Headers, and rows joined from their lines; without comments, blank lines, and blanks around lines."""
    headers: list[bytes] = []
    rows: list[list[bytes]] = []
    for raw in lines:
        line = raw.strip()
        if line.startswith(b">"):
            headers.append(line)
            rows.append([])
        elif line and not line.startswith((b"#", b";")):
            if not rows:
                return [], []  # text before the first header: not what this is for
            rows[-1].append(line)
    return headers, [b"".join(row) for row in rows]


def _fault(lines: list[bytes], number: int, query_line: int, width: int, file: str) -> InputError:
    """What is wrong in lines that could not be packed, `number` others before; with `width` 0 the first row sets it."""
    header: tuple[int, bytes] | None = None
    columns, letters = 0, b""
    for raw in [*lines, b">"]:  # the last one ends the last record
        number += 1
        line = raw.strip()
        if line.startswith(b">"):
            if header and columns != (width := width or columns):
                return InputError(
                    f"{at(file, header[0])}: the row {shown(header[1])} has {columns} aligned columns, but the first "
                    f"row (line {query_line}) has {width}; all rows need the same number of upper-case letters and '-'"
                )
            if header and not columns:
                what = "is all in lower case, which is for insertions; it must be the query itself, in upper case"
                return InputError(
                    f"{at(file, header[0])}: the first record, {shown(header[1])}, "
                    f"{what if letters else 'has no sequence'}"
                )
            header, columns, letters = (number, line[1:].strip()), 0, b""
        elif line and not line.startswith((b"#", b";")):
            if header is None:
                return InputError(
                    f"{at(file, number)}: not an A3M file: {shown(line)} comes before the first header; every row "
                    "needs a line that begins with '>' above it"
                )
            if bad := line.translate(None, _LETTERS):
                column = raw.find(bad[:1], len(raw) - len(raw.lstrip()))
                letter = raw[column:].decode()[0]
                return InputError(
                    f"{at(file, number, len(raw[:column].decode()) + 1)}: {shown(letter)} in the row "
                    f"{shown(header[1])} is no letter of an alignment; {_ACCEPTED}"
                )
            columns += len(line.translate(None, _INSERTED))
            letters += line.replace(b".", b"")
    return InputError(f"{file}: not an A3M file: no line begins with '>'")


def _first_row_line(text: bytes) -> int:
    """Number of the line in a text on which the first row begins; the header's if there is none."""
    seen = number = 0
    for number, raw in enumerate(text.split(b"\n", 200), start=1):
        line = raw.strip()
        if seen and line and not line.startswith((b"#", b";", b">")):
            return number
        seen = seen or (number if line.startswith(b">") else 0)
    return seen or number
