"""Which jobs an input holds: found and measured without reading what is large, read one at a time."""

import dataclasses
import functools
import itertools
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from fastfold_jax.data import layout
from fastfold_jax.data.a3m_complex import is_complex, read_header
from fastfold_jax.data.fasta import Record
from fastfold_jax.data.job import job_name, read_job
from fastfold_jax.data.job_chains import HEAD, Job, chain_records, chains_of, read_each_record, with_copies
from fastfold_jax.data.job_directory import entries_of, files_of, is_output
from fastfold_jax.data.job_json import parse_json_jobs
from fastfold_jax.data.job_table import parse_table
from fastfold_jax.data.names import safe_name, unique_names
from fastfold_jax.data.stockholm import is_stockholm, read_query
from fastfold_jax.data.textfile import InputError, Unusable, read_bytes, read_head
from fastfold_jax.errors import UserError

_HEAD = 1 << 20  # bytes in which the query of an alignment is looked for
_KEPT = 1 << 24  # bytes of alignments up to which a job that had to be read whole stays in memory
_DEEPEST = 8  # directories in directories
# Names that sub-directories bear where each is a chain of one complex: A, B, ..., AA, chain1.
_CHAIN_NAME = re.compile(r"[A-Z]{1,2}|chain[_-]?(\d{1,4}|[A-Z])", re.IGNORECASE)
_INSERTED = re.compile(rb"[a-z.\s]")
_STANDARD_INPUT = Path("/dev/stdin")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class JobSource:
    """A job that may not have been read yet.

    Attributes:
        name: unique among the jobs of a run, safe in file names.
        place: file or directory, for messages.
        num_res: residues, by which jobs are ordered; 0 where that shows only, or fails, when it is read.
        read: the job itself; raises a `UserError` if it cannot be used.
        error: that `read` will raise, where it is known already.
    """

    name: str
    place: str
    num_res: int
    read: Callable[[], Job]
    error: UserError | None = None


def find_jobs(
    paths: Iterable[str | Path],
    *,
    joined: bool = False,
    copies: Sequence[int] | None = None,
    reserved: Sequence[str] = (),
) -> tuple[JobSource, ...]:
    """The jobs of files and directories, in order. docs/inputs.md says the same at more length.

    - A FASTA file: each record is a job; in its sequence ``:`` joins the chains of a complex.
    - A table or JSON document: each row or entry is a job.
    - An alignment, or features of AlphaFold: one job.
    - A directory whose files belong together is one job (see `fastfold_jax.data.job.read_job`): one FASTA file and
      alignments; alignments of one query, or with ``chainN_`` in front; one feature file; sub-directories named A, B,
      ... or chain1, chain2, .... In any other every file, or if there are none every sub-directory, is taken by itself.
    - A directory of our own predictions stands for the alignments that are kept in it.

    A record, row, entry, file or directory that cannot be used is a job that fails when it is read.

    Args:
        paths: files and directories; ``-`` is FASTA from standard input.
        joined: every path is one job: all records of a FASTA file, and all sub-directories, are chains of one complex.
        copies: of each chain; the same for all jobs.
        reserved: names that no job may have.

    Raises:
        InputError: there are no paths, or nothing is there.
    """
    given = [_STANDARD_INPUT if str(path) == "-" else Path(path) for path in paths]
    if not given:
        raise InputError("no INPUT: accepted are one or more files or directories")
    if missing := [str(path) for path in given if not os.path.exists(path)]:
        raise InputError(f"{', '.join(missing)}: no such file")
    found = [source for path in given for source in _find(path, joined, 0)]
    if copies is not None:
        found = [_repeated(source, copies) for source in found]
    names = unique_names([*reserved, *(source.name for source in found)])[len(reserved) :]
    return tuple(dataclasses.replace(source, name=name) for source, name in zip(found, names, strict=True))


def _find(path: Path, joined: bool, depth: int) -> list[JobSource]:
    """The jobs of a path that is there; one that fails if it cannot be used as a whole."""
    try:
        return _in_directory(path, joined, depth) if path.is_dir() else _in_file(path, joined)
    except UserError as error:
        return [_failing(job_name(path), str(path), error)]


def _in_file(path: Path, joined: bool) -> list[JobSource]:
    if not path.is_file():  # a pipe, which cannot be read twice
        return [_whole(path)] if joined else _in_fasta(path)
    form = layout.format_of(path)
    if form in ("table", "json"):
        parse = parse_table if form == "table" else parse_json_jobs
        return [_known(job, str(path)) for job in parse(read_bytes(path), file=str(path))]
    if form in ("a3m", "stockholm"):
        return [_alignment(path)]
    if form in ("npz", "pickle") or joined:
        return [_whole(path)]
    if form == "fasta" or read_head(path, HEAD).lstrip().startswith(b">"):
        return _in_fasta(path)
    return [_whole(path)]


def _failing(name: str, place: str, error: UserError) -> JobSource:
    """A job that cannot be used."""
    error = error.with_traceback(None)  # which would hold what was read up to the fault

    def read() -> Job:
        raise error

    return JobSource(name=name, place=place, num_res=0, read=read, error=error)


def _known(job: Job | Unusable, place: str) -> JobSource:
    """A job that is in memory, or cannot be used."""
    if isinstance(job, Unusable):
        return _failing(job.name, place, job.error)
    return JobSource(name=job.name, place=place, num_res=_residues(job), read=lambda: job)


def _residues(job: Job) -> int:
    return len(job.features["aatype"]) if job.features is not None else sum(len(chain.sequence) for chain in job.chains)


def _in_fasta(path: Path) -> list[JobSource]:
    """A single record is named after its file, several, or what comes through a pipe, after their headers."""
    records = read_each_record(path)
    own = job_name(path)
    headers = [record.name if isinstance(record, Unusable) else record.description for record in records]
    names = [safe_name((header.split() or [""])[0], otherwise=own) for header in headers]
    if len(records) == 1 and path.is_file():
        names = [own]
    return [_known(_job(record, name, path), str(path)) for record, name in zip(records, names, strict=True)]


def _job(record: Record | Unusable, name: str, path: Path) -> Job | Unusable:
    if isinstance(record, Unusable):
        return dataclasses.replace(record, name=name)
    try:
        return Job(name=name, chains=chains_of(chain_records(record, place=str(path))))
    except InputError as error:
        return Unusable(name=name, error=error)


def _alignment(path: Path) -> JobSource:
    """A file whose rows are read only when its turn comes."""
    head = _head(path)
    length = _complex_length(head, path) if is_complex(head) else len(_query(head, path))
    return JobSource(name=job_name(path), place=str(path), num_res=length, read=functools.partial(read_job, path))


def _whole(path: Path) -> JobSource:
    """A job whose size shows only when all of it has been read."""
    read = functools.partial(read_job, path)
    job = read()
    alignments = [each for chain in job.chains for each in (*chain.alignments, chain.paired) if each]
    size = sum(each.residues.nbytes + each.deletions.nbytes for each in alignments)
    kept = _known(job, str(path))
    return kept if size <= _KEPT else dataclasses.replace(kept, read=read)


def _repeated(source: JobSource, copies: Sequence[int]) -> JobSource:
    def read() -> Job:
        return with_copies(source.read(), copies, place=source.place)

    # One chain is the usual case; elsewhere this is near enough to order jobs by.
    return dataclasses.replace(source, num_res=source.num_res * sum(copies) // len(copies), read=read)


def _in_directory(directory: Path, joined: bool, depth: int) -> list[JobSource]:
    if is_output(directory):
        return [_whole(_kept_alignments(directory))]
    if joined:
        return [_whole(directory)]
    top = files_of(directory)
    alignments = [path for path in top if layout.is_alignment(path)]
    fastas = [path for path in top if layout.format_of(path) == "fasta"]
    prefixed = [path for path in (*alignments, *fastas) if layout.chain_prefix(path)]
    features = [path for path in top if layout.format_of(path) in ("npz", "pickle")]
    lists = [path for path in top if layout.format_of(path) in ("table", "json")]
    below = [path for path in entries_of(directory) if path.is_dir()]
    outputs = [path for path in below if is_output(path)]
    if outputs and directory / layout.SUMMARY in top:
        return [source for path in outputs for source in _find(path, False, depth)]
    if alignments or fastas:
        together = prefixed or (len(fastas) == 1 and (alignments or _hold_input(below)))
        if together or (not fastas and _one_query(alignments)):
            return [_whole(directory)]
        return [source for path in (*fastas, *alignments) for source in _find(path, False, depth)]
    if features:
        named = [path for path in features if layout.stem(path) == "features"]
        if named or len(features) == 1:
            return [_whole(directory)]
        return [source for path in features for source in _find(path, False, depth)]
    if lists:
        return [source for path in lists for source in _find(path, False, depth)]
    below = [path for path in below if _hold_input([path])]
    if not below or depth == _DEEPEST or all(_CHAIN_NAME.fullmatch(path.name) for path in below):
        return [_whole(directory)]  # which says what is wrong if there is nothing
    return [source for path in below for source in _find(path, False, depth + 1)]


def _kept_alignments(directory: Path) -> Path:
    """Where the alignments of a job lie among its predictions."""
    kept = directory / layout.ALIGNMENTS
    if not kept.is_dir():
        raise InputError(
            f"{directory}: holds the predictions of a job without alignments, and no input; give what they were made "
            "from"
        )
    return kept


def _hold_input(directories: Iterable[Path]) -> bool:
    """Whether there is anything to read in the directories or below."""
    return any(layout.format_of(path) for path in itertools.chain.from_iterable(map(files_of, directories))) or any(
        _hold_input([path]) for directory in directories for path in entries_of(directory) if path.is_dir()
    )


def _one_query(alignments: Sequence[Path]) -> bool:
    """Whether alignments side by side are those of one chain: as a whole they have one first row."""
    if len(alignments) == 1:
        return True
    heads = [_head(path) for path in alignments]
    if any(is_complex(head) for head in heads):
        return False
    # Search tools write rare letters as X, which is no difference.
    queries = [_query(head, path) for head, path in zip(heads, alignments, strict=True)]
    return all(
        len(query) == len(queries[0])
        and all(a == b or b"X"[0] in (a, b) for a, b in zip(query, queries[0], strict=True))
        for query in queries
    )


def _head(path: Path) -> bytes:
    """The beginning of a file, unpacked if need be."""
    try:
        return read_head(path, _HEAD)
    except InputError:
        return b""  # said when it is read


def _query(head: bytes, path: Path) -> bytes:
    """The letters of the first row, gaps left out, of a file that begins so."""
    if is_stockholm(head):
        try:
            return read_query(path).encode()
        except InputError:
            return b""  # said when it is read
    lines = head.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    row = b""
    started = False
    for line in lines:
        if line.lstrip().startswith(b">"):
            if started:
                break
            started = True
        elif started and not line.startswith((b"#", b";")):
            row += line
    return _INSERTED.sub(b"", row).replace(b"-", b"")


def _complex_length(head: bytes, path: Path) -> int:
    try:
        lengths, copies = read_header(head, str(path))
    except InputError:
        return 0  # said when it is read
    return sum(length * count for length, count in zip(lengths, copies, strict=True))
