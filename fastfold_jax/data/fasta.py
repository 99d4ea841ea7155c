"""FASTA: the sequences to predict, and the letters that a sequence to predict may hold."""

import dataclasses
import re

from fastfold_jax.data.textfile import InputError, at, normalise, shown

CHAIN_BREAK = ":"
"""Stands between the chains of a complex that is given as one sequence."""

_NO_LETTER = re.compile(rb"[^A-Za-z\s]")
_NO_LETTER_OR_BREAK = re.compile(rb"[^A-Za-z:\s]")
_ACCEPTED = "accepted are the letters A to Z, upper or lower case (B, J, O, U, X and Z stand for unknown residues)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One sequence of a FASTA file: its header without the ``>``, and its letters in upper case."""

    description: str
    sequence: str


def parse_fasta(data: bytes, *, file: str, joined: bool = False) -> tuple[Record, ...]:
    """The records of a FASTA file, in order.

    Sequences may be wrapped, in lower case and broken by blanks. Blank lines and lines that begin with ``#`` or ``;``
    are skipped. A ``*`` that ends a sequence (a stop codon, as translated genes have it) is dropped; elsewhere it is an
    error.

    Args:
        data: the file's content.
        file: its name, for messages.
        joined: a ``:`` may stand between the chains of a complex, and does in the records' sequences.

    Raises:
        InputError: the file is empty, binary or no FASTA, a record has no sequence, or a letter is no amino acid.
    """
    accepted = _NO_LETTER_OR_BREAK if joined else _NO_LETTER
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
            ended = line.endswith(b"*")
            if fault := _fault(raw, accepted, ended=ended, stopped=stopped, name=records[-1][1]):
                raise InputError(at(file, number) + fault)
            records[-1][2].append(b"".join(line.removesuffix(b"*").split()))
            stopped = ended
    if not records:
        raise InputError(f"{file}: not a FASTA file: it holds nothing but comments")
    _require_sequence(records, file)
    return tuple(Record(description=name, sequence=b"".join(parts).decode().upper()) for _, name, parts in records)


def split_chains(sequence: str, *, place: str, name: str) -> tuple[str, ...]:
    """The chains of a sequence in which ``:`` joins them; its letters are known to be good.

    Raises:
        InputError: nothing stands before, between or behind colons.
    """
    chains = tuple(sequence.split(CHAIN_BREAK))
    if not all(chains):
        raise InputError(
            f"{place}: {shown(name)} has an empty chain; accepted is one ':' between two chains, none at the ends"
        )
    return chains


def clean_sequence(text: str, *, place: str, name: str) -> str:
    """A sequence from a field of a table or a document: upper case, without blanks and a stop at its end.

    Raises:
        InputError: it is empty, or a letter is neither an amino acid nor a ``:`` between chains.
    """
    ended = text.rstrip().endswith("*")
    if fault := _fault(text.encode(errors="replace"), _NO_LETTER_OR_BREAK, ended=ended, stopped=False, name=name):
        raise InputError(place + fault)
    sequence = "".join(text.split()).removesuffix("*").upper()
    if not sequence:
        raise InputError(f"{place}: {shown(name)} has no sequence")
    return sequence


def _fault(raw: bytes, accepted: re.Pattern[bytes], *, ended: bool, stopped: bool, name: str) -> str | None:
    """What is wrong with a piece of a sequence, if anything is; a ``*`` may end the sequence, and only that."""
    checked = raw.rstrip().removesuffix(b"*") if ended else raw
    bad = re.search(rb"\S", raw) if stopped else accepted.search(checked)
    if not bad:
        return None
    if stopped:
        return f": {shown(name)} goes on after a '*'; a stop is accepted only where a sequence ends"
    # A letter outside ASCII is several bytes; its column is counted in characters, and the whole of it shown.
    column = len(raw[: bad.start()].decode()) + 1
    letter = raw[bad.start() :].decode()[0]
    message = f", column {column}: {shown(letter)} in {shown(name)} is no amino acid; {_ACCEPTED}"
    if letter == CHAIN_BREAK:
        message += "; to predict a complex give each chain its own '>' header"
    elif letter in "-.":
        message += "; an alignment needs a file name that ends in .a3m or .sto"
    return message


def _require_sequence(records: list[tuple[int, str, list[bytes]]], file: str) -> None:
    """Raises if the record read last has no letters."""
    if records and not any(records[-1][2]):
        line, name, _ = records[-1]
        raise InputError(f"{at(file, line)}: the record {shown(name)} has no sequence")
