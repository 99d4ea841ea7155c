"""Gives every chain of a job its alignments: kept ones where there are, and searches for the rest, side by side."""

import dataclasses
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from fastfold_jax.data.a3m import parse_a3m
from fastfold_jax.data.alignment import Alignment
from fastfold_jax.data.job import Chain, Job
from fastfold_jax.data.layout import merge_rank
from fastfold_jax.errors import UserError
from fastfold_jax.search.cache import Cache
from fastfold_jax.search.config import SearchOptions
from fastfold_jax.search.databases import Database, Kind, find_databases
from fastfold_jax.search.hhsuite import HHblits
from fastfold_jax.search.hmmer import Workers, jackhmmer_options, pyhmmer_version, search_alignments
from fastfold_jax.search.mmseqs import MMseqs
from fastfold_jax.search.programs import Program
from fastfold_jax.search.report import Report, silent
from fastfold_jax.search.server import Server

logger = logging.getLogger(__name__)


def complete(job: Job, options: SearchOptions, report: Report = silent) -> Job:
    """The job with alignments for every chain that had none.

    Chains of equal sequence are searched once. In a complex of different sequences rows for pairing are sought too: by
    species in UniProt (in UniRef90 where there is no UniProt), or as the server pairs them. Chains that came with
    alignments keep them and nothing is sought for them; so do jobs of ready-made features.

    Raises:
      UserError: if a database or the server can't be used, or a program is missing.
    """
    wanted = _wanted(job)
    if not wanted:
        return job
    if options.mode == "none":
        ids = ", ".join(chain.id for chain in job.chains if chain.sequence in wanted)
        logger.warning("%s: no alignment for %s and no search asked for: predicted from sequence alone", job.name, ids)
        return job
    pairing = _is_hetero(job)
    cache = Cache(options.cache_directory)
    if options.mode == "server":
        pairing = len(wanted) > 1  # the server pairs those that it is asked for with each other
        found = Server.of(options, cache).alignments(wanted, pairing=pairing, report=report)
    else:
        found = _search_local(wanted, options, cache, report, pairing=pairing)
    alone = [c.id for c in job.chains if c.sequence in wanted and all(len(a.residues) == 1 for a in found[c.sequence])]
    if alone:
        ids = ", ".join(alone)
        logger.warning("%s: the search found nothing but %s itself: predicted from sequence alone", job.name, ids)
    return dataclasses.replace(job, chains=tuple(_completed(chain, found) for chain in job.chains))


def require_programs(job: Job, options: SearchOptions) -> None:
    """Checks that the programs that a local search for the job's alignments needs are installed.

    Raises:
      UserError: if one is missing, or no database serves alignments.
    """
    if options.mode == "local" and _wanted(job):
        for group in _groups(find_databases(options.databases), pairing=_is_hetero(job)):
            _program(group[0].kind, options, threading.Event())


def _wanted(job: Job) -> list[str]:
    """The sequences that came without alignments, each once."""
    return list(dict.fromkeys(chain.sequence for chain in job.chains if not (chain.alignments or chain.paired)))


def _is_hetero(job: Job) -> bool:
    """Whether the job is a complex of different sequences, whose rows are to be paired."""
    return len({chain.sequence for chain in job.chains}) > 1


def _completed(chain: Chain, found: Mapping[str, Sequence[Alignment]]) -> Chain:
    """A chain with what was found for its sequence, unless it came with alignments."""
    if chain.sequence not in found or chain.alignments or chain.paired:
        return chain
    rows = found[chain.sequence]
    unpaired = sorted((a for a in rows if a.source not in ("uniprot", "paired")), key=lambda a: merge_rank(a.source))
    paired = next((a for a in rows if a.source in ("uniprot", "paired")), None)
    said = ", ".join(f"{len(a.residues)} of {a.source}" for a in rows) or "none"
    logger.info("chain %s: alignment rows: %s", chain.id, said)
    return dataclasses.replace(chain, alignments=tuple(unpaired), paired=paired)


def _search_local(
    sequences: Sequence[str], options: SearchOptions, cache: Cache, report: Report, *, pairing: bool
) -> dict[str, list[Alignment]]:
    """Alignments of each sequence, from all databases that serve."""
    groups = _groups(find_databases(options.databases), pairing=pairing)
    found: dict[str, list[Alignment]] = {sequence: [] for sequence in sequences}
    with ThreadPoolExecutor(options.threads) as pool, ThreadPoolExecutor(len(groups)) as runners:
        workers = Workers(pool=pool, threads=options.threads, databases=len(groups))
        searchers = [_Searcher(group, options, workers, report) for group in groups]
        runs = [runners.submit(searcher.search, sequences, cache) for searcher in searchers]
        try:
            done, _ = wait(runs, return_when=FIRST_EXCEPTION)
            for run in done:
                run.result()  # raises what ended the others' wait
        except BaseException:
            workers.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        for run in runs:
            for sequence, alignment in zip(sequences, run.result(), strict=True):
                found[sequence].append(alignment)
    if pairing and not any(group[0].source == "uniprot" for group in groups):
        for rows in found.values():
            rows.extend([dataclasses.replace(a, source="uniprot") for a in rows if a.source == "uniref90"][:1])
    return found


def _groups(databases: Sequence[Database], *, pairing: bool) -> list[tuple[Database, ...]]:
    """Databases that serve alignments; those of HH-suite together, for it iterates over all at once.

    Raises:
      UserError: if there is none.
    """
    serving = [d for d in databases if not d.templates and (pairing or d.source != "uniprot")]
    if not serving:
        raise UserError(
            "--databases: holds no database for alignments; accepted are UniRef90, MGnify, BFD and any other (UniProt "
            "serves pairing in complexes, pdb_seqres templates)"
        )
    together = tuple(database for database in serving if database.kind == "hhsuite")
    return [(database,) for database in serving if database.kind != "hhsuite"] + ([together] if together else [])


def _program(kind: Kind, options: SearchOptions, stop: threading.Event) -> Program | None:
    """What searches databases of a kind; None for FASTA files, which pyhmmer searches in this process.

    Raises:
      UserError: if it is not installed.
    """
    if kind == "hhsuite":
        return HHblits(options.hhblits, stop)
    if kind == "mmseqs":
        return MMseqs(options.mmseqs, stop)
    pyhmmer_version()
    return None


class _Searcher:
    """Databases of one kind and the program that reads them.

    Raises:
      UserError: if that program is missing.
    """

    def __init__(self, databases: tuple[Database, ...], options: SearchOptions, workers: Workers, report: Report):
        self._databases = databases
        paths = [database.path for database in databases]
        program = _program(databases[0].kind, options, workers.stop)
        if program is None:
            thresholds = jackhmmer_options(options.max_evalue)
            self._method = {"program": f"pyhmmer {pyhmmer_version()}", "options": repr(thresholds)}
            self._run: Callable[[Sequence[str]], list[bytes]] = lambda sequences: search_alignments(
                sequences, paths[0], options=thresholds, workers=workers, report=report
            )
        else:
            self._method = {"program": program.version(), "options": program.settings()}
            self._run = lambda sequences: program.search(sequences, paths, options.threads, report)

    def search(self, sequences: Sequence[str], cache: Cache) -> list[Alignment]:
        """The alignment of each sequence, from the cache or searched for and kept."""
        prints = [database.fingerprint() for database in self._databases]
        keys = [Cache.key(form=1, **self._method, databases=prints, sequence=sequence) for sequence in sequences]
        found: dict[str, Alignment] = {}
        for key, sequence in zip(keys, sequences, strict=True):
            if (text := cache.get(key)) is not None:
                found[key] = self._parsed(text, sequence)
        missing = {key: sequence for key, sequence in zip(keys, sequences, strict=True) if key not in found}
        if missing:
            for (key, sequence), text in zip(missing.items(), self._run(list(missing.values())), strict=True):
                found[key] = self._parsed(text, sequence)
                cache.put(key, text)
        else:
            logger.info("%s: found before, and kept", self._name)
        return [found[key] for key in keys]

    @property
    def _name(self) -> str:
        return ", ".join(database.name for database in self._databases)

    def _parsed(self, text: bytes, sequence: str) -> Alignment:
        place = f"the result of searching {self._name}"
        alignment = parse_a3m(text, file=place, source=self._databases[0].source)
        if alignment.query != sequence:
            raise UserError(f"{place}: its first row is not the query")
        return alignment
