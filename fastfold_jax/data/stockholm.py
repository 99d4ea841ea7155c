"""Stockholm: the format of jackhmmer's alignments, columns of insertions included."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer, UInt8

from fastfold_jax.constants.residues import GAP
from fastfold_jax.data.alignment import INVALID, Alignment, Source, letter_table, smallest_counts
from fastfold_jax.data.textfile import InputError, at, line_blocks, shown

_GAPS = b"-."
_CODES = letter_table(fold_case=True, gaps=_GAPS)
_LETTERS = bytes(code for code in range(256) if _CODES[code] != INVALID)
_ROWS_AT_ONCE = 1024  # so many rows become arrays at a time, which bounds the scratch memory
_BLOCK = 1 << 22  # bytes of a file read at a time


def is_stockholm(data: bytes) -> bool:
    """Whether a file begins as every Stockholm file must."""
    return data[:100].removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"# STOCKHOLM")


def read_stockholm(path: Path, *, source: Source, choose: Callable[[int], Integer[np.ndarray, " kept"]]) -> Alignment:
    """The chosen rows of a Stockholm file, in the columns of its first sequence; it is never in memory as a whole.

    Sequences may be split over blocks. Columns in which the first sequence has a gap are insertions: they are removed,
    and the letters in them counted as deletions of the next column (those after the last column are dropped). ``-`` and
    ``.`` are gaps, lower case reads as upper case, and markup lines (``#=``) and comments are skipped. Descriptions are
    the names, such as ``tr|A0A0K0ME10|A0A0K0ME10_9STAP/1-51``.

    The file is read twice, first for the names of its rows. All rows are checked, and those that are kept parsed.

    Args:
        path: the file.
        source: what it came from.
        choose: from the number of rows, which to keep: their indices, ascending, 0 (the query) among them.

    Raises:
        InputError: the file is empty, binary, no Stockholm, truncated (no ``//`` at its end) or of several alignments;
            rows differ in length; a letter is no amino acid; or the first row has no letters.
    """
    file = str(path)
    names: dict[bytes, int] = {}
    for line in _rows(line_blocks(path, _BLOCK), file):
        names.setdefault(line.name, len(names))
    kept = choose(len(names))
    parts = _pieces(_rows(line_blocks(path, _BLOCK), file), names, kept, file)
    query = b"".join(parts[0])
    columns = np.frombuffer(query.translate(_CODES), np.uint8) != GAP
    if not columns.any():
        raise InputError(f"{file}: the first row, {shown(next(iter(names)))}, has no letters; it must be the query")
    residues, deletions = [], []
    for start in range(0, len(parts), _ROWS_AT_ONCE):
        joined = b"".join(piece for pieces in parts[start : start + _ROWS_AT_ONCE] for piece in pieces)
        grid = np.frombuffer(joined.translate(_CODES), np.uint8).reshape(-1, len(query))
        residues.append(grid[:, columns].astype(np.int8))
        deletions.append(_deletions(grid, columns))
    descriptions = list(names)
    return Alignment(
        residues=np.concatenate(residues),
        deletions=np.concatenate(deletions),
        descriptions=tuple(descriptions[row].decode() for row in kept),
        source=source,
        query=np.frombuffer(query.upper(), np.uint8)[columns].tobytes().decode(),
    )


def read_query(path: Path) -> str:
    """The letters of the first row of a Stockholm file; "" if there is none.

    Raises:
        InputError: the file cannot be read, or is no Stockholm.
    """
    name, parts = b"", []
    for line in _rows(line_blocks(path, _BLOCK), str(path)):
        name = name or line.name
        if line.name == name:
            parts.append(line.letters)
    return b"".join(parts).upper().translate(None, _GAPS).decode(errors="replace")


def read_rows(text: bytes, file: str) -> tuple[list[bytes], list[bytes]]:
    """Names and aligned sequences as they stand, in the order in which names first appear."""
    parts: dict[bytes, list[bytes]] = {}
    for line in _rows([text], file):
        parts.setdefault(line.name, []).append(line.letters)
    return list(parts), [b"".join(pieces) for pieces in parts.values()]


class _Line(NamedTuple):
    """A piece of a row, and where it is."""

    number: int
    name: bytes
    letters: bytes
    text: bytes


def _rows(blocks: Iterable[bytes], file: str) -> Iterator[_Line]:
    """The lines that hold a piece of a row.

    Raises:
        InputError: the text is no Stockholm file, not a whole one, or has no rows.
    """
    number, ended, found = 0, False, False
    for block in blocks:
        if not number and not is_stockholm(block):
            raise InputError(f"{at(file, 1)}: not a Stockholm file: it does not begin with '# STOCKHOLM 1.0'")
        lines = block.split(b"\n")
        lines.pop()  # what follows the last newline
        for line in lines:
            number += 1
            if line.startswith(b"#"):
                continue
            fields = line.split()
            if not fields or fields[0].startswith(b"#"):
                continue
            if ended:
                raise InputError(
                    f"{at(file, number)}: more follows after the '//' that ends the alignment; give one a file"
                )
            if fields[0] == b"//":
                ended = True
            elif len(fields) == 2:
                found = True
                yield _Line(number, fields[0], fields[1], line)
            else:
                raise InputError(
                    f"{at(file, number)}: {shown(line.strip())} is no row of a Stockholm file, which holds a name, "
                    "blanks, and an aligned sequence without blanks"
                )
    if not ended:
        raise InputError(f"{file}: a truncated Stockholm file: the '//' that ends the alignment is missing")
    if not found:
        raise InputError(f"{file}: an empty alignment: no sequence comes before the '//'")


def _pieces(
    lines: Iterable[_Line], names: Mapping[bytes, int], kept: Integer[np.ndarray, " kept"], file: str
) -> list[list[bytes]]:
    """The pieces of those rows that are kept; all rows are checked.

    Raises:
        InputError: a letter is none, or rows differ in length.
    """
    place = {int(row): number for number, row in enumerate(kept)}
    pieces: list[list[bytes]] = [[] for _ in kept]
    columns, last = [0] * len(names), [0] * len(names)
    for line in lines:
        if bad := line.letters.translate(None, _LETTERS):
            # The row is the last field, so the name's own characters are not searched.
            column = line.text.rfind(line.letters) + line.letters.find(bad[:1])
            letter, before = line.text[column:].decode()[0], len(line.text[:column].decode())
            raise InputError(
                f"{at(file, line.number, before + 1)}: {shown(letter)} in the row {shown(line.name)} is no letter of "
                "an alignment; accepted are the letters A to Z, and '-' or '.' for a gap"
            )
        row = names[line.name]
        columns[row] += len(line.letters)
        last[row] = line.number
        if (number := place.get(row)) is not None:
            pieces[number].append(line.letters)
    for name, row in names.items():
        if columns[row] != columns[0]:
            raise InputError(
                f"{at(file, last[row])}: the row {shown(name)} has {columns[row]} columns in all, but the first row "
                f"has {columns[0]}; all rows need the same number"
            )
    return pieces


def _deletions(grid: UInt8[np.ndarray, "rows width"], kept: np.ndarray) -> Integer[np.ndarray, "rows cols"]:
    """How many letters each row has in the removed columns between one kept column and the next."""
    removed = np.flatnonzero(~kept)
    before = np.cumsum(kept)[removed]  # the kept column that follows each removed one
    removed, before = removed[before < kept.sum()], before[before < kept.sum()]
    counts = np.zeros((len(grid), int(kept.sum())), np.int32)
    if removed.size:
        columns, runs = np.unique(before, return_index=True)
        counts[:, columns] = np.add.reduceat(grid[:, removed] != GAP, runs, axis=1, dtype=np.int32)
    return counts.astype(smallest_counts(counts))
