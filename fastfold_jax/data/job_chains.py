"""The chains of a prediction job, and what single files say about them."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from fastfold_jax.data import layout
from fastfold_jax.data.a3m import read_a3m
from fastfold_jax.data.a3m_complex import is_complex, read_complex_a3m
from fastfold_jax.data.alignment import Alignment, Source
from fastfold_jax.data.fasta import Record, parse_each, parse_fasta, split_chains
from fastfold_jax.data.msa import Limits
from fastfold_jax.data.names import safe_name, unique_names
from fastfold_jax.data.raw import Templates
from fastfold_jax.data.stockholm import is_stockholm, read_stockholm
from fastfold_jax.data.textfile import InputError, Unusable, read_bytes, read_head

HEAD = 1 << 16
"""Bytes by which a file's format is told."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Chain:
    """One chain to predict; copies of a chain are chains of their own.

    Attributes:
        id: name of the chain, safe in file names and unique in its job whatever the case.
        description: the header it came with.
        sequence: letters A to Z; B, J, O, U, X and Z stand for unknown residues.
        alignments: in the order in which AlphaFold merges them: UniRef90, BFD, MGnify, others.
        paired: rows to be paired with those of the other chains: by species if its source is ``uniprot``, row by row if
            it is ``paired`` (then each chain of the job has as many).
        templates: structures aligned to the sequence, best first; None where nobody has looked for any.
        hits: files of template hits that came with the input.
        label: what the input asks for it to be called in structure files; "" if it does not.
    """

    id: str
    description: str
    sequence: str
    alignments: tuple[Alignment, ...] = ()
    paired: Alignment | None = None
    templates: Templates | None = None
    hits: tuple[Path, ...] = ()
    label: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class InitialGuess:
    """What the first pass takes for the structure of a pass before it.

    Attributes:
        file: name of the file that it is from.
        positions: Å, atom37, of all chains in order.
    """

    file: str
    positions: Float32[np.ndarray, "n 37 3"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """What one prediction needs: a single chain or a complex.

    Attributes:
        name: from the file's or the directory's name, safe in file names.
        chains: in order; empty for a job of ready-made features.
        features: AlphaFold's own feature dictionary, when that was the input.
        seeds: that the job itself asks for (AlphaFold 3's ``modelSeeds``); empty where it does not.
        initial_guess: the structure that predictions start from, if any.
    """

    name: str
    chains: tuple[Chain, ...]
    features: Mapping[str, np.ndarray] | None = None
    seeds: tuple[int, ...] = ()
    initial_guess: InitialGuess | None = None


def read_each_record(path: Path) -> tuple[Record | Unusable, ...]:
    """The records of a FASTA file, in whose sequences ``:`` joins the chains of a complex, as far as they are good."""
    return parse_each(_fasta(path), file=str(path), joined=True)


def read_records(path: Path) -> tuple[Record, ...]:
    """The chains in a FASTA file: its records, and of those with a ``:`` in their sequence the parts."""
    records = parse_fasta(_fasta(path), file=str(path), joined=True)
    return tuple(part for record in records for part in chain_records(record, place=str(path)))


def _fasta(path: Path) -> bytes:
    """The text of a file that is read as FASTA."""
    data = read_bytes(path)
    if is_stockholm(data) or is_complex(data):
        raise InputError(f"{path}: an alignment, not a FASTA file; its name must end in .a3m or .sto")
    return data


def chain_records(record: Record, *, place: str) -> tuple[Record, ...]:
    """The chains of a record, each with the record's header."""
    parts = split_chains(record.sequence, place=place, name=record.description)
    return tuple(Record(description=record.description, sequence=part) for part in parts)


def read_alignment(path: Path, source: Source | None = None) -> Alignment:
    """An alignment of one chain; a file that begins as Stockholm is one whatever its suffix.

    Of a file with more rows than `Limits` admits those that it admits are kept. Unless `source` says what the rows
    came from, the file's name does.
    """
    source = source or layout.source_of(path)
    if is_stockholm(read_head(path, HEAD)) or layout.format_of(path) == "stockholm":
        return read_stockholm(path, source=source, choose=lambda count: Limits().rows(source, count))
    return read_a3m(path, source=source, choose=lambda count: Limits().rows(source, count))


def read_alignment_job(path: Path) -> tuple[Chain, ...]:
    """The chains of a single alignment file, which is its own query; a complex A3M has several."""
    if is_complex(read_head(path, HEAD)):
        return complex_chains(path)
    alignment = read_alignment(path)
    if alignment.source in ("uniprot", "paired"):  # alone, they have nothing to be paired with
        alignment = dataclasses.replace(alignment, source="other")
    return chains_of([query_record(alignment)], [(alignment,)])


def complex_chains(path: Path) -> tuple[Chain, ...]:
    """The chains of a complex A3M, copies one after another."""
    parts = [part for part in read_complex_a3m(path, choose=Limits().rows) for _ in range(part.copies)]
    records = [Record(description=part.description, sequence=part.query) for part in parts]
    return chains_of(records, [(part.unpaired,) for part in parts], [part.paired for part in parts])


def query_record(alignment: Alignment) -> Record:
    """The query of an alignment as a sequence to predict."""
    return Record(description=alignment.descriptions[0], sequence=alignment.query)


def chains_of(
    records: Sequence[Record],
    alignments: Sequence[tuple[Alignment, ...]] | None = None,
    paired: Sequence[Alignment | None] | None = None,
    names: Sequence[str] | None = None,
) -> tuple[Chain, ...]:
    """Chains with safe, unique names: the given ones, or the first words of the headers."""
    words = names or [(record.description.split() or [""])[0] for record in records]
    ids = unique_names(safe_name(word, otherwise=f"chain{number}") for number, word in enumerate(words, start=1))
    return tuple(
        Chain(
            id=ids[i],
            description=record.description,
            sequence=record.sequence,
            alignments=alignments[i] if alignments else (),
            paired=paired[i] if paired else None,
        )
        for i, record in enumerate(records)
    )


def with_copies(job: Job, copies: Sequence[int], *, place: str) -> Job:
    """The job with each chain so many times, copies one after another; they share alignments.

    Raises:
        InputError: there is not a number for each chain, or the job is of ready-made features.
    """
    if job.features is not None:
        raise InputError(f"{place}: AlphaFold's own features hold all copies already; a stoichiometry cannot be given")
    if len(copies) != len(job.chains):
        raise InputError(
            f"{place}: a stoichiometry of {':'.join(map(str, copies))}, but {len(job.chains)} chains; accepted is one "
            "number a chain"
        )
    repeated = [chain for chain, count in zip(job.chains, copies, strict=True) for _ in range(count)]
    ids = unique_names(chain.id for chain in repeated)
    chains = tuple(dataclasses.replace(chain, id=name) for chain, name in zip(repeated, ids, strict=True))
    return dataclasses.replace(job, chains=chains)
