"""What is known about a protein before any random sampling: the input of every pass's `sample`."""

import dataclasses
import functools
import itertools
import logging

import numpy as np
from jaxtyping import Bool, Float32, Int, Int8, Int32, Integer

from fastfold_jax.config.model import ModelConfig, MultimerConfig
from fastfold_jax.constants import MASK

logger = logging.getLogger(__name__)

LETTERS = MASK + 1
"""Letters a model tells apart: 20 amino acids, unknown, gap, mask."""

CHAIN_GAP = 200
"""Residue numbers that a monomer's network sees skipped between two chains of a complex."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TemplateOrigin:
    """Where a template was taken from.

    Attributes:
        name: PDB code, or the file that the user gave.
        chain: the author's name of the chain.
        released: ISO date, None where the structure tells none.
    """

    name: str
    chain: str
    released: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Templates:
    """T structures aligned to the N residues, best first.

    Attributes:
        aatype: residue types in the order of `MSA_LETTERS` (gap where nothing is aligned).
        positions: Å, atom37.
        atom_mask: 1 where an atom is known.
        sources: where each was taken from; empty where that is not known.
    """

    aatype: Int32[np.ndarray, "t n"]
    positions: Float32[np.ndarray, "t n 37 3"]
    atom_mask: Float32[np.ndarray, "t n 37"]
    sources: tuple[TemplateOrigin, ...] = ()

    @classmethod
    def none(cls, num_res: int) -> "Templates":
        """No template at all."""
        return cls(
            aatype=np.zeros((0, num_res), np.int32),
            positions=np.zeros((0, num_res, 37, 3), np.float32),
            atom_mask=np.zeros((0, num_res, 37), np.float32),
        )

    def __len__(self) -> int:
        return len(self.aatype)

    def then(self, other: "Templates") -> "Templates":
        """These, followed by others of the same residues."""
        return Templates(
            aatype=np.concatenate([self.aatype, other.aatype]),
            positions=np.concatenate([self.positions, other.positions]),
            atom_mask=np.concatenate([self.atom_mask, other.atom_mask]),
            sources=(*self.sources, *other.sources) if self._is_known and other._is_known else (),
        )

    @property
    def _is_known(self) -> bool:
        return len(self.sources) == len(self)

    def resize(self, count: int) -> "Templates":
        """The first `count` templates, followed by empty ones where there are fewer."""

        def fit(x: np.ndarray) -> np.ndarray:
            x = x[:count]
            return np.concatenate([x, np.zeros((count - len(x), *x.shape[1:]), x.dtype)])

        return Templates(aatype=fit(self.aatype), positions=fit(self.positions), atom_mask=fit(self.atom_mask))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RawFeatures:
    """One chain or complex of N residues with the R rows of its whole alignment, row 0 the query.

    Attributes:
        aatype: residue types, 0..20.
        residue_index: as the model should see it (see `Features`).
        asym_id, entity_id, sym_id: chain, distinct sequence and copy of it, each from 1.
        seq_mask: 1 where there is a residue.
        msa: letters in the order of `MSA_LETTERS`, 0..21.
        deletions: letters of each hit deleted just left of each column.
        msa_mask: False where a row says nothing (padding of AlphaFold's own features); gaps are True.
        first: rows that every sample begins with, such as the query.
        templates: aligned structures, best first.
    """

    aatype: Int32[np.ndarray, " n"]
    residue_index: Int32[np.ndarray, " n"]
    asym_id: Int32[np.ndarray, " n"]
    entity_id: Int32[np.ndarray, " n"]
    sym_id: Int32[np.ndarray, " n"]
    seq_mask: Float32[np.ndarray, " n"]
    msa: Int8[np.ndarray, "r n"]
    deletions: Integer[np.ndarray, "r n"]
    msa_mask: Bool[np.ndarray, "r n"]
    first: Bool[np.ndarray, " r"]
    templates: Templates

    @property
    def num_res(self) -> int:
        """N."""
        return len(self.aatype)

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.msa)

    @functools.cached_property
    def letter_counts(self) -> Int[np.ndarray, "n 22"]:
        """How often each letter occurs in each column of the whole alignment, masked entries left out."""
        counts = np.zeros((self.num_res, MASK), np.int64)
        for letter in range(MASK):
            counts[:, letter] = np.count_nonzero((self.msa == letter) & self.msa_mask, axis=0)
        return counts


def one_hot(letters: Int[np.ndarray, "*shape"], classes: int = LETTERS) -> Float32[np.ndarray, "*shape classes"]:
    """Letters as float32 indicator vectors."""
    out = np.zeros((letters.size, classes), np.float32)
    out[np.arange(letters.size), letters.ravel()] = 1
    return out.reshape(*letters.shape, classes)


def chain_bounds(asym_id: Int[np.ndarray, " n"]) -> list[tuple[int, int]]:
    """First residue of each chain, and the one after its last."""
    return list(itertools.pairwise([0, *(np.flatnonzero(np.diff(asym_id)) + 1).tolist(), len(asym_id)]))


def number_residues(
    index: Int[np.ndarray, " n"], asym_id: Int[np.ndarray, " n"], config: ModelConfig
) -> Int32[np.ndarray, " n"]:
    """Residue numbers as the model should see them, from numbers that start again at each chain.

    A multimer's network knows chains and takes them as they are. A monomer's does not: each chain goes on where the one
    before ended, `CHAIN_GAP` numbers further, which is beyond what relative positions tell apart; a warning is logged.
    """
    numbers = np.array(index, np.int32)
    bounds = chain_bounds(asym_id)
    if isinstance(config, MultimerConfig) or len(bounds) == 1:
        return numbers
    logger.warning(
        "%s was trained on single chains: the %d chains of this complex are joined with gaps of %d residue numbers; "
        "a multimer model is likely to do better",
        config.name,
        len(bounds),
        CHAIN_GAP,
    )
    for start, _ in bounds[1:]:
        numbers[start:] += numbers[start - 1] + 1 + CHAIN_GAP - numbers[start]
    return numbers
