"""A directory as one job: which files are which chain's, and whether they agree.

`fastfold_jax.data.job.read_job` states the precedence.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from fastfold_jax.constants.residues import MSA_LETTER_TO_INDEX, UNKNOWN
from fastfold_jax.data import layout
from fastfold_jax.data.a3m_complex import is_complex
from fastfold_jax.data.alignment import Alignment
from fastfold_jax.data.fasta import Record
from fastfold_jax.data.feature_file import read_features
from fastfold_jax.data.job_chains import (
    HEAD,
    Chain,
    Job,
    chains_of,
    complex_chains,
    query_record,
    read_alignment,
    read_records,
)
from fastfold_jax.data.job_hits import hit_files, with_hits
from fastfold_jax.data.names import safe_name
from fastfold_jax.data.textfile import InputError, read_bytes, read_head, shown

logger = logging.getLogger(__name__)

_MANIFEST = b'"finished"'  # stands in the beginning of a manifest of ours
_HEAD = 1 << 10  # bytes of a manifest

_Read = tuple[Path, Alignment]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Group:
    """What belongs to one chain.

    Attributes:
        key: ``chain1`` or a sub-directory's name; "" when the names say nothing.
        query: the sequence that the chain's own FASTA file or the first rows of its alignments give.
        place: the file that the query comes from, for messages.
    """

    key: str
    query: Record
    place: Path
    alignments: tuple[Alignment, ...]
    paired: Alignment | None


def read_directory(directory: Path, *, name: str) -> Job:
    """The job in a directory; see `fastfold_jax.data.job.read_job`."""
    top = files_of(directory)
    alignments = [path for path in top if layout.is_alignment(path)]
    fastas = [path for path in top if layout.format_of(path) == "fasta"]
    whole = [path for path in fastas if layout.chain_prefix(path) is None]
    own = [path for path in fastas if layout.chain_prefix(path) is not None]
    if len(whole) > 1:
        raise InputError(
            f"{directory}: holds several FASTA files ({_listed(whole)}), but a directory is one job; put the chains of "
            "a complex in one file, and jobs of their own in directories of their own"
        )
    records = read_records(whole[0]) if whole else ()
    hits = hit_files(top if alignments else [*top, *_below(directory)], directory)
    if len(alignments) == 1 and is_complex(read_head(alignments[0], HEAD)):
        chains = _check_complex(complex_chains(alignments[0]), alignments[0], records, whole)
        return Job(name=name, chains=with_hits(chains, hits, ()))
    features = [path for path in top if layout.format_of(path) in ("npz", "pickle")]
    if features and not alignments and not fastas:
        return Job(name=name, chains=(), features=_read_only_features(directory, features))
    found = _top_groups(alignments, own, split=bool(records)) if alignments or own else _sub_groups(directory)
    if not found and not records:
        raise InputError(
            f"{directory}: holds no input; accepted are {layout.ACCEPTED}, or sub-directories with these, one a chain"
        )
    groups = _assign(records, found, whole[0]) if records else found
    records = records or tuple(group.query for group in found)
    names = None if whole else [group.key for group in found if group.key]
    if len(groups) == 1:
        groups = [_unpaired(group) if group else None for group in groups]
    chains = chains_of(
        records,
        [group.alignments if group else () for group in groups],
        [group.paired if group else None for group in groups],
        names,
    )
    _check_pairs(chains, directory)
    chains = with_hits(chains, hits, [group.key if group else "" for group in groups])
    for chain in chains:
        rows = ", ".join(f"{len(a.residues)} of {a.source}" for a in (*chain.alignments, chain.paired) if a) or "none"
        logger.info("chain %s: %d residues; alignment rows: %s", chain.id, len(chain.sequence), rows)
    return Job(name=name, chains=chains)


def files_of(directory: Path) -> list[Path]:
    """The files of a directory, without hidden ones, in natural order."""
    return [path for path in entries_of(directory) if path.is_file()]


def entries_of(directory: Path) -> list[Path]:
    """All that is in a directory but hidden files, in natural order."""
    try:
        found = [path for path in directory.iterdir() if not path.name.startswith((".", "__"))]
    except OSError as error:
        raise InputError(f"{directory}: cannot be read ({error.strerror or error})") from None
    return sorted(found, key=lambda path: layout.natural(path.name))


def is_output(directory: Path) -> bool:
    """Whether a directory holds the predictions of a job, which are no input."""
    manifest = directory / layout.MANIFEST
    return manifest.is_file() and _MANIFEST in read_head(manifest, _HEAD)


def _below(directory: Path) -> list[Path]:
    """The files of all sub-directories."""
    return [path for sub in entries_of(directory) if sub.is_dir() for path in files_of(sub)]


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths[:4]) + (", ..." if len(paths) > 4 else "")


def _read_only_features(directory: Path, found: list[Path]) -> dict:
    """The one feature file of a directory, ``features.*`` before any other."""
    preferred = [path for path in found if layout.stem(path) == "features"] or found
    if len(preferred) > 1:
        raise InputError(f"{directory}: holds several feature files ({_listed(preferred)}); give the one to use")
    return read_features(read_bytes(preferred[0]), file=str(preferred[0]))


def _top_groups(alignments: list[Path], fastas: list[Path], *, split: bool) -> list[_Group]:
    """Chains of files that lie side by side, by their prefix.

    Files without a prefix belong to one chain, or, if `split`, each to whichever record its query is.
    """
    by_key: dict[str, list[Path]] = {}
    for path in (*alignments, *fastas):
        prefix = layout.chain_prefix(path)
        by_key.setdefault(prefix.casefold() if prefix else "", []).append(path)
    if "" in by_key and len(by_key) > 1:
        raise InputError(
            f"{by_key[''][0]}: has no chainN_ in front of its name, but other files beside it have; give all of them "
            "one or none"
        )
    groups = []
    for key in sorted(by_key, key=layout.natural):
        paths = by_key[key]
        if key or not split:
            groups.append(_group(key, [p for p in paths if p in alignments], [p for p in paths if p in fastas]))
        else:
            groups += [_merge("", None, same) for same in _by_query([(path, _read_single(path)) for path in paths])]
    return groups


def _by_query(read: list[_Read]) -> list[list[_Read]]:
    """Alignments with one query together, in the order in which queries first appear."""
    groups: list[list[_Read]] = []
    for path, alignment in read:
        alike = (group for group in groups if _mismatch(group[0][1].query, alignment.query) is None)
        group = next(alike, None)
        if group is None:
            groups.append(group := [])
        group.append((path, alignment))
    return groups


def _sub_groups(directory: Path) -> list[_Group]:
    """Chains of sub-directories."""
    groups = []
    for sub in (path for path in entries_of(directory) if path.is_dir()):
        files = files_of(sub)
        alignments = [path for path in files if layout.is_alignment(path)]
        fastas = [path for path in files if layout.format_of(path) == "fasta"]
        if len({layout.chain_prefix(path) for path in (*alignments, *fastas)}) > 1:
            raise InputError(f"{sub}: holds files of several chains, but is itself one chain of the job {directory}")
        if alignments or fastas:
            groups.append(_group(sub.name, alignments, fastas))
    return groups


def _group(key: str, alignments: list[Path], fastas: list[Path]) -> _Group:
    """Reads what belongs to one chain."""
    if len(fastas) > 1:
        raise InputError(f"{fastas[0].parent}: holds several FASTA files for one chain ({_listed(fastas)})")
    query = None
    if fastas:
        records = read_records(fastas[0])
        if len(records) > 1:
            raise InputError(f"{fastas[0]}: holds {len(records)} records, but is the FASTA file of one chain")
        query = records[0], fastas[0]
    return _merge(key, query, [(path, _read_single(path)) for path in alignments])


def _read_single(path: Path) -> Alignment:
    """An alignment of one chain."""
    if is_complex(read_head(path, HEAD)):
        raise InputError(f"{path}: an alignment of a whole complex; it must be the only alignment of its directory")
    return read_alignment(path)


def _merge(key: str, query: tuple[Record, Path] | None, read: list[_Read]) -> _Group:
    """Puts one chain's alignments in order, and sees that all have its query as their first row."""
    pairing = {source: [r for r in read if r[1].source == source] for source in ("paired", "uniprot")}
    for source, found in pairing.items():
        if len(found) > 1:
            raise InputError(
                f"{found[1][0]}: a second alignment to pair ({source}) for one chain, beside {found[0][0].name}"
            )
    pair = next((found[0] for found in pairing.values() if found), None)
    own = [(path, alignment) for path, alignment in read if alignment.source not in pairing]
    own.sort(key=lambda item: layout.merge_rank(item[1].source))  # stable: natural order of names within a source
    if pairing["paired"] and pairing["uniprot"]:
        logger.warning(
            "%s: not used, because %s is paired already", pairing["uniprot"][0][0], pairing["paired"][0][0].name
        )
    every = [*own, pair] if pair else own
    if query is None:
        query = query_record(every[0][1]), every[0][0]
    for path, alignment in every:
        _require_query(alignment, path, *query)
    return _Group(
        key=key,
        query=query[0],
        place=query[1],
        alignments=tuple(alignment for _, alignment in own),
        paired=pair[1] if pair else None,
    )


def _unpaired(group: _Group) -> _Group:
    """A chain without partners: rows that are paired become its own, and UniProt's if it has no others."""
    if group.paired is None or (group.paired.source == "uniprot" and group.alignments):
        return group
    own = dataclasses.replace(group.paired, source="other")
    return dataclasses.replace(group, alignments=(*group.alignments, own), paired=None)


def _mismatch(first: str, second: str) -> int | None:
    """Where two sequences differ first, counted from 1; None if they are the same.

    They are compared as alignments read letters, and X agrees with everything: search tools write rare letters as X.
    """
    for position, letters in enumerate(zip(first, second, strict=False), start=1):
        one, other = (MSA_LETTER_TO_INDEX[letter] for letter in letters)
        if one != other and UNKNOWN not in (one, other):
            return position
    return None if len(first) == len(second) else min(len(first), len(second)) + 1


def _require_query(alignment: Alignment, path: Path, query: Record, place: Path) -> None:
    """Raises unless the first row of an alignment is the query."""
    position = _mismatch(alignment.query, query.sequence)
    if position is None:
        return
    what = f"{len(alignment.query)} residues, not {len(query.sequence)}"
    if position <= min(len(alignment.query), len(query.sequence)):
        what = f"{alignment.query[position - 1]!r} at residue {position}, not {query.sequence[position - 1]!r}"
    raise InputError(
        f"{path}: the first row, {shown(alignment.descriptions[0])}, is not the query {shown(query.description)} of "
        f"{place}: it has {what}; the first row of every alignment must be the sequence to predict"
    )


def _assign(records: Sequence[Record], groups: Sequence[_Group], fasta: Path) -> list[_Group | None]:
    """The alignments of each record of a FASTA file: by number, by name, then by sequence; copies share."""
    chosen: list[_Group | None] = [None] * len(records)
    ids = [chain.id for chain in chains_of(records)]
    named = [_named_record(group, records, ids, fasta) for group in groups]
    # Those whose names say where they belong go first, so that a copy's own alignments are not taken by another.
    for group, index in sorted(zip(groups, named, strict=True), key=lambda item: item[1] is None):
        candidates = [index] if index is not None else _same_sequence(group, records, fasta)
        free = [candidate for candidate in candidates if chosen[candidate] is None]
        if not free:
            raise InputError(
                f"{group.place}: a second set of alignments for the chain {ids[candidates[0]]} of {fasta}; put all "
                "alignments of a chain into one directory or behind one prefix"
            )
        chosen[free[0]] = group
    for index, record in enumerate(records):
        if chosen[index] is None:
            same = (group for group, other in zip(chosen, records, strict=True) if other.sequence == record.sequence)
            chosen[index] = next((group for group in same if group), None)
        if groups and chosen[index] is None:
            logger.warning("%s: no alignment for %s; it is predicted from its sequence alone", fasta, ids[index])
    return chosen


def _named_record(group: _Group, records: Sequence[Record], ids: Sequence[str], fasta: Path) -> int | None:
    """Index of the record that a group's name means: its number, or its name if the sequence agrees."""
    number = layout.chain_number(group.key)
    if number:
        if number > len(records):
            raise InputError(f"{group.place}: is for record {number} of {fasta}, which holds {len(records)}")
        _require_group(group, records[number - 1], fasta)
        return number - 1
    name = safe_name(group.key, otherwise="").casefold()
    index = next((i for i, known in enumerate(ids) if known.casefold() == name), None)
    if index is None or _mismatch(group.query.sequence, records[index].sequence) is not None:
        return None
    return index


def _same_sequence(group: _Group, records: Sequence[Record], fasta: Path) -> list[int]:
    """Indices of the records that are a group's query; there must be one."""
    same = [i for i, record in enumerate(records) if _mismatch(record.sequence, group.query.sequence) is None]
    if not same and len(records) == 1:
        _require_group(group, records[0], fasta)
    if not same:
        raise InputError(
            f"{group.place}: the first row, {shown(group.query.description)} ({len(group.query.sequence)} residues), "
            f"is the sequence of no record of {fasta}"
        )
    return same


def _require_group(group: _Group, record: Record, fasta: Path) -> None:
    """Raises unless a chain's alignments are those of a record."""
    position = _mismatch(group.query.sequence, record.sequence)
    if position is not None:
        raise InputError(
            f"{group.place}: the first row, {shown(group.query.description)} ({len(group.query.sequence)} residues), "
            f"is not the query {shown(record.description)} ({len(record.sequence)} residues) of {fasta}: they differ "
            f"at residue {position}"
        )


def _check_pairs(chains: Sequence[Chain], directory: Path) -> None:
    """Raises unless rows that are paired already correspond in all chains."""
    ready = {
        chain.id: len(chain.paired.residues) for chain in chains if chain.paired and chain.paired.source == "paired"
    }
    if ready and (len(ready) < len(chains) or len(set(ready.values())) > 1):
        counts = ", ".join(f"{chain.id}: {ready.get(chain.id, 'none')}" for chain in chains)
        raise InputError(
            f"{directory}: row i of one chain's paired alignment belongs with row i of every other's, so all need as "
            f"many rows, but there are {counts}"
        )


def _check_complex(
    chains: tuple[Chain, ...], path: Path, records: Sequence[Record], fastas: Sequence[Path]
) -> tuple[Chain, ...]:
    """The chains of a complex A3M, once they are found to be those of the FASTA file beside it, if there is one."""
    if not records:
        return chains
    same = len(chains) == len(records) and all(
        _mismatch(chain.sequence, record.sequence) is None for chain, record in zip(chains, records, strict=True)
    )
    if not same:
        raise InputError(
            f"{path}: its chains ({', '.join(str(len(chain.sequence)) for chain in chains)} residues) are not those of "
            f"{fastas[0]} ({', '.join(str(len(record.sequence)) for record in records)} residues)"
        )
    return chains
