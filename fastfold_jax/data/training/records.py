"""The index: what is known about each structure file and its chains, one JSON object a line.

The first line says where structures and alignments lie. A file that could not be read has its line too, with the
reason instead of chains, so that it is not read again until it changes.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fastfold_jax.constants.residues import RESTYPES_WITH_X
from fastfold_jax.data.structure import Structure, structure_name
from fastfold_jax.errors import UserError

FORMAT = "fastfold-jax training index 1"


class IndexFileError(UserError):
    """An index that is missing, damaged, or of another kind."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChainEntry:
    """A polypeptide of a structure file.

    Attributes:
        label, author, entity: `label_asym_id`, `auth_asym_id`, `entity_id`.
        length: residues of the whole sequence.
        resolved: residues whose Cα is known.
        composition: how often each of ``ARNDCQEGHILKMFPSTWYVX`` occurs.
        alignment: directory of its alignments beneath that of all; None if there is none.
        cluster: name of the cluster of sequences it belongs to; None if no clusters were given or it is in none.
    """

    label: str
    author: str
    entity: str
    length: int
    resolved: int
    composition: tuple[int, ...]
    alignment: str | None = None
    cluster: str | None = None

    @property
    def largest_share(self) -> float:
        """Share of the most frequent residue type."""
        return max(self.composition) / max(self.length, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileEntry:
    """A structure file.

    Attributes:
        file: path beneath the directory of structures.
        size, mtime_ns: of the file when it was read, which tell whether it has changed.
        release_date, resolution, method: see `Structure`.
        chains: polypeptides with known atoms.
        error: why the file cannot be used, "" if it can.
    """

    file: str
    size: int
    mtime_ns: int
    release_date: str | None = None
    resolution: float | None = None
    method: str = ""
    chains: tuple[ChainEntry, ...] = ()
    error: str = ""

    @property
    def name(self) -> str:
        """Name of the structure, such as ``2q2k``."""
        return structure_name(Path(self.file))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Index:
    """All entries, and the directories that their paths are beneath."""

    structures: Path
    alignments: Path | None
    files: tuple[FileEntry, ...]


def describe(structure: Structure, entry: FileEntry) -> FileEntry:
    """The entry of a file that has been read; chains without any known atom are left out."""
    chains = []
    for label, polymer in structure.polymers.items():
        resolved = structure.resolved(label)
        if resolved:
            chains.append(
                ChainEntry(
                    label=label,
                    author=polymer.author,
                    entity=polymer.entity,
                    length=len(polymer.letters),
                    resolved=resolved,
                    composition=composition(polymer.letters),
                )
            )
    return dataclasses.replace(
        entry,
        release_date=structure.release_date,
        resolution=structure.resolution,
        method=structure.method,
        chains=tuple(chains),
        error="" if chains else f"{structure.file}: no polypeptide has a Cα with known coordinates",
    )


def composition(letters: str) -> tuple[int, ...]:
    """How often each of ``ARNDCQEGHILKMFPSTWYVX`` occurs in a sequence; all others count as X."""
    counts = [letters.count(letter) for letter in RESTYPES_WITH_X[:-1]]
    return (*counts, len(letters) - sum(counts))


def header_line(structures: Path, alignments: Path | None, index: Path) -> str:
    """The first line of an index; paths are relative to its own directory, so that the whole can be moved."""
    base = index.resolve().parent
    relative = {"structures": structures, "alignments": alignments}
    places = {key: path and os.path.relpath(path.resolve(), base) for key, path in relative.items()}
    return json.dumps({"format": FORMAT, **places})


def line(entry: FileEntry) -> str:
    """An entry as one line of JSON, what has no value left out."""

    def known(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        return {key: value for key, value in pairs if value not in (None, "", ())}

    return json.dumps(dataclasses.asdict(entry, dict_factory=known), separators=(",", ":"))


def parse_line(text: str) -> FileEntry:
    """The entry of a line.

    Raises:
        ValueError, TypeError, KeyError: it is none.
    """
    fields = json.loads(text)
    chains = [{**chain, "composition": tuple(chain["composition"])} for chain in fields.pop("chains", ())]
    return FileEntry(**fields, chains=tuple(ChainEntry(**chain) for chain in chains))


def read_index(path: Path, *, structures: Path | None = None, alignments: Path | None = None) -> Index:
    """The index in a file.

    Args:
        path: the file.
        structures, alignments: directories to use instead of those that the index names.

    Raises:
        IndexFileError: the file is missing, damaged or no index.
    """
    lines = _lines(path)
    head = next(lines, None)
    try:
        header = json.loads(head[1]) if head else {}
    except ValueError:
        header = {}
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise IndexFileError(
            f"{path}: not an index of training structures; `python -m fastfold_jax.training.index` makes one"
        )
    entries = []
    for number, text in lines:
        try:
            entries.append(parse_line(text))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise IndexFileError(
                f"{path}, line {number}: a damaged index; make it again with `python -m fastfold_jax.training.index`"
            ) from None
    base = path.resolve().parent
    given = header.get("alignments")
    return Index(
        structures=structures or Path(os.path.normpath(base / header["structures"])),
        alignments=alignments or (Path(os.path.normpath(base / given)) if given else None),
        files=tuple(entries),
    )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines that are not blank."""
    try:
        with path.open(encoding="utf-8") as stream:
            yield from ((number, text) for number, text in enumerate(stream, start=1) if text.strip())
    except FileNotFoundError:
        raise IndexFileError(
            f"{path}: no such index; `python -m fastfold_jax.training.index` makes one from a directory of structures"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise IndexFileError(f"{path}: cannot be read ({error})") from None


def read_journal(path: Path) -> dict[str, FileEntry]:
    """Entries of an index or of an unfinished one by file; a last line cut short and whatever else is no entry go."""
    entries = {}
    if path.exists():
        for _, text in _lines(path):
            try:
                entry = parse_line(text)
            except (ValueError, TypeError, KeyError, AttributeError):
                continue
            entries[entry.file] = entry
    return entries


def read_groups(path: Path) -> tuple[tuple[str, ...], ...]:
    """Names that belong together, a line each: clusters of chains, or chains of equal sequence.

    Raises:
        UserError: the file cannot be read, or is empty.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    groups = tuple(tuple(row.replace(",", " ").split()) for row in text.splitlines() if row.strip())
    if not groups:
        raise UserError(f"{path}: empty; a line each is expected, such as '2q2k_A 4hhb_B'")
    return groups


def assign(entries: Iterable[FileEntry], clusters: Iterable[Iterable[str]]) -> Iterator[FileEntry]:
    """Entries with the cluster of each chain, which is named by its first member.

    Members are all chains, ``2q2k_A`` (author's chain, whatever the case of the PDB id), or all entities, ``2q2k_1``,
    which they are if every one ends in a number: chains too may be called 1.
    """
    cluster_of = {_key(member): group[0] for group in map(tuple, clusters) for member in group}
    of_entities = all(name.rpartition("_")[2].isdecimal() for name in cluster_of)
    for entry in entries:
        chains = []
        for chain in entry.chains:
            name = f"{entry.name}_{chain.entity if of_entities else chain.author}"
            chains.append(dataclasses.replace(chain, cluster=cluster_of.get(_key(name))))
        yield dataclasses.replace(entry, chains=tuple(chains))


def with_clusters(index: Index, path: Path | None) -> Index:
    """The index with other clusters than those it was made with; None leaves them.

    Raises:
        UserError: the file cannot be read, is empty, or names no chain of the index.
    """
    if path is None:
        return index
    files = tuple(assign(index.files, read_groups(path)))
    if not any(chain.cluster for entry in files for chain in entry.chains):
        raise UserError(f"{path}: none of its clusters has a chain of the index; names are such as 2q2k_A")
    return dataclasses.replace(index, files=files)


def locate_alignments(
    entries: Iterable[FileEntry], directories: Iterable[str], duplicates: Iterable[Iterable[str]] = ()
) -> Iterator[FileEntry]:
    """Entries with the directory of each chain's alignments.

    Args:
        entries: what is in the index.
        directories: names of the directories, ``2q2k_A`` for the author's chain; for a structure of one chain also
            its name alone.
        duplicates: chains of equal sequence, of which one has the alignments (OpenProteinSet).
    """
    present = {_key(name): name for name in directories}
    for group in map(tuple, duplicates):
        shared = next((present[_key(member)] for member in group if _key(member) in present), None)
        if shared is not None:
            present |= {_key(member): present.get(_key(member), shared) for member in group}
    for entry in entries:
        chains = []
        for chain in entry.chains:
            names = [f"{entry.name}_{chain.author}", f"{entry.name}_{chain.label}"]
            names += [entry.name] if len(entry.chains) == 1 else []
            found = next((present[_key(name)] for name in names if _key(name) in present), None)
            chains.append(dataclasses.replace(chain, alignment=found))
        yield dataclasses.replace(entry, chains=tuple(chains))


def _key(name: str) -> str:
    """A chain's name with its structure's in lower case; chains differ by case."""
    structure, underscore, chain = name.rpartition("_")
    return f"{structure.lower()}_{chain}" if underscore else name.lower()


def unusable(files: Iterable[FileEntry]) -> Mapping[str, str]:
    """Files that cannot be used, each with the reason."""
    return {entry.file: entry.error for entry in files if entry.error}
