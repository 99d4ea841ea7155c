"""Stockholm: the format of jackhmmer's alignments, columns of insertions included."""

import numpy as np
from jaxtyping import Integer, UInt8

from fastfold_jax.constants.residues import GAP
from fastfold_jax.data.alignment import INVALID, Alignment, Source, letter_table, smallest_counts
from fastfold_jax.data.textfile import InputError, at, normalise, shown

_GAPS = b"-."
_CODES = letter_table(fold_case=True, gaps=_GAPS)
_LETTERS = bytes(code for code in range(256) if _CODES[code] != INVALID)
_ROWS_AT_ONCE = 1024  # deletions are counted for so many rows at a time, which bounds the scratch memory


def is_stockholm(data: bytes) -> bool:
    """Whether a file begins as every Stockholm file must."""
    return data[:100].removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"# STOCKHOLM")


def parse_stockholm(data: bytes, *, file: str, source: Source = "other") -> Alignment:
    """The alignment in a Stockholm file, in the columns of its first sequence.

    Sequences may be split over blocks. Columns in which the first sequence has a gap are insertions: they are removed,
    and the letters in them counted as deletions of the next column (those after the last column are dropped). ``-`` and
    ``.`` are gaps, lower case reads as upper case, and markup lines (``#=``) and comments are skipped. Descriptions are
    the names, such as ``tr|A0A0K0ME10|A0A0K0ME10_9STAP/1-51``.

    Raises:
        InputError: the file is empty, binary, no Stockholm, truncated (no ``//`` at its end) or of several alignments;
            rows differ in length; a letter is no amino acid; or the first row has no letters.
    """
    text = normalise(data, file=file)
    names, rows = read_rows(text, file)
    width = len(rows[0])
    joined = b"".join(rows)
    codes = joined.translate(_CODES)
    if INVALID in codes or any(len(row) != width for row in rows):
        raise _fault(text, width, file)
    grid = np.frombuffer(codes, np.uint8).reshape(len(rows), width)
    kept = grid[0] != GAP
    if not kept.any():
        raise InputError(f"{file}: the first row, {shown(names[0])}, has no letters; it must be the query")
    query = np.frombuffer(rows[0].upper(), np.uint8)[kept].tobytes().decode()
    return Alignment(
        residues=grid[:, kept].astype(np.int8),
        deletions=_deletions(grid, kept),
        descriptions=tuple(name.decode() for name in names),
        source=source,
        query=query,
    )


def read_rows(text: bytes, file: str) -> tuple[list[bytes], list[bytes]]:
    """Names and aligned sequences, in the order in which names first appear."""
    if not is_stockholm(text):
        raise InputError(f"{at(file, 1)}: not a Stockholm file: it does not begin with '# STOCKHOLM 1.0'")
    parts: dict[bytes, list[bytes]] = {}
    ended = False
    for number, line in enumerate(text.split(b"\n"), start=1):
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
            parts.setdefault(fields[0], []).append(fields[1])
        else:
            raise InputError(
                f"{at(file, number)}: {shown(line.strip())} is no row of a Stockholm file, which holds a name, blanks, "
                "and an aligned sequence without blanks"
            )
    if not ended:
        raise InputError(f"{file}: a truncated Stockholm file: the '//' that ends the alignment is missing")
    if not parts:
        raise InputError(f"{file}: an empty alignment: no sequence comes before the '//'")
    return list(parts), [b"".join(pieces) for pieces in parts.values()]


def _deletions(grid: UInt8[np.ndarray, "rows width"], kept: np.ndarray) -> Integer[np.ndarray, "rows cols"]:
    """How many letters each row has in the removed columns between one kept column and the next."""
    removed = np.flatnonzero(~kept)
    before = np.cumsum(kept)[removed]  # the kept column that follows each removed one
    removed, before = removed[before < kept.sum()], before[before < kept.sum()]
    blocks = []
    for start in range(0, len(grid), _ROWS_AT_ONCE):
        block = grid[start : start + _ROWS_AT_ONCE]
        counts = np.zeros((len(block), int(kept.sum())), np.int32)
        if removed.size:
            columns, runs = np.unique(before, return_index=True)
            counts[:, columns] = np.add.reduceat(block[:, removed] != GAP, runs, axis=1, dtype=np.int32)
        blocks.append(counts.astype(smallest_counts(counts)))
    return np.concatenate(blocks)


def _fault(text: bytes, width: int, file: str) -> InputError:
    """What is wrong with rows that hold other letters or differ in length."""
    seen: dict[bytes, tuple[int, int]] = {}  # name: line on which it was last, columns up to there
    for number, line in enumerate(text.split(b"\n"), start=1):
        fields = line.split()
        if len(fields) != 2 or line.lstrip().startswith(b"#"):
            continue
        name, row = fields
        if bad := row.translate(None, _LETTERS):
            # The row is the last field, so the name's own characters are not searched.
            column = line.rfind(row) + row.find(bad[:1])
            letter = line[column:].decode()[0]
            return InputError(
                f"{at(file, number, len(line[:column].decode()) + 1)}: {shown(letter)} in the row {shown(name)} is no "
                "letter of an alignment; accepted are the letters A to Z, and '-' or '.' for a gap"
            )
        seen[name] = number, seen.get(name, (0, 0))[1] + len(row)
    name, (number, columns) = next((name, place) for name, place in seen.items() if place[1] != width)
    return InputError(
        f"{at(file, number)}: the row {shown(name)} has {columns} columns in all, but the first row has {width}; all "
        "rows need the same number"
    )
