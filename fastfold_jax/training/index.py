"""The command `python -m fastfold_jax.training.index`: looks at every structure once and writes down what it found.

It may be stopped at any time: what was read is kept beside the index in a journal, and the next run goes on. Run again
on a finished index it reads only files that are new or have changed.
"""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fastfold_jax import messages
from fastfold_jax.atomic import replacing
from fastfold_jax.config.command_line import parse
from fastfold_jax.config.options import at_least
from fastfold_jax.data.structure import is_structure, read_structure
from fastfold_jax.data.training.records import (
    FileEntry,
    Index,
    assign,
    describe,
    header_line,
    line,
    locate_alignments,
    read_groups,
    read_journal,
    unusable,
)
from fastfold_jax.errors import UserError

PROGRAM = "python -m fastfold_jax.training.index"
_NAMED = 10  # unusable files that the summary names
_CHUNK = 16  # files that a process is handed at a time

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """Index a directory of structures and alignments for training.

    Reads every structure once, in parallel, and writes one line a file: release date, resolution, and each chain's
    length, composition, alignments and cluster. Stopped, it goes on where it was; run again, it reads what is new.
    """

    structures: Annotated[
        tyro.conf.Positional[Path],
        tyro.conf.arg(metavar="DIR", help="Structures: .cif or .pdb, packed or not, in sub-directories or not."),
    ]
    out: Annotated[Path, tyro.conf.arg(metavar="FILE", help="The index to write, such as index.jsonl.")]
    alignments: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="DIR", help="Alignments: a directory for each chain, named like 2q2k_A (author's chain)."
        ),
    ] = None
    clusters: Annotated[
        Path | None,
        tyro.conf.arg(metavar="FILE", help="Clusters of similar sequences, a line each: names of chains, as 2q2k_A."),
    ] = None
    duplicates: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="FILE",
            help="Chains of equal sequence, a line each, of which one has alignments (OpenProteinSet's "
            "duplicate_pdb_chains.txt).",
        ),
    ] = None
    workers: Annotated[
        int,
        tyro.conf.arg(metavar="N", help="Processes that read structures.", help_behavior_hint="(default: one a core)"),
    ] = dataclasses.field(default_factory=lambda: os.cpu_count() or 1)

    def __post_init__(self) -> None:
        at_least(1, workers=self.workers)


def build_index(config: IndexConfig, *, progress: Callable[[int, int], None] | None = None) -> Index:
    """Makes or updates an index.

    Args:
        config: what of, and where to.
        progress: told how many of how many files are done.

    Raises:
        UserError: a directory or file is missing, or no structure can be used.
    """
    for directory in (config.structures, config.alignments):
        if directory is not None and not directory.is_dir():
            raise UserError(f"{directory}: no such directory")
    clusters = read_groups(config.clusters) if config.clusters else ()
    duplicates = read_groups(config.duplicates) if config.duplicates else ()
    found = list(_stamps(config.structures))
    if not found:
        raise UserError(f"{config.structures}: holds no structure; accepted are .cif and .pdb files, packed or not")
    entries = _read_all(config, found, progress)
    names = (item.name for item in os.scandir(config.alignments) if item.is_dir()) if config.alignments else ()
    entries = list(assign(locate_alignments(entries, names, duplicates), clusters))
    if all(entry.error for entry in entries):
        raise UserError(f"{config.structures}: none of {len(entries)} files can be used, such as {entries[0].error}")
    _write(config, entries)
    _journal(config.out).unlink(missing_ok=True)
    return Index(structures=config.structures, alignments=config.alignments, files=tuple(entries))


def _stamps(directory: Path) -> Iterator[FileEntry]:
    """Every structure file beneath a directory, not read yet, in the order of their paths."""
    for folder, folders, names in os.walk(directory):
        folders.sort()
        for name in sorted(names):
            path = Path(folder) / name
            if is_structure(path) and not name.startswith("."):
                status = path.stat()
                relative = path.relative_to(directory).as_posix()
                yield FileEntry(file=relative, size=status.st_size, mtime_ns=status.st_mtime_ns)


def _read_all(
    config: IndexConfig, found: Sequence[FileEntry], progress: Callable[[int, int], None] | None
) -> list[FileEntry]:
    """Entries of all files, from the index and its journal where the file is still the same."""
    known = {**read_journal(config.out), **read_journal(_journal(config.out))}
    done = {entry.file: known[entry.file] for entry in found if _is_same(known, entry)}
    missing = [entry for entry in found if entry.file not in done]
    if done:
        logger.info("%s: %d files are known, %d are to be read", config.out, len(done), len(missing))
    try:
        config.out.parent.mkdir(parents=True, exist_ok=True)
        with (
            _journal(config.out).open("a", encoding="utf-8") as journal,
            contextlib.closing(_read_parallel(config, missing)) as read,
        ):
            journal.write("\n")  # ends a line that was cut short
            for entry in read:
                journal.write(line(entry) + "\n")
                journal.flush()
                done[entry.file] = entry
                if progress:
                    progress(len(done), len(found))
    except OSError as error:
        raise UserError(f"{config.out}: cannot be written ({error.strerror or error})") from None
    return [done[entry.file] for entry in found]


def _is_same(known: Mapping[str, FileEntry], entry: FileEntry) -> bool:
    """Whether a file was read already and has not changed since."""
    before = known.get(entry.file)
    return before is not None and (before.size, before.mtime_ns) == (entry.size, entry.mtime_ns)


def _read_parallel(config: IndexConfig, entries: Sequence[FileEntry]) -> Generator[FileEntry, None, None]:
    """Entries with what their files say, as they become ready."""
    if config.workers == 1 or len(entries) <= _CHUNK:
        yield from (_read(config.structures, entry) for entry in entries)
        return
    # Spawned, because a fork copies locks that threads hold.
    context = multiprocessing.get_context("spawn")
    chunks = [entries[start : start + _CHUNK] for start in range(0, len(entries), _CHUNK)]
    pool = concurrent.futures.ProcessPoolExecutor(
        min(config.workers, len(chunks)),
        mp_context=context,
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),  # Ctrl-C is for this process to act upon
    )
    try:
        jobs = [pool.submit(_read_chunk, config.structures, chunk) for chunk in chunks]
        for job in concurrent.futures.as_completed(jobs):
            yield from job.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _read_chunk(directory: Path, entries: Iterable[FileEntry]) -> list[FileEntry]:
    return [_read(directory, entry) for entry in entries]


def _read(directory: Path, entry: FileEntry) -> FileEntry:
    """An entry with what its file says, or why it cannot be used."""
    try:
        return describe(read_structure(directory / entry.file), entry)
    except Exception as error:  # whatever is wrong with one file, the others are to be read
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        return dataclasses.replace(entry, error=reason)


def _journal(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def _write(config: IndexConfig, entries: Iterable[FileEntry]) -> None:
    lines = itertools.chain([header_line(config.structures, config.alignments, config.out)], map(line, entries))
    try:
        with replacing(config.out) as file:
            file.writelines(f"{text}\n".encode() for text in lines)
    except OSError as error:
        raise UserError(f"{config.out}: cannot be written ({error.strerror or error})") from None


def summarise(index: Index) -> None:
    """Logs what is in an index: chains, those with alignments and clusters, and files that cannot be used."""
    chains = [chain for entry in index.files for chain in entry.chains]
    aligned = sum(chain.alignment is not None for chain in chains)
    clustered = len({chain.cluster for chain in chains} - {None})
    logger.info(
        "%d files, %d chains, %d of them with alignments, %d clusters",
        len(index.files),
        len(chains),
        aligned,
        clustered,
    )
    broken = unusable(index.files)
    for reason in list(broken.values())[:_NAMED]:
        logger.warning("skipped: %s", reason)
    if len(broken) > _NAMED:
        logger.warning("skipped: %d files in all; the index names each with the reason", len(broken))


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line, makes the index, and returns the exit code."""
    console = Console(stderr=True)
    messages.set_up(console, logging.INFO)
    columns = (
        TextColumn("reading structures"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    try:
        config = parse(IndexConfig, PROGRAM, argv)
        with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task("structures", total=None)
            index = build_index(config, progress=lambda done, total: bar.update(task, completed=done, total=total))
    except UserError as error:
        sys.stderr.write(f"{PROGRAM}: error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"{PROGRAM}: interrupted; run it again to go on where it was\n")
        return 130
    summarise(index)
    return 0


if __name__ == "__main__":
    sys.exit(main())
