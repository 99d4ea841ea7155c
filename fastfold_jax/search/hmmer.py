"""jackhmmer over FASTA files of any size, through pyhmmer: no external program, bounded memory, many threads."""

import dataclasses
import io
import itertools
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from fastfold_jax.data.textfile import unpacked
from fastfold_jax.errors import UserError
from fastfold_jax.search.report import Report

BLOCK_RESIDUES = 4_000_000
"""Residues of a database that are searched in one piece: about 10 MB, and 0.05 s for each query."""

MOST_HITS = 50_000
"""Hits that an alignment holds, the best: as many as AlphaFold keeps of any database."""

_QUERY = "query"

Options = Mapping[str, Any]
"""HMMER's options, by their names there: filters, and E-values of sequences and domains to report and include."""

HMMSEARCH: Options = MappingProxyType(
    {"F1": 0.1, "F2": 0.1, "F3": 0.1, "E": 100, "incE": 100, "domE": 100, "incdomE": 100}
)
"""AlphaFold's options for templates: nearly everything that resembles the profile at all."""


def jackhmmer_options(evalue: float) -> Options:
    """AlphaFold's options for alignments: `-E` and `--incE` alike, the rest as jackhmmer's defaults."""
    return {"F1": 5e-4, "F2": 5e-5, "F3": 5e-7, "E": evalue, "incE": evalue, "incdomE": 1e-3}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workers:
    """Threads that searches of several databases share.

    Attributes:
      pool: The threads.
      threads: Number of threads.
      databases: Number of searches that share the threads.
      stop: Ends all searches early once set.
    """

    pool: ThreadPoolExecutor
    threads: int
    databases: int = 1
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)

    @property
    def window(self) -> int:
        """How many blocks of a database are in memory at once: enough that no thread waits for the next."""
        return max(2, 2 * self.threads // self.databases)


def pyhmmer_version() -> str:
    """The version of pyhmmer.

    Raises:
      UserError: if it is not installed.
    """
    try:
        return metadata.version("pyhmmer")
    except metadata.PackageNotFoundError:
        raise UserError(
            "searching FASTA databases needs pyhmmer: pip install 'fastfold-jax[search]'; or search with --msa server, "
            "or give alignments as input"
        ) from None


def search_alignments(
    sequences: Sequence[str],
    database: Path,
    *,
    options: Options,
    workers: Workers,
    report: Report,
) -> list[bytes]:
    """An A3M of each sequence with its hits in a FASTA file, best first: `jackhmmer -N 1`.

    The file is read once for all sequences.

    Args:
      sequences: The queries.
      database: A FASTA file, plain or packed.
      options: HMMER's options.
      workers: Threads that search blocks of the database.
      report: Called with how many bytes of the file have been searched.

    Raises:
      UserError: if the file can't be read or is no FASTA of proteins.
    """
    from pyhmmer import easel, plan7

    alphabet = easel.Alphabet.amino()
    builder, background = plan7.Builder(alphabet), plan7.Background(alphabet)
    queries = [easel.TextSequence(name=_QUERY, sequence=sequence).digitize(alphabet) for sequence in sequences]
    profiles = [builder.build(query, background)[0] for query in queries]
    found = search_profiles(profiles, database, options=options, workers=workers, report=report)
    alignments = []
    for query, hits in zip(queries, found, strict=True):
        trace = plan7.Trace.from_sequence(query)
        msa = hits.to_msa(alphabet, sequences=[query], traces=[trace], all_consensus_cols=True)
        alignments.append(a3m_of(msa))
    return alignments


def search_profiles(
    profiles: Sequence[Any],
    database: Path,
    *,
    options: Options,
    workers: Workers,
    report: Report,
) -> list[Any]:
    """The hits of each profile in a FASTA file, best first; at most `MOST_HITS` of them count as included.

    See `search_alignments` for the arguments; profiles are pyhmmer's `HMM`, and what is returned its `TopHits`.
    """
    parts: list[list[Any]] = [[] for _ in profiles]
    waiting: deque[tuple[Future[list[Any]], int, int]] = deque()
    ended = threading.Event()

    def search(block: Any) -> list[Any]:
        return [] if ended.is_set() else [_pipeline(options).search_hmm(profile, block) for profile in profiles]

    def collect() -> None:
        future, done, total = waiting.popleft()
        for part, hits in zip(parts, future.result(), strict=True):
            part.append(hits)
        report(f"searching {database.name}", done, total)

    try:
        for block, done, total in read_blocks(database):
            if workers.stop.is_set():
                raise UserError(f"{database}: the search was stopped")
            waiting.append((workers.pool.submit(search, block), done, total))
            if len(waiting) >= workers.window:
                collect()
        while waiting:
            collect()
    finally:
        ended.set()  # what still waits after an error returns at once
    return [_merge(part) for part in parts]


def _pipeline(options: Options) -> Any:
    from pyhmmer import easel, plan7

    return plan7.Pipeline(easel.Alphabet.amino(), **options)


def _merge(parts: Sequence[Any]) -> Any:
    """The hits in all blocks, E-values as if the database had been searched whole."""
    hits = parts[0].merge(*parts[1:])
    for hit in itertools.islice(hits.included, MOST_HITS, None):
        hit.included = False
    return hits


def read_blocks(database: Path) -> Iterator[tuple[Any, int, int]]:
    """A FASTA file in blocks of about `BLOCK_RESIDUES`, with the bytes read so far and in all.

    Raises:
      UserError: if the file can't be read or is no FASTA of proteins.
    """
    from pyhmmer import easel

    how: dict[str, Any] = {"format": "fasta", "digital": True, "alphabet": easel.Alphabet.amino()}
    try:
        total = database.stat().st_size
        with open(database, "rb") as file, unpacked(file, database) as text:
            stream: Any = _Stream(text)
            try:
                with easel.SequenceFile(stream, **how) as sequences:
                    while block := sequences.read_block(residues=BLOCK_RESIDUES):
                        yield block, file.tell(), total
            except EOFError as error:  # no sequence at all, not a packed file that ends early
                raise ValueError(error) from None
            finally:
                stream.check()
    except UserError:  # says already how the packed file is damaged
        raise
    except (ValueError, OSError) as error:
        what = getattr(error, "strerror", None) or error
        raise UserError(f"{database}: cannot be searched as a FASTA file of proteins ({what})") from None


class _Stream(io.RawIOBase):
    """A file's text. An error in reading ends it, and is kept: C code that reads here can't be passed an exception."""

    def __init__(self, file: BinaryIO):
        self._file: Any = file
        self._error: Exception | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            return self._file.readinto(buffer)
        except Exception as error:
            self._error = error
            return 0

    def check(self) -> None:
        """Raises the error that ended the text early, if one did."""
        if self._error is not None:
            raise self._error


def a3m_of(msa: Any) -> bytes:
    """pyhmmer's alignment of hits to a profile as A3M: the profile's columns, and inserts in lower case."""
    records = []
    for sequence, row in zip(msa.sequences, msa.alignment, strict=True):
        header = " ".join(f"{sequence.name} {sequence.description or ''}".split())
        records.append(f">{header}\n{row.replace('.', '')}\n")
    return "".join(records).encode()
