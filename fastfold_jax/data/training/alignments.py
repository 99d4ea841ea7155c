"""The alignments of a chain, from its directory in OpenProteinSet's layout or OpenFold's flat one."""

import dataclasses
from pathlib import Path

import numpy as np

from fastfold_jax.constants import MSA_LETTER_TO_INDEX, UNKNOWN
from fastfold_jax.data import layout
from fastfold_jax.data.alignment import Alignment
from fastfold_jax.data.job_chains import Chain, read_alignment
from fastfold_jax.data.textfile import InputError

_FOLDERS = ("", "a3m", "sto")  # OpenProteinSet sorts a chain's files by format, OpenFold does not


def read_chain(name: str, sequence: str, directory: Path | None) -> Chain:
    """A chain with its alignments: UniProt's to be paired, all others its own.

    Args:
        name: of the chain.
        sequence: its letters.
        directory: of its alignments; None leaves the chain without any.

    Raises:
        InputError: the directory has no alignment, or one is damaged, empty, or of another sequence.
    """
    chain = Chain(id=name, description=name, sequence=sequence)
    if directory is None:
        return chain
    files = alignment_files(directory)
    if not files:
        raise InputError(f"{directory}: no alignment (.a3m, .sto) of the chain {name}")
    own, paired = [], []
    for path in files:
        alignment = read_alignment(path)
        _require_query(alignment, path, chain)
        (paired if alignment.source in ("uniprot", "paired") else own).append(alignment)
    own.sort(key=lambda alignment: layout.merge_rank(alignment.source))
    if len(paired) > 1:
        raise InputError(f"{directory}: {len(paired)} alignments for pairing, of which a chain has one")
    return dataclasses.replace(chain, alignments=tuple(own), paired=paired[0] if paired else None)


def alignment_files(directory: Path) -> list[Path]:
    """The alignments in a chain's directory, in natural order of their names."""
    found = []
    for folder in _FOLDERS:
        try:
            found += [path for path in (directory / folder).iterdir() if path.is_file() and layout.is_alignment(path)]
        except FileNotFoundError:
            if not folder:
                raise InputError(f"{directory}: no such directory of alignments") from None
        except OSError as error:
            raise InputError(f"{directory / folder}: cannot be read ({error.strerror or error})") from None
    return sorted(found, key=lambda path: layout.natural(path.name))


def _require_query(alignment: Alignment, path: Path, chain: Chain) -> None:
    """Raises unless the first row is the chain's sequence; X agrees with everything, as modified residues are read."""
    query = alignment.residues[0]
    wanted = np.array([MSA_LETTER_TO_INDEX[letter] for letter in chain.sequence], np.int8)
    if len(query) != len(wanted):
        raise InputError(
            f"{path}: the first row has {len(query)} residues, but the chain {chain.id} has {len(wanted)}; it must be "
            "the chain's whole sequence"
        )
    differs = np.flatnonzero((query != wanted) & (query != UNKNOWN) & (wanted != UNKNOWN))
    if len(differs):
        place = differs[0]
        letter = alignment.query[place] if alignment.query else "another letter"
        raise InputError(
            f"{path}: the first row has {letter!r} at residue {place + 1}, but the chain {chain.id} has "
            f"{chain.sequence[place]!r}; it must be the chain's own sequence"
        )
