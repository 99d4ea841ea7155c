"""The archives in which an MSA server answers; nothing in them is trusted."""

import io
import tarfile
from collections.abc import Callable, Iterable
from typing import Literal

from fastfold_jax.data.textfile import shown
from fastfold_jax.errors import UserError

_MOST_BYTES = 4 << 30
_ALIGNMENTS = {
    "msa": ("uniref.a3m", "bfd.mgnify30.metaeuk30.smag30.a3m"),
    "pair": ("pair.a3m",),
}
_TEMPLATES = "pdb70.m8"


def files(archive: bytes, wanted: Callable[[str], bool], *, place: str) -> dict[str, bytes]:
    """The plain files of a tar archive whose names are wanted, by name without directories.

    Nothing is written to the disk, so no name can lead anywhere.

    Raises:
      UserError: if it is no tar archive, or unpacks to too much.
    """
    found: dict[str, bytes] = {}
    size = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:*") as tar:
            for member in tar:
                name = member.name.rpartition("/")[2]
                if not member.isreg() or not wanted(name):
                    continue
                size += member.size
                if size > _MOST_BYTES:
                    raise UserError(f"{place}: the answer unpacks to over {_MOST_BYTES:,} bytes")
                stream = tar.extractfile(member)
                assert stream is not None
                found[name] = stream.read()
                if len(found[name]) != member.size:
                    raise tarfile.ReadError("unexpected end of data")
    except UserError:
        raise
    except Exception as error:  # damaged archives make tarfile, zlib and others raise almost anything
        what = f"{type(error).__name__}: {shown(str(error), 80)}"
        raise UserError(f"{place}: the answer is no tar archive, or a damaged one ({what})") from None
    return found


def results(archive: bytes, kind: Literal["msa", "pair"], numbers: Iterable[int], *, place: str) -> list[bytes]:
    """For each query its A3M, a zero byte, and the names of templates.

    A file holds the alignments of all queries, with a zero byte behind each; the first row is named by the query's
    number.

    Raises:
      UserError: if the archive is damaged or lacks a query's alignment.
    """
    names = _ALIGNMENTS[kind]
    found = files(archive, lambda name: name in (*names, _TEMPLATES), place=place)
    rows: dict[int, list[bytes]] = {}
    for name in names:
        for block in found.get(name, b"").split(b"\0"):
            if number := _number(block):
                rows.setdefault(number, []).append(block.strip() + b"\n")
    templates: dict[int, list[bytes]] = {}
    for line in found.get(_TEMPLATES, b"").splitlines():
        columns = line.split(b"\t")
        if len(columns) > 1 and columns[0].isdigit() and b"\0" not in columns[1]:
            templates.setdefault(int(columns[0][:9]), []).append(columns[1])
    answers = []
    for number in numbers:
        if number not in rows:
            raise UserError(f"{place}: the answer holds no alignment of query {number}")
        answers.append(b"".join(rows[number]) + b"\0" + b"\n".join(templates.get(number, ())))
    return answers


def _number(block: bytes) -> int | None:
    """The query that a block of rows belongs to."""
    header = block.lstrip().split(b"\n", 1)[0].strip()
    word = header.removeprefix(b">")
    return int(word) if header.startswith(b">") and word.isdigit() and len(word) < 10 else None
