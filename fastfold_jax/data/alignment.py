"""One multiple sequence alignment as arrays, and the letters that alignment files may hold."""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Int8, Integer

from fastfold_jax.constants.residues import GAP, MSA_LETTER_TO_INDEX

Source = Literal["uniref90", "bfd", "mgnify", "uniprot", "paired", "other"]
"""What an alignment came from; it decides the cap, the order of merging and the pairing.

- ``uniref90``, ``bfd`` (BFD, small BFD, UniClust30, UniRef30), ``mgnify``: in this order AlphaFold merges them.
- ``other``: any other file, such as a single A3M or the unpaired rows of the MMseqs2 server; merged last.
- ``uniprot``: rows to be paired with those of other chains by species.
- ``paired``: rows that are paired already: row i of one chain belongs with row i of every other.
"""

INVALID = 0xFF
"""What `letter_table` gives for a byte that no alignment may hold."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Alignment:
    """The aligned columns of one alignment file, the query's own residues being the columns.

    Attributes:
        residues: [R, N], letters in the model's order: ``ARNDCQEGHILKMFPSTWYV`` = 0..19, X = 20, gap = 21. Row 0 is
            the query and has no gap.
        deletions: [R, N], how many letters of each row were left out between the column before and this one; the
            smallest of uint8, uint16 and int32 that holds them.
        descriptions: header of each row, without the ``>``; in a Stockholm file the name.
        source: what the alignment came from.
        query: row 0 in the file's own letters, so that B, J, O, U and Z are still told from D, X, C and E; "" when not
            known.
    """

    residues: Int8[np.ndarray, "rows cols"]
    deletions: Integer[np.ndarray, "rows cols"]
    descriptions: tuple[str, ...]
    source: Source
    query: str = ""

    def __post_init__(self) -> None:
        if self.residues.shape != self.deletions.shape or len(self.residues) != len(self.descriptions):
            raise ValueError(
                f"an alignment needs as many residues {self.residues.shape} as deletions {self.deletions.shape} and a "
                f"description for each row, not {len(self.descriptions)}"
            )
        if not self.residues.size:
            raise ValueError("an alignment holds at least its query's row, and that at least one residue")


def letter_table(*, fold_case: bool = False, gaps: bytes = b"-") -> bytes:
    """Table for `bytes.translate` from letter to index of `Alignment.residues`; `INVALID` for all else.

    B reads as D, Z as E, U as C, J and O as X: HHblits' convention, which AlphaFold follows.
    """
    table = bytearray([INVALID] * 256)
    for letter, index in MSA_LETTER_TO_INDEX.items():
        table[ord(letter)] = index
        if fold_case:
            table[ord(letter.lower())] = index
    table[ord("-")] = INVALID
    for gap in gaps:
        table[gap] = GAP
    return bytes(table)


def smallest_counts(counts: Integer[np.ndarray, "..."]) -> type[np.uint8] | type[np.uint16] | type[np.int32]:
    """The type for deletions that holds these counts."""
    largest = int(counts.max(initial=0))
    return np.uint8 if largest <= 0xFF else np.uint16 if largest <= 0xFFFF else np.int32
