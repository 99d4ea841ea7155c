"""Amino acids: their order, codes, atoms, and how letters of sequences and alignments are numbered."""

import dataclasses
import functools
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from fastfold_jax.constants.read import frozen, read_rows, words


@dataclasses.dataclass(frozen=True, kw_only=True)
class Residue:
    """One of the 20 amino acids."""

    letter: str
    code: str  # three letters
    atoms: tuple[str, ...]  # heavy atoms in atom14 order
    chi_path: tuple[str, ...]  # main path of the side chain, N first; each four in a row span a chi angle
    pi_periodic_chi: int | None  # 0-based chi angle that half a turn leaves the same
    swaps: tuple[tuple[str, str], ...]  # pairs of atoms whose names are arbitrary, by symmetry

    @property
    def chi_atoms(self) -> tuple[tuple[str, ...], ...]:
        """The four atoms of each chi angle."""
        return tuple(self.chi_path[i : i + 4] for i in range(len(self.chi_path) - 3))


@functools.cache
def residues() -> tuple[Residue, ...]:
    """The 20 amino acids in the order of `RESTYPES`."""
    return tuple(
        Residue(
            letter=letter,
            code=code,
            atoms=("N", "CA", "C", "O", *words(atoms)),
            chi_path=("N", "CA", "CB", *words(path)) if path != "-" else (),
            pi_periodic_chi=None if periodic == "-" else int(periodic) - 1,
            swaps=tuple((first, second) for first, _, second in (pair.partition("=") for pair in words(swaps))),
        )
        for letter, code, atoms, path, periodic, swaps in read_rows("residues")
    )


RESTYPES: str = "".join(residue.letter for residue in residues())
"""Letters of the 20 amino acids; a residue type (`aatype`) is an index into it, and 20 stands for unknown."""

UNKNOWN: int = len(RESTYPES)
GAP: int = UNKNOWN + 1
MASK: int = UNKNOWN + 2

RESTYPES_WITH_X: str = RESTYPES + "X"
MSA_LETTERS: str = RESTYPES_WITH_X + "-"
"""Letters of an alignment in the order that the model sees: amino acids, unknown, gap."""

RESTYPE_3: tuple[str, ...] = (*(residue.code for residue in residues()), "UNK")
"""Three-letter code of each residue type, the unknown one (UNK) last."""

RESTYPE_INDEX: Mapping[str, int] = MappingProxyType({letter: i for i, letter in enumerate(RESTYPES_WITH_X)})
RESTYPE_3_INDEX: Mapping[str, int] = MappingProxyType({code: i for i, code in enumerate(RESTYPE_3)})

SEQUENCE_LETTER_TO_INDEX: Mapping[str, int] = MappingProxyType(
    {letter: RESTYPE_INDEX.get(letter, UNKNOWN) for letter in sorted({*RESTYPES_WITH_X, *"BJOUZ"})}
)
"""Letters of a query sequence: B, J, O, U and Z, like X, become the unknown type, as in AlphaFold."""

MSA_LETTER_TO_INDEX: Mapping[str, int] = MappingProxyType(
    {letter: i for i, letter in enumerate(MSA_LETTERS)}
    | {letter: MSA_LETTERS.index(stands_for) for letter, stands_for in zip("BZUOJ", "DECXX", strict=True)}
)
"""Letters of an alignment (HHblits' convention): B reads as D, Z as E, U as C, and O and J as unknown."""

HHBLITS_LETTERS: str = "".join(sorted(RESTYPES)) + "X-"
"""HHblits' order of an alignment's letters: alphabetical, then unknown, then gap."""

HHBLITS_TO_RESTYPE: np.ndarray = frozen(np.array([MSA_LETTERS.index(letter) for letter in HHBLITS_LETTERS], np.int32))
"""[22] index in `MSA_LETTERS` of each index in HHblits' order; AlphaFold's own feature dicts use the latter."""
