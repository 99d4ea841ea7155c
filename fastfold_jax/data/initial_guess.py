"""A structure for the first pass to refine, as if a pass before it had predicted that.

The initial guess of AlphaFold 2 (Bennett et al. 2023, Nature Communications 14, 2625), with which designed binders are
judged: does the network keep the complex that it is shown? A network sees of it only distances between Cβ atoms.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from fastfold_jax.constants import ATOM37_INDEX
from fastfold_jax.data.job import Job
from fastfold_jax.data.job_chains import InitialGuess
from fastfold_jax.data.raw import chain_bounds
from fastfold_jax.data.structure import ChainStructure, StructureError, is_structure, read_structure, structure_name
from fastfold_jax.errors import UserError

_OPTION = "--initial-guess"
# Å from one to the next: recycling has no bin for distances from 10,000 Å on, so that these say nothing.
_APART = 20_000.0


def check_initial_guess(place: Path | None) -> None:
    """Checks that what the option names is there.

    Raises:
        UserError: if it is not.
    """
    if place is not None and not place.exists():
        raise UserError(f"{_OPTION} {place}: no such file or directory")


def with_initial_guess(job: Job, place: Path | None) -> Job:
    """The job with the structure that its predictions start from.

    Args:
        place: its file, or a directory with a file of the job's name; None for no guess.

    Raises:
        UserError: there is no such file, it cannot be read, or its chains are not as long as the job's.
    """
    if place is None:
        return job
    return dataclasses.replace(job, initial_guess=read_initial_guess(_file_for(job.name, place), _lengths(job)))


def read_initial_guess(path: Path, lengths: Sequence[int]) -> InitialGuess:
    """The polypeptides of a structure file, one behind the other.

    Args:
        path: mmCIF or PDB.
        lengths: residues of each chain that they must have. Which amino acids they are does not matter, so a designed
            backbone may be all glycine.

    Raises:
        UserError: see above.
    """
    try:
        structure = read_structure(path)
        chains = [structure.chain(label) for label in structure.polymers]
    except StructureError as error:
        raise UserError(f"{_OPTION} {error}") from None
    found = [len(chain.sequence) for chain in chains]
    if found != list(lengths):
        raise UserError(
            f"{_OPTION} {path}: has {_chains(found)}, but what is predicted has {_chains(lengths)}, in this order"
        )
    return InitialGuess(file=path.name, positions=_far_if_unknown(np.concatenate([_positions(x) for x in chains])))


def _file_for(name: str, place: Path) -> Path:
    if not place.is_dir():
        return place
    found = sorted(path for path in place.iterdir() if is_structure(path) and structure_name(path) == name)
    if len(found) != 1:
        names = ", ".join(path.name for path in found) if found else f"no structure named {name}"
        raise UserError(f"{_OPTION} {place}: holds {names}; one is needed, such as {name}.pdb or {name}.cif")
    return found[0]


def _lengths(job: Job) -> list[int]:
    if job.features is None:
        return [len(chain.sequence) for chain in job.chains]
    one_chain = np.zeros(len(job.features["aatype"]), int)
    return [stop - start for start, stop in chain_bounds(np.asarray(job.features.get("asym_id", one_chain)))]


def _chains(lengths: Sequence[int]) -> str:
    if len(lengths) == 1:
        return f"one chain of {lengths[0]} residues"
    return f"{len(lengths)} chains of {', '.join(map(str, lengths))} residues"


def _positions(chain: ChainStructure) -> Float32[np.ndarray, "n 37 3"]:
    """Å, atom37, NaN where unknown; Cβ atoms that are missing, as a glycine's, put where the backbone has them."""
    positions = np.where(chain.atom_mask[..., None] > 0, chain.positions, np.float32(np.nan))
    n, alpha, c, beta = (positions[:, ATOM37_INDEX[name]] for name in ("N", "CA", "C", "CB"))
    # The ideal tetrahedron of an alanine, in terms of the bonds from N to Cα and from Cα to C.
    first, second = alpha - n, c - alpha
    ideal = alpha - 0.58273431 * np.cross(first, second) + 0.56802827 * first - 0.54067466 * second
    positions[:, ATOM37_INDEX["CB"]] = np.where(np.isnan(beta), ideal, beta)
    return positions


def _far_if_unknown(positions: Float32[np.ndarray, "n 37 3"]) -> Float32[np.ndarray, "n 37 3"]:
    """Numbers everywhere: what is unknown is far from all else, and from what is unknown of other residues."""
    far = _APART * (1 + np.arange(len(positions), dtype=np.float32))
    return np.where(np.isnan(positions), far[:, None, None], positions)
