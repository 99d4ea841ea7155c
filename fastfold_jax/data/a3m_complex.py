"""A3M of a whole complex, as ColabFold and MMseqs2 write it: rows run over all distinct chains, one after another.

The first line says how: ``#len1,len2<TAB>card1,card2``, the lengths of the distinct chains and how many copies there
are of each. A copy has no columns of its own.
"""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, Integer, UInt8

from fastfold_jax.constants.residues import GAP, MSA_LETTERS
from fastfold_jax.data.a3m import RowReader, Rows, file_blocks
from fastfold_jax.data.alignment import Alignment, Source
from fastfold_jax.data.textfile import InputError, at, read_head, shown

_NUMBERS = rb"(\d{1,9}(?:,\d{1,9})*)"
_HEADER = re.compile(rb"(?:\xef\xbb\xbf)?#[ \t]*" + _NUMBERS + rb"[ \t]+" + _NUMBERS + rb"[ \t]*[\r\n]")
_MAX_COPIES = 1000
_HEAD = 1 << 16  # bytes that hold the first line of any sane file

Choose = Callable[[Source, int], Integer[np.ndarray, " kept"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One distinct chain of a complex A3M."""

    query: str
    description: str
    copies: int
    unpaired: Alignment  # rows that cover this chain only, below the query
    paired: Alignment | None  # rows that cover several chains, below the query; as many rows in every part


def is_complex(data: bytes) -> bool:
    """Whether a file begins with the header of a complex A3M."""
    return _HEADER.match(data) is not None


def read_complex_a3m(path: Path, *, choose: Choose) -> tuple[Part, ...]:
    """The distinct chains of a complex A3M, each with its own rows and those that are paired.

    A row that covers one chain only is unpaired; a row that covers several is paired, with gaps in the chains that it
    does not reach. With a single distinct chain every row is unpaired. Insertions between two chains count as the later
    chain's. The query of a chain is the first row that reaches it, and must have no gap there.

    The file, which is never in memory as a whole, is read twice, first to see which chains each row reaches.

    Args:
        path: the file.
        choose: which rows to keep, by index and ascending, of so many: of one chain (``other``), or ``paired``.

    Raises:
        InputError: the header and the rows disagree, and whatever `fastfold_jax.data.a3m.read_a3m` raises for.
    """
    file = str(path)
    lengths, copies = read_header(read_head(path, _HEAD), file)
    stops = np.cumsum(lengths)
    columns = [slice(int(stop) - length, int(stop)) for stop, length in zip(stops, lengths, strict=True)]
    rows, covers = _chosen_rows(path, lengths, columns, choose)
    queries = [_query_row(rows, covers[:, chain], part, chain, file) for chain, part in enumerate(columns)]
    several = covers.sum(axis=1) > 1
    paired = np.flatnonzero(several)
    # Row i belongs with row i of the other chains, so either every chain's query is put above the pairs or none is.
    headed = paired.size > 0 and all(
        _equal(rows, paired[0], query, part) for query, part in zip(queries, columns, strict=True)
    )
    parts = []
    for chain, (query, part) in enumerate(zip(queries, columns, strict=True)):
        single = np.flatnonzero(covers[:, chain] & ~several)
        if not single.size or not _equal(rows, single[0], query, part):
            single = np.insert(single, 0, query)
        own = _select(rows, single, part, [rows.descriptions[row] for row in single], "other")
        together = None
        if paired.size:
            chosen = paired if headed else np.insert(paired, 0, query)
            names = [_field(rows.descriptions[row], chain, len(lengths)) for row in chosen]
            together = _select(rows, chosen, part, names, "paired")
        parts.append(
            Part(
                query=_letters(rows, query, part),
                description=_field(rows.descriptions[query], chain, len(lengths)),
                copies=copies[chain],
                unpaired=own,
                paired=together,
            )
        )
    return tuple(parts)


def _chosen_rows(
    path: Path, lengths: list[int], columns: list[slice], choose: Choose
) -> tuple[Rows, Bool[np.ndarray, "rows chains"]]:
    """The rows to keep, and which chains each of them reaches."""
    file = str(path)
    reached: list[np.ndarray] = []

    def look(residues: UInt8[np.ndarray, "rows cols"]) -> None:
        if residues.shape[1] != sum(lengths):
            raise InputError(
                f"{at(file, 1)}: the header says that the chains have {' + '.join(map(str, lengths))} = {sum(lengths)} "
                f"columns, but the rows have {residues.shape[1]}"
            )
        reached.append(np.stack([(residues[:, part] != GAP).any(axis=1) for part in columns], axis=1))

    survey = RowReader(file=file, keep=np.zeros(0, int), look=look)
    for block in file_blocks(path):
        survey.add(block)
    covers = np.concatenate(reached)
    kept = _kept(covers, choose)
    reader = RowReader(file=file, keep=kept)
    for block in file_blocks(path):
        reader.add(block)
    return reader.rows(), covers[kept]


def _kept(covers: Bool[np.ndarray, "rows chains"], choose: Choose) -> Int[np.ndarray, " kept"]:
    """The first row, each chain's query, and those that are chosen of each chain's own and of the paired ones."""
    several = covers.sum(axis=1) > 1
    groups: list[tuple[Source, np.ndarray]] = [("paired", several)]
    groups += [("other", covers[:, chain] & ~several) for chain in range(covers.shape[1])]
    chosen = [[0], covers.argmax(axis=0)]
    for kind, mask in groups:
        rows = np.flatnonzero(mask)
        chosen.append(rows[choose(kind, len(rows))])
    return np.unique(np.concatenate(chosen))


def read_header(text: bytes, file: str) -> tuple[list[int], list[int]]:
    """Lengths and copies of the distinct chains."""
    header = _HEADER.match(text)
    if not header:
        raise InputError(f"{at(file, 1)}: not the header of a complex A3M, '#length,length<TAB>copies,copies'")
    lengths, copies = ([int(number) for number in group.split(b",")] for group in header.groups())
    if len(lengths) != len(copies) or 0 in lengths or 0 in copies or sum(copies) > _MAX_COPIES:
        raise InputError(
            f"{at(file, 1)}: the header {shown(header.group().strip())} needs a length and a number of copies for each "
            f"distinct chain, none of them 0 and at most {_MAX_COPIES} copies in all"
        )
    return lengths, copies


def _query_row(rows: Rows, reaches: Bool[np.ndarray, " rows"], columns: slice, chain: int, file: str) -> int:
    """The first row that reaches a chain."""
    row = int(reaches.argmax())
    if (rows.residues[row, columns] == GAP).any():
        raise InputError(
            f"{file}: no row holds the query of chain {chain + 1} (columns {columns.start + 1} to {columns.stop}): the "
            f"first row that reaches the chain, {shown(rows.descriptions[row])}, must be its query, without gaps"
        )
    return row


def _equal(rows: Rows, row: int, query: int, columns: slice) -> bool:
    return bool((rows.residues[row, columns] == rows.residues[query, columns]).all())


def _select(
    rows: Rows, chosen: Int[np.ndarray, " rows"], columns: slice, descriptions: list[str], source: Source
) -> Alignment:
    """The chosen rows in one chain's columns; the first of them is its query."""
    return Alignment(
        residues=rows.residues[chosen, columns],
        deletions=rows.deletions[chosen, columns],
        descriptions=tuple(descriptions),
        source=source,
        query=_letters(rows, int(chosen[0]), columns),
    )


def _letters(rows: Rows, row: int, columns: slice) -> str:
    """A row's letters: the first row's as written; in others B, J, O, U and Z are what the alignment reads them as."""
    if row == 0:
        return "".join(letter for letter in rows.first if not letter.islower())[columns]
    return "".join(MSA_LETTERS[index] for index in rows.residues[row, columns])


def _field(description: str, chain: int, chains: int) -> str:
    """One chain's part of a paired row's header, which joins the chains' headers (one field or more) with tabs."""
    fields = description.split("\t")
    if chains == 1 or len(fields) % chains:
        return description
    each = len(fields) // chains
    return "\t".join(fields[chain * each : (chain + 1) * each])
