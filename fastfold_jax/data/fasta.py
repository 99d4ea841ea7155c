"""FASTA: the sequences to predict, every record a chain of one complex."""

import dataclasses
import re

from fastfold_jax.data.textfile import InputError, at, normalise, shown

_NO_LETTER = re.compile(rb"[^A-Za-z\s]")
_ACCEPTED = "accepted are the letters A to Z, upper or lower case (B, J, O, U, X and Z stand for unknown residues)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One sequence of a FASTA file: its header without the ``>``, and its letters in upper case."""

    description: str
    sequence: str


def parse_fasta(data: bytes, *, file: str) -> tuple[Record, ...]:
    """The records of a FASTA file, in order.

    Sequences may be wrapped, in lower case and broken by blanks. Blank lines and lines that begin with ``#`` or ``;``
    are skipped. A ``*`` that ends a sequence (a stop codon, as translated genes have it) is dropped; elsewhere it is an
    error.

    Raises:
        InputError: the file is empty, binary or no FASTA, a record has no sequence, or a letter is no amino acid.
    """
    records: list[tuple[int, str, list[bytes]]] = []  # line of the header, header, lines of the sequence
    stopped = False
    for number, raw in enumerate(normalise(data, file=file).split(b"\n"), start=1):
        line = raw.strip()
        if line.startswith(b">"):
            _require_sequence(records, file)
            records.append((number, line[1:].decode().strip(), []))
            stopped = False
        elif line and not line.startswith((b"#", b";")):
            if not records:
                raise InputError(
                    f"{at(file, number)}: not a FASTA file: {shown(line)} comes before the first header; every "
                    "sequence needs a line that begins with '>' above it"
                )
            _require_letters(raw, ended := line.endswith(b"*"), stopped, at(file, number), records[-1][1])
            records[-1][2].append(b"".join(line.removesuffix(b"*").split()))
            stopped = ended
    if not records:
        raise InputError(f"{file}: not a FASTA file: it holds nothing but comments")
    _require_sequence(records, file)
    return tuple(Record(description=name, sequence=b"".join(parts).decode().upper()) for _, name, parts in records)


def _require_letters(raw: bytes, ended: bool, stopped: bool, place: str, name: str) -> None:
    """Raises unless a line of a sequence holds letters only, but for a ``*`` that ends the sequence."""
    checked = raw.rstrip().removesuffix(b"*") if ended else raw
    bad = re.search(rb"\S", raw) if stopped else _NO_LETTER.search(checked)
    if not bad:
        return
    if stopped:
        raise InputError(f"{place}: {shown(name)} goes on after a '*'; a stop is accepted only where a sequence ends")
    # A letter outside ASCII is several bytes; its column is counted in characters, and the whole of it shown.
    column = len(raw[: bad.start()].decode()) + 1
    letter = raw[bad.start() :].decode()[0]
    message = f"{place}, column {column}: {shown(letter)} in {shown(name)} is no amino acid; {_ACCEPTED}"
    if letter == ":":
        message += "; to predict a complex give each chain its own '>' header"
    elif letter in "-.":
        message += "; an alignment needs a file name that ends in .a3m or .sto"
    raise InputError(message)


def _require_sequence(records: list[tuple[int, str, list[bytes]]], file: str) -> None:
    """Raises if the record read last has no letters."""
    if records and not any(records[-1][2]):
        line, name, _ = records[-1]
        raise InputError(f"{at(file, line)}: the record {shown(name)} has no sequence")
