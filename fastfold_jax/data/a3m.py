"""A3M: aligned columns in upper case, what is inserted between them in lower case.

Parsing is a few passes of C over blocks of whole records (split, translate, compare), never a Python step per letter.
A block that does not come out even is tidied (wrapped rows, comments, blank lines) and tried again; only what is then
still wrong is searched line by line, for the message.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int8, Integer

from fastfold_jax.data.alignment import INVALID, Alignment, Source, letter_table, smallest_counts
from fastfold_jax.data.textfile import InputError, at, normalise, shown

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
    """The alignment in an A3M file.

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
    text = normalise(data, file=file)
    rows = parse_rows(text, file=file)
    for position, letter in enumerate(rows.first, start=1):
        if not letter.isupper():
            what = "a gap" if letter == "-" else f"an insertion ({letter!r})"
            raise InputError(
                f"{at(file, _first_row_line(text))}: the first row, {shown(rows.descriptions[0])}, has {what} at "
                f"letter {position}; it must be the query itself, in upper case and without gaps"
            )
    return Alignment(
        residues=rows.residues,
        deletions=rows.deletions,
        descriptions=rows.descriptions,
        source=source,
        query=rows.first,
    )


def parse_rows(text: bytes, *, file: str) -> Rows:
    """The rows of an A3M file that `normalise` has been over.

    Raises:
        InputError: see `parse_a3m`, the query's own rules aside.
    """
    width = 0
    first = b""
    residues, deletions, descriptions = [], [], []
    for start, block in _blocks(text):
        lines = block.split(b"\n")
        lines.pop()  # what follows the last newline
        headers, rows = lines[0::2], lines[1::2]
        packed = _pack(headers, rows, width)
        if packed is None:
            headers, rows = _tidy(lines)
            packed = _pack(headers, rows, width)
        if packed is None:
            raise _fault(text, start, lines, width, file)
        if not width:
            width, first = packed[0].shape[1], rows[0]
        residues.append(packed[0])
        deletions.append(packed[1])
        descriptions += [header[1:].strip() for header in b"\n".join(headers).decode().split("\n")]
    return Rows(
        residues=np.concatenate(residues),
        deletions=np.concatenate(deletions),
        descriptions=tuple(descriptions),
        first=first.replace(b".", b"").decode(),
    )


def _blocks(text: bytes) -> Iterator[tuple[int, bytes]]:
    """Offset and text of runs of whole records, a little over `_BLOCK` bytes each.

    What precedes the first record goes with it.
    """
    start = 0
    first = 0 if text.startswith(b">") else text.find(b"\n>") + 1
    while start < len(text):
        end = text.find(b"\n>", max(start + _BLOCK, first)) + 1 or len(text)
        yield start, text[start:end]
        start = end


def _pack(
    headers: list[bytes], rows: list[bytes], width: int
) -> tuple[Int8[np.ndarray, "rows cols"], Integer[np.ndarray, "rows cols"]] | None:
    """Residues and deletions of rows that are one line each, or None if anything is amiss.

    With `width` 0 the first row tells how many columns there are.
    """
    if not rows or len(headers) != len(rows) or not all(header[:1] == b">" for header in headers):
        return None
    width = width or len(rows[0].translate(None, _INSERTED))
    joined = b"\n".join(rows) + b"\n"
    codes = joined.translate(_CODES, _INSERTED)
    if not width or len(codes) != len(rows) * (width + 1) or INVALID in codes:
        return None
    # One column more than the alignment has: the line's end, which also takes what is inserted after the last column.
    grid = np.frombuffer(codes, np.uint8).reshape(len(rows), width + 1)
    if not (grid[:, -1] == _ROW_END).all():
        return None
    return grid[:, :-1].astype(np.int8), _deletions(joined, grid.shape)


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


def _fault(text: bytes, start: int, lines: list[bytes], width: int, file: str) -> InputError:
    """What is wrong in a block that could not be packed; with `width` 0 its first row sets the width."""
    number = text.count(b"\n", 0, start)
    query_line = _first_row_line(text)
    header: tuple[int, bytes] | None = None
    columns = 0
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
                return InputError(f"{at(file, header[0])}: the first record, {shown(header[1])}, has no sequence")
            header, columns = (number, line[1:].strip()), 0
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
    return InputError(f"{file}: not an A3M file: no line begins with '>'")


def _first_row_line(text: bytes) -> int:
    """Number of the line on which the first row begins; the header's if there is none."""
    seen = number = 0
    for number, raw in enumerate(text.split(b"\n", 200), start=1):
        line = raw.strip()
        if seen and line and not line.startswith((b"#", b";", b">")):
            return number
        seen = seen or (number if line.startswith(b">") else 0)
    return seen or number
