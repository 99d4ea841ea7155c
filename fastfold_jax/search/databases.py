"""The databases a user has: found in directories, told apart by their files, and named by what they hold."""

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from fastfold_jax.data import layout
from fastfold_jax.data.alignment import Source
from fastfold_jax.errors import UserError

Kind = Literal["fasta", "mmseqs", "hhsuite"]

_HHSUITE = "_a3m.ffdata"
_MMSEQS = ".dbtype"
_MMSEQS_PARTS = (".idx", "_h", "_aln", "_seq", "_seq_h", "_mapping", "_taxonomy")
_ACCEPTED = (
    "accepted are FASTA files (.fasta, .fa, .faa, .fas, also packed), prefixes of MMseqs2 databases (PREFIX.dbtype "
    "exists) and of HH-suite databases (PREFIX_a3m.ffdata exists), and directories of them"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Database:
    """One database to search.

    Attributes:
      path: The FASTA file, or the prefix of the database's files.
      kind: What program reads it.
      source: What its hits are for.
      templates: Whether it holds the chains of the PDB, which serve as templates and not as alignments.
    """

    path: Path
    kind: Kind
    source: Source
    templates: bool

    @property
    def name(self) -> str:
        """A short name for messages."""
        return self.path.name

    def fingerprint(self) -> str:
        """Changes whenever the files do: a digest of their names, sizes and dates.

        Databases reach hundreds of gigabytes, so their content is not read for it.
        """
        files = [self.path] if self.kind == "fasta" else sorted(self.path.parent.glob(f"{self.path.name}*"))
        stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
        return hashlib.sha256(repr((self.kind, stats)).encode()).hexdigest()


def find_databases(paths: Sequence[Path]) -> tuple[Database, ...]:
    """Every database that paths name or hold, each once, in the order given.

    A directory is searched two levels deep; hidden files in it and files of other formats are left alone.

    Raises:
      UserError: if a path is or holds no database.
    """
    found: dict[Path, Database] = {}
    for path in paths:
        here = list(_in_directory(path, depth=2)) if path.is_dir() else [_single(path)]
        if not here:
            raise UserError(f"--databases {path}: holds no database; {_ACCEPTED}")
        for database in here:
            found.setdefault(database.path.resolve(), database)
    return tuple(found.values())


def _single(path: Path) -> Database:
    for suffix, kind in ((_HHSUITE, "hhsuite"), (_MMSEQS, "mmseqs")):
        if path.with_name(path.name + suffix).is_file():
            return _database(path, kind)  # type: ignore[arg-type]
    if not path.is_file():
        raise UserError(f"--databases {path}: no such database; {_ACCEPTED}")
    for suffix, kind in ((_HHSUITE, "hhsuite"), (_MMSEQS, "mmseqs")):  # one of the files, for its prefix
        if path.name.endswith(suffix):
            return _database(path.with_name(path.name.removesuffix(suffix)), kind)  # type: ignore[arg-type]
    if layout.format_of(path) not in ("fasta", None):
        raise UserError(f"--databases {path}: an input, not a database; {_ACCEPTED}")
    return _database(path, "fasta")


def _in_directory(directory: Path, *, depth: int) -> Iterable[Database]:
    try:
        entries = sorted(directory.iterdir(), key=lambda path: layout.natural(path.name))
    except OSError as error:
        raise UserError(f"--databases {directory}: cannot be read ({error.strerror or error})") from None
    visible = [path for path in entries if not path.name.startswith(".")]
    names = {path.name for path in visible}
    for path in visible:
        if path.is_dir():
            if depth > 1:
                yield from _in_directory(path, depth=depth - 1)
        elif layout.format_of(path) == "fasta":
            yield _database(path, "fasta")
        elif path.name.endswith(_HHSUITE):
            yield _database(path.with_name(path.name.removesuffix(_HHSUITE)), "hhsuite")
        elif path.name.endswith(_MMSEQS) and not _is_part(path.name.removesuffix(_MMSEQS), names):
            yield _database(path.with_name(path.name.removesuffix(_MMSEQS)), "mmseqs")


def _is_part(name: str, names: set[str]) -> bool:
    """Whether a MMseqs2 database belongs to another, such as the headers of its sequences."""
    return any(name.endswith(part) and name.removesuffix(part) + _MMSEQS in names for part in _MMSEQS_PARTS)


def _database(path: Path, kind: Kind) -> Database:
    if not os.access(path, os.R_OK) and kind == "fasta":
        raise UserError(f"--databases {path}: cannot be read")
    return Database(path=path, kind=kind, source=layout.source_of(path), templates="pdb_seqres" in path.name.lower())
