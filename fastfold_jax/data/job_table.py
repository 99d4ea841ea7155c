"""Jobs in a table, CSV or TSV: a row each, with the columns `id` and `sequence`, and `stoichiometry` if need be."""

import csv
import io
import re
from collections.abc import Iterator

from fastfold_jax.data.fasta import Record, clean_sequence
from fastfold_jax.data.job_chains import Job, chain_records, chains_of, with_copies
from fastfold_jax.data.names import safe_name
from fastfold_jax.data.textfile import InputError, Unusable, at, normalise, shown

_COLUMNS = ("id", "sequence")
_COPIES = "stoichiometry"
_STOICHIOMETRY = re.compile(r"\d{1,4}(:\d{1,4})*")


def parse_table(data: bytes, *, file: str) -> tuple[Job | Unusable, ...]:
    """The jobs of a table, in order; a row that is short, or whose sequence is none, is unusable.

    The first line names the columns; case and order do not matter, and columns of other names are left alone. Fields
    are parted by tabs if the first line has one, else by commas, and may be quoted. In a sequence ``:`` joins the
    chains of a complex.

    Raises:
        InputError: the file is empty, binary or no table, or a column is missing.
    """
    text = normalise(data, file=file).decode()
    delimiter = "\t" if "\t" in text.split("\n", 1)[0] else ","
    # A field limit of the csv module's own would be the whole process's, so long sequences meet this error.
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    columns: dict[str, int] | None = None
    jobs: list[Job | Unusable] = []
    try:
        for row in reader:
            if not any(field.strip() for field in row):
                continue
            place = at(file, reader.line_num)
            if columns is None:
                columns = _columns(row, place)
            else:
                jobs.append(_job(row, columns, place, len(jobs) + 1))
    except csv.Error as error:
        raise InputError(
            f"{at(file, reader.line_num)}: not a table of fields parted by {delimiter!r}: {error}"
        ) from None
    if not jobs:
        raise InputError(f"{file}: a table without rows; each line below the first is a job")
    return tuple(jobs)


def parse_stoichiometry(text: str, *, place: str) -> tuple[int, ...]:
    """Copies of each chain, such as ``2:1``.

    Raises:
        InputError: it is anything else, or has a 0.
    """
    numbers = tuple(map(int, text.split(":"))) if _STOICHIOMETRY.fullmatch(text) else ()
    if not numbers or 0 in numbers:
        raise InputError(
            f"{place}: the stoichiometry {shown(text)}; accepted are the copies of each chain, 1 to 9999, joined by "
            "colons, such as 2:1"
        )
    return numbers


def _columns(header: list[str], place: str) -> dict[str, int]:
    names = [name.strip().casefold() for name in header]
    for name in _COLUMNS:
        if names.count(name) != 1:
            raise InputError(
                f"{place}: the first line must name the columns, 'id' and 'sequence' once each among them, not "
                f"{shown(','.join(header))}"
            )
    return {name: index for index, name in enumerate(names)}


def _job(row: list[str], columns: dict[str, int], place: str, number: int) -> Job | Unusable:
    fields = dict(_fields(row, columns))
    identifier = fields.get("id", "")
    name = safe_name(identifier, otherwise=f"job{number}")
    try:
        missing = [column for column in _COLUMNS if not fields.get(column)]
        if missing:
            raise InputError(f"{place}: the row has nothing in the column {missing[0]!r}")
        sequence = clean_sequence(fields["sequence"], place=place, name=identifier)
        record = Record(description=identifier, sequence=sequence)
        job = Job(name=name, chains=chains_of(chain_records(record, place=place)))
        copies = fields.get(_COPIES)
        return with_copies(job, parse_stoichiometry(copies, place=place), place=place) if copies else job
    except InputError as error:
        return Unusable(name=name, error=error)


def _fields(row: list[str], columns: dict[str, int]) -> Iterator[tuple[str, str]]:
    for name, index in columns.items():
        if index < len(row):
            yield name, row[index].strip()
