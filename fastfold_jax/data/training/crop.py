"""Which residues of a chain or complex one training example keeps.

AlphaFold 2 supplement, section 1.2.8; AlphaFold-Multimer supplement (Evans et al. 2022), section 7.2. Every function
returns indices of residues, ascending.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from fastfold_jax.data.draws import Draws

INTERFACE_DISTANCE = 15.0
"""Å between Cα atoms of different chains, below which both residues are at an interface."""

_BLOCK = 512  # residues whose distances to all others are computed at a time
_TIE = 1e-3  # Å a residue number: breaks ties of distance in favour of the earlier residue


def contiguous(num_res: int, size: int, draws: Draws, *, clamped: bool = True) -> Int[np.ndarray, " kept"]:
    """One stretch of a single chain.

    Its start is uniform where the loss is clamped, and tends towards the beginning of the chain where it is not.
    """
    if num_res <= size:
        return np.arange(num_res)
    last = num_res - size
    if not clamped:
        last -= _upto(draws, last)
    start = _upto(draws, last)
    return np.arange(start, start + size)


def around(wanted: Int[np.ndarray, " k"], num_res: int, size: int, draws: Draws) -> Int[np.ndarray, " kept"]:
    """One stretch that holds a random one of some residues, for structures of which little is known."""
    residue = int(wanted[_upto(draws, len(wanted) - 1)])
    start = max(0, min(residue - _upto(draws, size - 1), num_res - size))
    return np.arange(start, min(start + size, num_res))


def contiguous_complex(lengths: Sequence[int], size: int, draws: Draws) -> Int[np.ndarray, " kept"]:
    """A stretch of each chain, `size` residues in all (AlphaFold-Multimer supplement, Algorithm 1).

    Chains are visited in random order, each giving a stretch of random length, no shorter than the others need.
    """
    remaining, wanted = sum(lengths), min(size, sum(lengths))
    starts = np.cumsum([0, *lengths[:-1]])
    kept = []
    for chain in draws.permutation(len(lengths)):
        remaining -= lengths[chain]
        most = min(wanted, lengths[chain])
        least = min(lengths[chain], max(0, wanted - remaining))
        length = least + _upto(draws, most - least)
        wanted -= length
        start = starts[chain] + _upto(draws, lengths[chain] - length)
        kept.append(np.arange(start, start + length))
    return np.sort(np.concatenate(kept))


def spatial(
    alpha: Float[np.ndarray, "n 3"],
    known: Bool[np.ndarray, " n"],
    asym_id: Int[np.ndarray, " n"],
    size: int,
    draws: Draws,
) -> Int[np.ndarray, " kept"] | None:
    """The residues nearest to one at an interface (AlphaFold-Multimer supplement, Algorithm 2).

    Where there is room, residues of unknown place follow, as OpenFold has it.

    Args:
        alpha: Cα positions, Å.
        known: where they are known.
        asym_id: chain of each residue.
        size: how many residues to keep.
        draws: the random stream.

    Returns:
        None where no two chains are near each other.
    """
    at_interface = np.flatnonzero(interface(alpha, known, asym_id))
    if not len(at_interface):
        return None
    centre = at_interface[_upto(draws, len(at_interface) - 1)]
    distance = np.linalg.norm(alpha - alpha[centre], axis=1) + _TIE * np.arange(len(alpha))
    distance[~known] = np.inf
    return np.sort(np.argsort(distance, kind="stable")[:size])


def interface(
    alpha: Float[np.ndarray, "n 3"], known: Bool[np.ndarray, " n"], asym_id: Int[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    """Which residues have a residue of another chain within `INTERFACE_DISTANCE`."""
    found = np.zeros(len(alpha), bool)
    columns = np.flatnonzero(known)
    others, chains = alpha[columns], asym_id[columns]
    for start in range(0, len(columns), _BLOCK):
        rows = columns[start : start + _BLOCK]
        near = np.zeros((len(rows), len(columns)), np.float32)
        for axis in range(3):
            near += np.square(alpha[rows, axis, None] - others[:, axis])
        other_chain = asym_id[rows, None] != chains
        found[rows] = ((near < INTERFACE_DISTANCE**2) & other_chain).any(axis=1)
    return found


def _upto(draws: Draws, largest: int) -> int:
    """A uniform integer from 0 to `largest`, both included."""
    return int(draws.below(np.array([largest + 1]))[0])
