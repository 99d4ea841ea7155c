"""What the name of an input file says: its format, the database it came from, the chain it belongs to."""

import re
from pathlib import Path
from typing import Literal

from fastfold_jax.data.alignment import Source
from fastfold_jax.data.textfile import PACKED

Format = Literal["fasta", "a3m", "stockholm", "npz", "pickle", "table", "json"]

_SUFFIXES: dict[str, Format] = {
    ".fasta": "fasta",
    ".fa": "fasta",
    ".faa": "fasta",
    ".fas": "fasta",
    ".seq": "fasta",
    ".a3m": "a3m",
    ".sto": "stockholm",
    ".stk": "stockholm",
    ".stockholm": "stockholm",
    ".npz": "npz",
    ".pkl": "pickle",
    ".pickle": "pickle",
    ".csv": "table",
    ".tsv": "table",
    ".json": "json",
}
ACCEPTED = (
    "FASTA (.fasta, .fa), A3M (.a3m), Stockholm (.sto), tables of jobs (.csv, .tsv), AlphaFold 3's .json, each also "
    f"with {', '.join(PACKED[:-1])} or {PACKED[-1]}, or AlphaFold's features (.npz, .pkl)"
)

ALIGNMENTS = "msas"
"""Directory of a job's alignments among its predictions, AlphaFold's and ours."""
MANIFEST = "manifest.json"
"""File of what is finished, in the directory of each job's predictions."""
SUMMARY = "summary.csv"
"""Table of a run's jobs, beside their directories."""

_CHAIN = re.compile(r"(chain[_-]?(?:[0-9]{1,4}|[A-Za-z]))(?=[_.-])", re.IGNORECASE)
_TEMPLATE_HITS = re.compile(r"(pdb\d*_hits|hmm_output|hmmsearch|hhsearch)", re.IGNORECASE)
# The first that occurs in the name decides: bfd_uniref_hits is BFD's, unpaired is not paired.
_SOURCES: tuple[tuple[str, Source], ...] = (
    ("unpaired", "other"),
    ("paired", "paired"),
    ("uniprot", "uniprot"),
    ("uniref90", "uniref90"),
    ("bfd", "bfd"),
    ("uniclust", "bfd"),
    ("uniref30", "bfd"),
    ("mgnify", "mgnify"),
    ("mgy_clusters", "mgnify"),
)
_MERGE_ORDER: tuple[Source, ...] = ("uniref90", "bfd", "mgnify", "other")


def format_of(path: Path) -> Format | None:
    """The format that a file's suffix names, one of `PACKED` behind it aside; None if it is none of ours."""
    return _SUFFIXES.get(Path(_unpacked(path.name).lower()).suffix)


def is_alignment(path: Path) -> bool:
    """Whether a file is an alignment to read; lists of template hits (``pdb_hits.sto``) look like one and are not."""
    return format_of(path) in ("a3m", "stockholm") and not is_template_hits(path)


def is_template_hits(path: Path) -> bool:
    """Whether a file is a list of template hits: ``.hhr``, ``pdb_hits.sto`` and such, packed or not."""
    name = _unpacked(path.name).lower()
    named = _TEMPLATE_HITS.match(_CHAIN.sub("", path.name).lstrip("_.-"))
    return name.endswith(".hhr") or bool(named and format_of(path) in ("a3m", "stockholm"))


def source_of(path: Path) -> Source:
    """The database that an alignment came from, by its file's name."""
    name = path.name.lower()
    return next((source for word, source in _SOURCES if word in name), "other")


def chain_prefix(path: Path) -> str | None:
    """The ``chain1`` of ``chain1_paired.a3m``; None for a name without such a prefix."""
    found = _CHAIN.match(path.name)
    return found.group(1) if found else None


def chain_number(key: str) -> int | None:
    """The 1 of ``chain1``: which record of a FASTA, counted from 1, a prefix or sub-directory stands for."""
    found = re.fullmatch(r"chain[_-]?([0-9]{1,4})", key, re.IGNORECASE)
    return int(found.group(1)) if found else None


def merge_rank(source: Source) -> int:
    """Place of a database in the order in which AlphaFold merges them: UniRef90, BFD, MGnify; then all others."""
    return _MERGE_ORDER.index(source)


def natural(text: str) -> tuple[object, ...]:
    """Sort key by which chain2 comes before chain10."""
    parts = re.split(r"([0-9]+)", text.casefold())  # words and numbers take turns
    return tuple((int(part), part) if place % 2 else (0, part) for place, part in enumerate(parts))


def stem(path: Path) -> str:
    """A file's name without the suffixes that say its format."""
    name = _unpacked(path.name)
    suffix = Path(name).suffix
    return name[: -len(suffix)] if suffix.lower() in _SUFFIXES else name


def _unpacked(name: str) -> str:
    """A file's name without what says how it is packed."""
    return Path(name).stem if name.lower().endswith(PACKED) else name
