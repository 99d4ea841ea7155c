"""Clusters of alignment rows: each row joins the sampled centre it agrees with most, and each cluster is summarised.

AlphaFold 2 supplement, section 1.2.7. Finding the nearest centre is the costly step (rows x centres x residues letter
comparisons), so letters are cut into five bit planes of 64 residues a word: two rows disagree at the bits of
``(a0 ^ b0) | ... | (a4 ^ b4)``, which one population count sums: eleven NumPy passes over rows x centres x words, some
0.4 core-seconds for 10,000 rows, 512 centres and 1,024 residues, where a product of one-hot matrices takes 2.9.
Everything decided here is an integer, hence the same on every machine and for any number of threads.
"""

import dataclasses
import functools
import itertools
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Bool, Float32, Int, Int8, Integer, UInt64

from fastfold_jax.constants import GAP
from fastfold_jax.data.raw import LETTERS, one_hot

_PLANES = 5
_WORD = 64
_BLOCK = 64  # rows at a time: the block's [rows, centres] buffers stay in the cache
_MOST_THREADS = 8
# Codes of positions that never agree (gap, mask, masked out, past the end): different in centres and rows.
_NEVER_IN_CENTRES, _NEVER_IN_ROWS = 30, 31


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """Some rows of an alignment: letters 0..22, deletion counts, and a mask that is False where there is nothing."""

    letters: Int8[np.ndarray, "r n"]
    deletions: Integer[np.ndarray, "r n"]
    mask: Bool[np.ndarray, "r n"]

    def __len__(self) -> int:
        return len(self.letters)

    def __getitem__(self, rows: slice | np.ndarray) -> "Rows":
        return Rows(letters=self.letters[rows], deletions=self.deletions[rows], mask=self.mask[rows])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nearest:
    """Which centres each row agrees with most; a tie makes several pairs.

    Attributes:
        row, centre: the pairs, ordered by row, then centre.
        agreement: for each row, at how many residues it has the letter of its nearest centre. A row that agrees with no
            centre anywhere has one pair, with centre 0.
    """

    row: Int[np.ndarray, " k"]
    centre: Int[np.ndarray, " k"]
    agreement: Int[np.ndarray, " r"]

    @property
    def first(self) -> Int[np.ndarray, " r"]:
        """The first of the nearest centres of each row."""
        return self.centre[np.searchsorted(self.row, np.arange(len(self.agreement)))]


def nearest_centres(centres: Rows, rows: Rows) -> Nearest:
    """Assigns rows to centres by the number of residues with the same amino acid (or X); gaps and masks never agree."""
    words = -(-centres.letters.shape[1] // _WORD)
    of_centres = _bit_planes(centres, words, _NEVER_IN_CENTRES)
    of_rows = _bit_planes(rows, words, _NEVER_IN_ROWS)
    starts = range(0, len(rows), _BLOCK)
    with ThreadPoolExecutor(min(_MOST_THREADS, _usable_cores())) as pool:
        blocks = (of_rows[:, :, start : start + _BLOCK] for start in starts)
        found = list(pool.map(functools.partial(_nearest_in_block, of_centres), blocks))
    empty = np.zeros(0, np.int64)
    return Nearest(
        row=np.concatenate([empty, *(part.row + start for part, start in zip(found, starts, strict=True))]),
        centre=np.concatenate([empty, *(part.centre for part in found)]),
        agreement=np.concatenate([empty, *(part.agreement for part in found)]),
    )


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _bit_planes(rows: Rows, words: int, never: int) -> UInt64[np.ndarray, "words planes r"]:
    """Letters as bits: plane p holds bit p of 64 residues' codes in each word."""
    codes = np.full((len(rows), words * _WORD), never, np.uint8)
    codes[:, : rows.letters.shape[1]] = np.where((rows.letters < GAP) & rows.mask, rows.letters, never)
    planes = np.empty((words, _PLANES, len(rows)), np.uint64)
    for plane in range(_PLANES):
        planes[:, plane] = np.packbits((codes >> plane) & 1, axis=1).view(np.uint64).T
    return planes


def _nearest_in_block(
    centres: UInt64[np.ndarray, "words planes s"], rows: UInt64[np.ndarray, "words planes r"]
) -> Nearest:
    shape = (rows.shape[2], centres.shape[2])
    differ, plane_differs = np.empty(shape, np.uint64), np.empty(shape, np.uint64)
    count = np.empty(shape, np.uint8)
    num_bits = len(centres) * _WORD
    disagreement = np.zeros(shape, np.uint16 if num_bits < 2**16 else np.uint32)
    for of_centres, of_rows in zip(centres, rows, strict=True):
        np.bitwise_xor(of_rows[0, :, None], of_centres[0], out=differ)
        for plane in range(1, _PLANES):
            np.bitwise_xor(of_rows[plane, :, None], of_centres[plane], out=plane_differs)
            np.bitwise_or(differ, plane_differs, out=differ)
        np.add(disagreement, np.bitwise_count(differ, out=count), out=disagreement)
    least = disagreement.min(axis=1)
    tied = disagreement == least[:, None]
    agreement = num_bits - least.astype(np.int64)
    tied[agreement == 0] = np.arange(shape[1]) == 0
    row, centre = np.nonzero(tied)
    return Nearest(row=row, centre=centre, agreement=agreement)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterSummary:
    """What each cluster looks like: the mean of its members' letters, and of their deletion counts."""

    profile: Float32[np.ndarray, "s n 23"]
    deletion_mean: Float32[np.ndarray, "s n"]


def summarise_monomer(centres: Rows, rows: Rows) -> ClusterSummary:
    """Means over each centre and the rows nearest to it; a row that ties joins the first centre."""
    nearest = nearest_centres(centres, rows).first
    letters, deletions = _sums(centres, rows, (np.arange(len(rows)), nearest, np.ones(len(rows), np.float32)))
    members = letters.sum(axis=-1) + centres.mask + np.float32(1e-6)
    letters += one_hot(centres.letters)
    return ClusterSummary(profile=letters / members[..., None], deletion_mean=(deletions + centres.deletions) / members)


def summarise_multimer(centres: Rows, rows: Rows) -> ClusterSummary:
    """Weighted means over each centre and the rows nearest to it; a row that ties is shared out evenly.

    DISCREPANCY: a row should weigh as much as the centre, but AlphaFold-Multimer's released code weighs it by the
    number of residues at which both are unmasked, so that in any populated cluster the centre itself all but vanishes.
    """
    found = nearest_centres(centres, rows)
    # Counts below 2^24, so the product is exact whatever order a matmul sums in.
    overlap = centres.mask.astype(np.float32) @ rows.mask.T.astype(np.float32)
    ties = np.bincount(found.row, minlength=len(rows))
    shares = np.where(found.agreement > 0, 1 / np.maximum(ties, 1), 0).astype(np.float32)
    weights = shares[found.row] * overlap[found.centre, found.row]
    letters, deletions = _sums(centres, rows, (found.row, found.centre, weights))
    members = np.zeros(len(centres), np.float32)
    np.add.at(members, found.centre, weights)

    astray = np.flatnonzero(found.agreement == 0)  # they tie with every centre
    if len(astray):
        share = np.float32(1 / len(centres))
        lost, weight = rows[astray], overlap[:, astray].astype(np.float64)
        present = (one_hot(lost.letters) * lost.mask[..., None]).reshape(len(lost), -1)
        letters += share * (weight @ present).astype(np.float32).reshape(letters.shape)
        deletions += share * (weight @ (lost.mask * lost.deletions)).astype(np.float32)
        members += share * weight.sum(axis=1).astype(np.float32)

    members += 1
    letters += one_hot(centres.letters) * centres.mask[..., None]
    deletions += centres.deletions
    return ClusterSummary(profile=letters / members[:, None, None], deletion_mean=deletions / members[:, None])


def _sums(
    centres: Rows, rows: Rows, pairs: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> tuple[Float32[np.ndarray, "s n 23"], Float32[np.ndarray, "s n"]]:
    """For each centre the weighted sums of its rows' letters and deletion counts; pairs are (row, centre, weight)."""
    row, centre, weight = (each[pairs[2] != 0] for each in pairs)
    num_centres, num_res = centres.letters.shape
    letters = np.zeros((num_centres, num_res * LETTERS), np.float32)
    deletions = np.zeros((num_centres, num_res), np.float32)
    column = np.arange(num_res) * LETTERS
    order = np.argsort(centre, kind="stable")
    bounds = np.searchsorted(centre[order], np.arange(num_centres + 1)).tolist()
    for number, (first, last) in enumerate(itertools.pairwise(bounds)):  # a centre's sums stay in the cache
        for start in range(first, last, _BLOCK):
            these = order[start : min(start + _BLOCK, last)]
            members = rows[row[these]]
            share = weight[these, None] * members.mask
            letters[number] += np.bincount((column + members.letters).ravel(), share.ravel(), num_res * LETTERS)
            deletions[number] += np.einsum("kn,kn->n", share, members.deletions)
    return letters.reshape(num_centres, num_res, LETTERS), deletions
