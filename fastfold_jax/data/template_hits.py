"""Template hits: which residues of known structures were aligned to a query, from HHsearch's and hmmsearch's files."""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from fastfold_jax.data.stockholm import is_stockholm, read_rows
from fastfold_jax.data.textfile import InputError, at, normalise, read_bytes, shown

_HIT_NAME = re.compile(r"([A-Za-z0-9]{4})_([A-Za-z0-9.]+)")
_SEARCH_NAME = re.compile(r"(?P<entry>.+)_(?P<chain>[^_/]+)/(?P<start>\d{1,9})-(?P<end>\d{1,9})")
_SUMMARY = re.compile(rb"Aligned_cols=\s*(?P<columns>\d{1,9})\b.*Sum_probs=\s*(?P<probs>\d+(?:\.\d+)?)")
_ROW = re.compile(rb"\s*(?P<start>\d{1,9})\s+(?P<letters>[A-Za-z-]+)\s+\d+\s+\(\d+\)\s*")
_NAME_COLUMNS = 17  # of a row in an hhr file
_NOT_A_SEQUENCE = (b"Consensus", b"ss_dssp", b"ss_pred", b"ss_conf")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TemplateHit:
    """A stretch of a known structure aligned to the query.

    Attributes:
        entry: PDB code in lower case, or whatever the structure's file is named.
        chain: the author's name of the chain.
        sequence: the stretch, from the first to the last aligned residue, without gaps.
        query: [k] aligned residues of the query, from 0, ascending.
        hit: [k] the residue of `sequence` that each is aligned to, from 0.
        aligned_columns: columns that the program counted as aligned.
        sum_probs: HHsearch's sum of probabilities; None from hmmsearch, whose hits come best first.
    """

    entry: str
    chain: str
    sequence: str
    query: Int[np.ndarray, " k"]
    hit: Int[np.ndarray, " k"]
    aligned_columns: int
    sum_probs: float | None

    @property
    def name(self) -> str:
        """Entry and chain."""
        return f"{self.entry}_{self.chain}"


def read_hits(path: Path, query: str) -> list[TemplateHit]:
    """The hits in a file: ``.hhr`` of HHsearch, Stockholm or A3M of hmmsearch; best first.

    Args:
        path: the file.
        query: the sequence that was searched with.

    Raises:
        InputError: the file is none of these, damaged, or its hits are not to this query.
    """
    text = normalise(read_bytes(path), file=str(path))
    if is_stockholm(text):
        return parse_stockholm_hits(text, query, file=str(path))
    if text.lstrip().startswith(b">"):
        return parse_a3m_hits(text, query, file=str(path))
    if text.lstrip().startswith((b"Query ", b"No ")):
        return parse_hhr(text, query, file=str(path))
    raise InputError(
        f"{at(str(path), 1)}: not a list of template hits; accepted are HHsearch's .hhr, and Stockholm and A3M as "
        "hmmsearch makes them"
    )


def parse_hhr(data: bytes, query: str, *, file: str) -> list[TemplateHit]:
    """The hits in HHsearch's output, highest sum of probabilities first.

    Hits whose names are no PDB code and chain are left out.

    Raises:
        InputError: a hit cannot be read, or the rows of the query are not this one's.
    """
    lines = normalise(data, file=file).split(b"\n")
    starts = [number for number, line in enumerate(lines) if re.match(rb"No \d+\s*$", line)]
    if not starts and not any(re.match(rb"\s*No Hit\s+Prob", line) for line in lines):
        raise InputError(f"{file}: not HHsearch's output: it has no list of hits")
    hits = []
    for start, stop in itertools.pairwise([*starts, len(lines)]):
        hit = _hhr_hit(lines[start:stop], start + 1, query, file)
        if hit is not None:
            hits.append(hit)
    return sorted(hits, key=lambda hit: -(hit.sum_probs or 0.0))


def _hhr_hit(lines: Sequence[bytes], number: int, query: str, file: str) -> TemplateHit | None:
    """One hit; `number` is its first line's, from 1."""
    title = lines[1] if len(lines) > 1 else b""
    summary = _SUMMARY.search(lines[2]) if len(lines) > 2 else None
    if not title.startswith(b">") or summary is None:
        raise InputError(f"{at(file, number)}: the hit lacks its name or its line with Aligned_cols and Sum_probs")
    rows: dict[bytes, list[tuple[int, bytes]]] = {b"Q ": [], b"T ": []}
    for offset, line in enumerate(lines[3:], start=number + 3):
        words = line.split(maxsplit=2)
        if line[:2] not in rows or len(words) < 2 or words[1] in _NOT_A_SEQUENCE:
            continue
        row = _ROW.fullmatch(line[_NAME_COLUMNS:])
        if row is None:
            raise InputError(f"{at(file, offset)}: {shown(line)} is no row of an alignment")
        rows[line[:2]].append((int(row["start"]), row["letters"]))
    top, bottom = (b"".join(letters for _, letters in rows[kind]) for kind in (b"Q ", b"T "))
    if not top or len(top) != len(bottom):
        raise InputError(f"{at(file, number)}: the rows of the query and of the template are not equally long")
    pairs = _paired(top, bottom)
    first = rows[b"Q "][0][0] - 1
    _require_query(top, first, query, at(file, number))
    name = _HIT_NAME.match(title[1:].decode())
    if name is None:
        return None
    return TemplateHit(
        entry=name[1].lower(),
        chain=name[2],
        sequence=bottom.replace(b"-", b"").upper().decode(),
        query=pairs[:, 0] + first,
        hit=pairs[:, 1],
        aligned_columns=int(summary["columns"]),
        sum_probs=float(summary["probs"]),
    )


def _paired(top: bytes, bottom: bytes) -> Int[np.ndarray, "k 2"]:
    """Where both rows of an alignment have a letter, its place among each one's letters."""
    letters = np.stack([np.frombuffer(row, np.uint8) != ord("-") for row in (top, bottom)], axis=1)
    return (np.cumsum(letters, axis=0) - 1)[letters.all(axis=1)]


def _require_query(row: bytes, first: int, query: str, place: str) -> None:
    letters = row.replace(b"-", b"").upper().decode()
    if first < 0 or query[first : first + len(letters)] != letters:
        raise InputError(
            f"{place}: the hit is to residues {first + 1} to {first + len(letters)} of another query: {shown(letters)}"
        )


def parse_stockholm_hits(data: bytes, query: str, *, file: str) -> list[TemplateHit]:
    """The hits in a Stockholm file of hmmsearch (`-A`), whose capital columns are the query's residues.

    Raises:
        InputError: the file is damaged, or its columns are not the query's residues.
    """
    text = normalise(data, file=file)
    names, rows = read_rows(text, file)
    about = {}
    for line in text.split(b"\n"):
        words = line.split(maxsplit=3)
        if len(words) == 4 and words[0] == b"#=GS" and words[2] == b"DE":
            about[words[1]] = words[3]
    records = [(b" ".join([name, about.get(name, b"")]), row) for name, row in zip(names, rows, strict=True)]
    return list(_search_hits(records, query, file))


def parse_a3m_hits(data: bytes, query: str, *, file: str) -> list[TemplateHit]:
    """The hits in an A3M made from hmmsearch's alignment; a first row that is the query is skipped.

    Raises:
        InputError: the file is damaged, or its columns are not the query's residues.
    """
    text = normalise(data, file=file)
    records = []
    for block in (b"\n" + text).split(b"\n>")[1:]:
        header, _, row = block.partition(b"\n")
        records.append((header, b"".join(row.split())))
    if not records:
        raise InputError(f"{file}: not an A3M file: no line begins with '>'")
    if records[0][1].decode(errors="replace") == query and b"/" not in records[0][0].split(b" ")[0]:
        records = records[1:]
    return list(_search_hits(records, query, file))


def _search_hits(records: Sequence[tuple[bytes, bytes]], query: str, file: str) -> Iterator[TemplateHit]:
    """Hits from headers such as `4pqx_A/2-217 [subseq from] mol:protein length:217`, and aligned rows."""
    for header, row in records:
        text = header.decode().strip()
        if "mol:" in text and "mol:protein" not in text:
            continue
        name = _SEARCH_NAME.fullmatch(text.split(" ", 1)[0])
        if name is None:
            raise InputError(f"{file}: the name of the hit {shown(text)} is not such as 4pqx_A/2-217")
        letters = np.frombuffer(row.translate(None, b"."), np.uint8)
        inserted = (letters >= ord("a")) & (letters <= ord("z"))
        capital = (letters >= ord("A")) & (letters <= ord("Z"))
        if not (inserted | capital | (letters == ord("-"))).all():
            raise InputError(f"{file}: the row of the hit {shown(text)} holds what is no letter of an alignment")
        if len(letters) - inserted.sum() != len(query):
            raise InputError(
                f"{file}: the hit {shown(text)} has {len(letters) - inserted.sum()} aligned columns, but the query has "
                f"{len(query)} residues"
            )
        if not capital.any():
            continue
        yield TemplateHit(
            entry=name["entry"].lower() if len(name["entry"]) == 4 else name["entry"],
            chain=name["chain"],
            sequence=letters[inserted | capital].tobytes().upper().decode(),
            query=(np.cumsum(~inserted) - 1)[capital],
            hit=(np.cumsum(inserted | capital) - 1)[capital],
            aligned_columns=int(capital.sum()),
            sum_probs=None,
        )
