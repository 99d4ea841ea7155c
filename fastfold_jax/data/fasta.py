"""FASTA: the sequences to predict, and the letters that a sequence to predict may hold."""

import dataclasses
import re

from fastfold_jax.data.textfile import InputError, Unusable, at, normalise, shown

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
    """The records of a FASTA file, in order; see `parse_each`.

    Raises:
        InputError: as there, or if any record cannot be used.
    """
    return tuple(_usable(record) for record in parse_each(data, file=file, joined=joined))


def parse_each(data: bytes, *, file: str, joined: bool = False) -> tuple[Record | Unusable, ...]:
    """The records of a FASTA file, in order; one that has no sequence or another letter than amino acids' is unusable.

    Sequences may be wrapped, in lower case and broken by blanks. Blank lines and lines that begin with ``#`` or ``;``
    are skipped. A ``*`` that ends a sequence (a stop codon, as translated genes have it) is dropped; elsewhere it is an
    error.

    Args:
        data: the file's content.
        file: its name, for messages.
        joined: a ``:`` may stand between the chains of a complex, and does in the records' sequences.

    Raises:
        InputError: the file is empty, binary or no FASTA.
    """
    records: list[_Lines] = []
    for number, raw in enumerate(normalise(data, file=file).split(b"\n"), start=1):
        line = raw.strip()
        if line.startswith(b">"):
            records.append(_Lines(at(file, number), line[1:].decode().strip()))
        elif line and not line.startswith((b"#", b";")):
            if not records:
                raise InputError(
                    f"{at(file, number)}: not a FASTA file: {shown(line)} comes before the first header; every "
                    "sequence needs a line that begins with '>' above it"
                )
            records[-1].add(raw, at(file, number), _NO_LETTER_OR_BREAK if joined else _NO_LETTER)
    if not records:
        raise InputError(f"{file}: not a FASTA file: it holds nothing but comments")
    return tuple(record.record() for record in records)


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
    letters = "".join(text.split())
    ended = letters.endswith("*")
    if fault := _fault(letters.encode(errors="replace"), _NO_LETTER_OR_BREAK, ended=ended, stopped=False, name=name):
        position, message = fault
        raise InputError(f"{place}, letter {position} of the sequence: {message}")
    sequence = letters.removesuffix("*").upper()
    if not sequence:
        raise InputError(f"{place}: {shown(name)} has no sequence")
    return sequence


class _Lines:
    """A record of which one line after another is read, to the first that cannot be used.

    Args:
        place: its header's, for messages.
        name: the header.
    """

    def __init__(self, place: str, name: str):
        self._place = place
        self._name = name
        self._parts: list[bytes] = []
        self._stopped = False
        self._error: InputError | None = None

    def add(self, raw: bytes, place: str, accepted: re.Pattern[bytes]) -> None:
        """The next line of the sequence."""
        if self._error is not None:
            return
        line = raw.strip()
        ended = line.endswith(b"*")
        if fault := _fault(raw, accepted, ended=ended, stopped=self._stopped, name=self._name):
            column, message = fault
            self._error = InputError(f"{place}, column {column}: {message}")
        self._parts.append(b"".join(line.removesuffix(b"*").split()))
        self._stopped = ended

    def record(self) -> Record | Unusable:
        """What was read."""
        if self._error is None and not any(self._parts):
            self._error = InputError(f"{self._place}: the record {shown(self._name)} has no sequence")
        if self._error is not None:
            return Unusable(name=self._name, error=self._error)
        return Record(description=self._name, sequence=b"".join(self._parts).decode().upper())


def _usable(record: Record | Unusable) -> Record:
    if isinstance(record, Unusable):
        raise record.error
    return record


def _fault(raw: bytes, accepted: re.Pattern[bytes], *, ended: bool, stopped: bool, name: str) -> tuple[int, str] | None:
    """Where a piece of a sequence is wrong, from 1, and how; a ``*`` may end the sequence, and only that."""
    checked = raw.rstrip().removesuffix(b"*") if ended else raw
    bad = re.search(rb"\S", raw) if stopped else accepted.search(checked)
    if not bad:
        return None
    # A letter outside ASCII is several bytes; its column is counted in characters, and the whole of it shown.
    column = len(raw[: bad.start()].decode()) + 1
    if stopped:
        return column, f"{shown(name)} goes on after a '*'; a stop is accepted only where a sequence ends"
    letter = raw[bad.start() :].decode()[0]
    message = f"{shown(letter)} in {shown(name)} is no amino acid; {_ACCEPTED}"
    if letter == CHAIN_BREAK:
        message += "; to predict a complex give each chain its own '>' header"
    elif letter in "-.":
        message += "; an alignment needs a file name that ends in .a3m or .sto"
    return column, message
