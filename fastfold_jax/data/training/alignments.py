"""The alignments of a chain, from its directory in OpenProteinSet's layout or OpenFold's flat one."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fastfold_jax.constants import MSA_LETTER_TO_INDEX, UNKNOWN
from fastfold_jax.data import layout
from fastfold_jax.data.alignment import Alignment
from fastfold_jax.data.job_chains import Chain, read_alignment
from fastfold_jax.data.textfile import InputError

_FOR_PAIRING = ("uniprot", "paired")
_FOLDERS = ("", "a3m", "sto", "hhr")  # OpenProteinSet sorts a chain's files by format, OpenFold does not


def read_chain(name: str, sequence: str, directory: Path | None, *, pairing: bool) -> Chain:
    """A chain with its alignments: UniProt's to be paired, all others its own.

    Args:
        name: of the chain.
        sequence: its letters.
        directory: of its alignments; None leaves the chain without any.
        pairing: whether the chain is to be paired with others; if not, alignments for that are not read.

    Raises:
        InputError: the directory has no alignment, or one is damaged, empty, or of another sequence.
    """
    chain = Chain(id=name, description=name, sequence=sequence)
    if directory is None:
        return chain
    files = files_of(directory, layout.is_alignment)
    if not files:
        raise InputError(f"{directory}: no alignment (.a3m, .sto) of the chain {name}")
    for_pairing = [path for path in files if layout.source_of(path) in _FOR_PAIRING]
    if len(for_pairing) > 1:
        raise InputError(f"{directory}: {len(for_pairing)} alignments for pairing, of which a chain has one")
    own = [_read(path, chain) for path in files if path not in for_pairing]
    own.sort(key=lambda alignment: layout.merge_rank(alignment.source))
    paired = _read(for_pairing[0], chain) if pairing and for_pairing else None
    return dataclasses.replace(chain, alignments=tuple(own), paired=paired)


def files_of(directory: Path, belongs: Callable[[Path], bool]) -> list[Path]:
    """The files of a chain's directory that are of one kind, in natural order of their names."""
    found = []
    for folder in _FOLDERS:
        try:
            found += [path for path in (directory / folder).iterdir() if path.is_file() and belongs(path)]
        except FileNotFoundError:
            if not folder:
                raise InputError(f"{directory}: no such directory of alignments") from None
        except OSError as error:
            raise InputError(f"{directory / folder}: cannot be read ({error.strerror or error})") from None
    return sorted(found, key=lambda path: layout.natural(path.name))


def _read(path: Path, chain: Chain) -> Alignment:
    """An alignment whose first row is the chain's sequence; X agrees with everything, as modified residues are read."""
    alignment = read_alignment(path)
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
    return alignment
