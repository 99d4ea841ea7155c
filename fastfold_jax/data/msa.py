"""Merges the alignments of one chain in AlphaFold's order, within its caps and without repeated rows."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Int, Int8, Integer

from fastfold_jax.constants import MSA_LETTER_TO_INDEX
from fastfold_jax.data.alignment import Alignment, Source
from fastfold_jax.data.draws import Draws
from fastfold_jax.data.layout import merge_rank


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """How many rows of an alignment are used, the query included.

    Attributes:
        uniref90, mgnify, uniprot: the first so many, as AlphaFold's pipeline keeps.
        reservoir: of any other alignment so many, the query and a uniform random choice of the rest. AlphaFold sets no
            such limit; it bounds memory and time, and ordinary alignments are far below it.
        complex_rows: for multimers, rows of each chain; at most half of them paired.
        seed: of the random choice.
    """

    uniref90: int = 10_000
    mgnify: int = 501
    uniprot: int = 50_000
    reservoir: int = 32_768
    complex_rows: int = 2_048
    seed: int = 0

    def rows(self, source: Source, count: int) -> Int[np.ndarray, " kept"]:
        """Which of `count` rows of an alignment are used, by index, ascending."""
        if source in ("uniref90", "mgnify", "uniprot"):
            return np.arange(min(count, getattr(self, source)))
        if source == "paired":  # rows of several chains correspond, so all of them must keep the same ones
            return np.arange(min(count, self.reservoir))
        if count <= self.reservoir:
            return np.arange(count)
        drawn = 1 + Draws(self.seed, count).permutation(count - 1)[: self.reservoir - 1]
        return np.concatenate([[0], np.sort(drawn)])

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            lowest = 0 if field.name == "seed" else 1
            if getattr(self, field.name) < lowest:
                raise ValueError(f"{field.name}={getattr(self, field.name)}, but must be at least {lowest}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Msa:
    """Rows of an alignment: letters in the order of `MSA_LETTERS`, and deletion counts."""

    residues: Int8[np.ndarray, "r n"]
    deletions: Integer[np.ndarray, "r n"]

    def __len__(self) -> int:
        return len(self.residues)

    def __getitem__(self, rows: slice | np.ndarray) -> "Msa":
        return Msa(residues=self.residues[rows], deletions=self.deletions[rows])


def merge(sequence: str, alignments: Iterable[Alignment], limits: Limits) -> Msa:
    """One chain's rows: UniRef90, BFD, MGnify, then others, each within its cap, repeated rows left out.

    With no alignment at all, the query alone. Alignments that serve pairing are left out.

    DISCREPANCY: AlphaFold compares the letters of the files, so that two rows that differ only in letters with the same
    index (B and D, Z and E, U and C; J, O and X) both stay; here rows are compared as the model sees them.
    """
    ordered = sorted(
        (alignment for alignment in alignments if alignment.source not in ("uniprot", "paired")),
        key=lambda alignment: merge_rank(alignment.source),
    )
    if not ordered:
        return query_only(sequence)
    capped = [cap(alignment, limits) for alignment in ordered]
    merged = Msa(
        residues=np.concatenate([msa.residues for msa in capped]),
        deletions=np.concatenate([msa.deletions for msa in capped]),
    )
    return merged[first_occurrences(merged.residues)]


def query_only(sequence: str) -> Msa:
    """An alignment of the query alone."""
    residues = np.array([[MSA_LETTER_TO_INDEX[letter] for letter in sequence]], np.int8)
    return Msa(residues=residues, deletions=np.zeros(residues.shape, np.uint8))


def cap(alignment: Alignment, limits: Limits) -> Msa:
    """The rows of an alignment that its source's limit admits, in their order."""
    msa = Msa(residues=alignment.residues, deletions=alignment.deletions)
    kept = limits.rows(alignment.source, len(msa))
    return msa if len(kept) == len(msa) else msa[kept]


def first_occurrences(*parts: Int8[np.ndarray, "r _"]) -> Int[np.ndarray, " k"]:
    """Indices, ascending, of the rows that no earlier row equals in every part."""
    seen: dict[tuple[bytes, ...], int] = {}
    for row, key in enumerate(_row_bytes(parts)):
        seen.setdefault(key, row)
    return np.fromiter(seen.values(), np.int64, len(seen))


def not_in(rows: Int8[np.ndarray, "r n"], others: Int8[np.ndarray, "q n"]) -> Bool[np.ndarray, " r"]:
    """Which rows equal no row of `others`."""
    known = set(_row_bytes([others]))
    return np.fromiter((key not in known for key in _row_bytes([rows])), bool, len(rows))


def _row_bytes(parts: Sequence[np.ndarray]) -> Iterable[tuple[bytes, ...]]:
    return zip(*([row.tobytes() for row in part] for part in parts), strict=True)
