"""Gives every chain of a job its templates: the user's own first, then those found."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from fastfold_jax.constants import MSA_LETTER_TO_INDEX
from fastfold_jax.data import layout
from fastfold_jax.data.job import Chain, Job
from fastfold_jax.data.job_hits import hit_files
from fastfold_jax.data.structure import SUFFIXES, Structure, is_structure, read_structure
from fastfold_jax.data.template_features import Rejected, Template, stack, template_of_chain
from fastfold_jax.data.template_hits import TemplateHit, read_hits
from fastfold_jax.data.template_selection import Library, Rules, read_successors, select
from fastfold_jax.data.textfile import InputError
from fastfold_jax.errors import UserError
from fastfold_jax.search.cache import Cache
from fastfold_jax.search.config import SearchOptions, TemplateOptions
from fastfold_jax.search.databases import find_databases
from fastfold_jax.search.hmmer import pyhmmer_version
from fastfold_jax.search.programs import scratch
from fastfold_jax.search.report import Report, silent
from fastfold_jax.search.server import Server
from fastfold_jax.search.template_search import Sequences, search_chains, write_sequences

logger = logging.getLogger(__name__)

_CUSTOM = "accepted are FILE, FILE:CHAIN and ID=FILE:CHAIN, or a directory in place of FILE"
_SERVER_ENTRIES = 20  # that the server is asked for, as ColabFold does


def attach(job: Job, options: TemplateOptions, search: SearchOptions | None = None, report: Report = silent) -> Job:
    """The job with templates for every chain, as far as any are asked for.

    Chains of equal sequence share them. Hits are those of the options, else those that came with the input, else
    searched for. Searches use the chains' alignments, so `complete` comes first. Chains that have templates keep them;
    a job of ready-made features is returned as it is.

    Args:
      job: With alignments.
      options: Where templates come from, and what they must be.
      search: For the server's address, the cache, and databases with sequences of the PDB.
      report: Called with the progress.

    Raises:
      UserError: if a file given can't be used, or a search fails; hits that are no good are logged, and no error.
    """
    search = search or SearchOptions()
    wanted = [chain for chain in job.chains if chain.templates is None]
    if options.mode == "none" and any(chain.hits for chain in wanted):
        logger.info("%s: the template hits beside the input are not used without --template-mmcif", job.name)
    if not job.chains or (not options.custom_templates and (options.mode == "none" or not wanted)):
        return job
    custom = _custom(job, options.custom_templates)
    distinct = list({chain.sequence: chain for chain in reversed(wanted)}.values())[::-1]
    found = _found(job, distinct, options, search, report)
    chains = []
    for chain in job.chains:
        if chain.templates is not None:
            own = stack(custom[chain.id], len(chain.sequence)).then(chain.templates)
            chains.append(dataclasses.replace(chain, templates=own))
            continue
        mine = (custom[chain.id] + found.get(chain.sequence, []))[: options.max_templates]
        chains.append(dataclasses.replace(chain, templates=stack(mine, len(chain.sequence))))
        names = ", ".join(template.name for template in mine) or "none"
        logger.info("chain %s: %d templates: %s", chain.id, len(mine), names)
    return dataclasses.replace(job, chains=tuple(chains))


def _found(
    job: Job, distinct: Sequence[Chain], options: TemplateOptions, search: SearchOptions, report: Report
) -> dict[str, list[Template]]:
    """The templates of each sequence that files of hits or a search lead to."""
    if options.mode == "none" or not distinct:
        return {}
    cache = Cache(search.cache_directory)
    with scratch() as directory:
        if options.mode == "server":
            library = _fetched(distinct, Path(directory), search, cache, report)
        else:
            library = local_library(options)
        if library is None:
            return {}
        hits = _given_hits(options.template_hits, job) if options.template_hits else {}
        if options.mode == "local" and not options.template_hits:
            hits = _input_hits(job)
        left = [] if options.template_hits else [chain for chain in distinct if chain.sequence not in hits]
        if left:
            sequences = _sequences(library, Path(directory), options, search, cache, report)
            lists = search_chains(left, sequences, threads=search.threads, cache=cache, report=report)
            hits |= {chain.sequence: found for chain, found in zip(left, lists, strict=True)}
        rules = Rules(latest=options.latest(), most=options.max_templates)
        return {
            chain.sequence: select(hits.get(chain.sequence, ()), chain.sequence, library, rules) for chain in distinct
        }


def require_templates(job: Job, options: TemplateOptions) -> None:
    """Checks that the user's own templates are for the job's chains, and that what a search needs is installed.

    Raises:
      UserError: if a template is for no chain of the job, or pyhmmer is needed and not installed.
    """
    for text in options.custom_templates if job.chains else ():
        _parse_custom(text, job)
    known = {chain.sequence for chain in job.chains if chain.hits}
    left = any(chain.templates is None and chain.sequence not in known for chain in job.chains)
    if options.mode == "local" and not options.template_hits and left:
        pyhmmer_version()


def named_files(options: TemplateOptions) -> list[Path]:
    """The files that options name one by one.

    Raises:
      UserError: if one is not there.
    """
    files = [path for path, _ in _hit_files(options.template_hits)]
    for text in options.custom_templates:
        found = [file for _, path, _ in _readings(text) for file in _structures(path)]
        if not found:
            raise UserError(f"--custom-templates {text}: no such file; {_CUSTOM}")
        files += found
    for option, path in (
        ("--template-sequences", options.template_sequences),
        ("--obsolete-pdbs", options.obsolete_pdbs),
    ):
        if path is not None and not path.is_file():
            raise UserError(f"{option} {path}: no such file")
        files += [] if path is None else [path]
    return files


def local_library(options: TemplateOptions) -> Library:
    """The user's directory of structures.

    Raises:
      UserError: if it is not there, or the table of replaced entries cannot be read.
    """
    assert options.template_mmcif is not None  # the options say so
    if not options.template_mmcif.is_dir():
        raise UserError(f"--template-mmcif {options.template_mmcif}: no such directory")
    successors = read_successors(options.obsolete_pdbs) if options.obsolete_pdbs else {}
    return Library(directory=options.template_mmcif, successors=successors)


def _sequences(
    library: Library,
    directory: Path,
    options: TemplateOptions,
    search: SearchOptions,
    cache: Cache,
    report: Report,
) -> Sequences:
    """What to search for templates."""
    if options.mode == "local":
        if options.template_sequences is not None:
            return Sequences.of_file(options.template_sequences)
        for database in find_databases(search.databases) if search.databases else ():
            if database.templates and database.kind == "fasta":
                return Sequences.of_file(database.path)
    return write_sequences(library.directory, directory / "sequences.fasta", cache=cache, report=report)


def _fetched(
    distinct: Sequence[Chain], directory: Path, search: SearchOptions, cache: Cache, report: Report
) -> Library | None:
    """The structures that the server finds alike, in a directory of their own; None if there are none."""
    server = Server.of(search, cache)
    lists = server.template_entries([chain.sequence for chain in distinct], report)
    entries = list(dict.fromkeys(entry for found in lists for entry in found[:_SERVER_ENTRIES]))
    if not entries:
        return None
    structures = directory / "mmcif"
    structures.mkdir()
    for name, text in server.structures(entries, report).items():
        entry = name.removesuffix(".cif").lower()
        if entry.isascii() and entry.isalnum():  # the name is the server's: it may not lead out of the directory
            (structures / f"{entry}.cif").write_bytes(text)
    return Library(directory=structures) if any(structures.iterdir()) else None


def _input_hits(job: Job) -> dict[str, list[TemplateHit]]:
    """Hits that came with the job, by the sequence that they are for.

    Raises:
      UserError: if a file of them can't be read.
    """
    hits: dict[str, list[TemplateHit]] = {}
    for chain in job.chains:
        if chain.hits and chain.sequence not in hits:
            logger.info("chain %s: template hits of %s", chain.id, ", ".join(map(str, chain.hits)))
            hits[chain.sequence] = [hit for path in chain.hits for hit in read_hits(path, chain.sequence)]
    return hits


def _given_hits(paths: Sequence[Path], job: Job) -> dict[str, list[TemplateHit]]:
    """Hits by the sequence that they are for.

    Raises:
      UserError: if a file can't be read, or it isn't clear which chain it is for.
    """
    hits: dict[str, list[TemplateHit]] = {}
    for path, key in _hit_files(paths):
        chain = _chain_of(path, key, job.chains)
        hits.setdefault(chain.sequence, []).extend(read_hits(path, chain.sequence))
    return hits


def _hit_files(paths: Sequence[Path]) -> list[tuple[Path, str]]:
    """Files of hits, each with the word in its name or its directory's that may name a chain.

    Raises:
      UserError: if a file is not there, or a directory holds none.
    """
    files = []
    for path in paths:
        if not path.exists():
            raise UserError(f"--template-hits {path}: no such file or directory")
        if not path.is_dir():
            files.append((path, layout.chain_prefix(path) or ""))
            continue
        inside = hit_files([found for found in sorted(path.rglob("*")) if found.is_file()], path)
        if not inside:
            raise UserError(f"--template-hits {path}: holds no hits; accepted are .hhr files, and pdb_hits.sto or .a3m")
        files += inside
    return files


def _chain_of(path: Path, key: str, chains: Sequence[Chain]) -> Chain:
    """The chain that a word names or numbers; if it does neither, the only chain that there is."""
    number = layout.chain_number(key)
    named = [chain for chain in chains if chain.id.casefold() == key.casefold()]
    if named:
        return named[0]
    if number is not None and 1 <= number <= len(chains):
        return chains[number - 1]
    if len({chain.sequence for chain in chains}) == 1:
        return chains[0]
    ids = ", ".join(chain.id for chain in chains)
    raise UserError(
        f"--template-hits {path}: of which chain? accepted are names that begin with chain1_, chain2_ and so on, and "
        f"sub-directories named as the chains: {ids}"
    )


def _custom(job: Job, given: Sequence[str]) -> Mapping[str, list[Template]]:
    """The user's own templates of each chain, by its id.

    Raises:
      UserError: if one can't be used.
    """
    read = functools.cache(_read)
    found: dict[str, list[Template]] = {chain.id: [] for chain in job.chains}
    for text in given:
        target, path, chain_name = _parse_custom(text, job)
        for chain in job.chains:
            if target in (None, chain.id):
                found[chain.id] += _own(chain, path, chain_name, read)
    return found


def _own(chain: Chain, path: Path, name: str | None, read: Callable[[Path], Structure]) -> list[Template]:
    """The templates of one chain that a file or a directory makes, of a directory's those most alike first.

    Raises:
      UserError: if a file can't be read, or one that was named makes none.
    """
    made = []
    for file in _structures(path):
        try:
            template = template_of_chain(read(file), name, chain.sequence)
        except Rejected as reason:
            if not path.is_dir():
                raise UserError(f"--custom-templates {path}: {reason}") from None
            logger.warning("custom template %s for chain %s: %s; left out", file, chain.id, reason)
            continue
        logger.info("custom template %s for chain %s: %s", template.name, chain.id, template.note)
        made.append(template)
    query = [MSA_LETTER_TO_INDEX[letter] for letter in chain.sequence]
    return sorted(made, key=lambda template: -int((template.aatype == query).sum()))


def _structures(path: Path) -> list[Path]:
    """A file itself, or the structures in a directory.

    Raises:
      UserError: if it holds none.
    """
    if not path.is_dir():
        return [path]
    found = [file for file in path.iterdir() if file.is_file() and is_structure(file)]
    if not found:
        raise UserError(f"--custom-templates {path}: holds no structure; accepted are {', '.join(SUFFIXES)}")
    return sorted(found, key=lambda file: layout.natural(file.name))


def _parse_custom(text: str, job: Job) -> tuple[str | None, Path, str | None]:
    """Chain of the job, file or directory, and chain of the file that `[ID=]FILE[:CHAIN]` says.

    Raises:
      UserError: if it says nothing about this job.
    """
    ids = {chain.id for chain in job.chains}
    for target, path, chain in _readings(text):
        if target is None or target in ids:
            return target, path, chain
    head, equals, _ = text.partition("=")
    what = "" if not equals or head in ids else f", nor is {head} a chain of the job ({', '.join(sorted(ids))})"
    raise UserError(f"--custom-templates {text}: no such file{what}; {_CUSTOM}")


def _readings(text: str) -> Iterator[tuple[str | None, Path, str | None]]:
    """What `[ID=]FILE[:CHAIN]` may mean: chain of the job, file or directory that is there, chain of the file."""
    head, equals, rest = text.partition("=")
    for target, name in (*([(head, rest)] if equals else []), (None, text)):
        front, colon, chain = name.rpartition(":")
        if Path(name).exists():
            yield target, Path(name), None
        elif colon and Path(front).is_file():
            yield target, Path(front), chain


def _read(path: Path) -> Structure:
    try:
        return read_structure(path)
    except InputError as error:
        raise UserError(f"--custom-templates {error}") from None
