"""One job of a run: what of it is to be done, its predictions, and what is written of them."""

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from threading import Event, Semaphore

from fastfold_jax import search
from fastfold_jax.data import layout
from fastfold_jax.data.initial_guess import check_initial_guess, with_initial_guess
from fastfold_jax.data.job import Job
from fastfold_jax.data.job_sources import JobSource
from fastfold_jax.errors import UserError
from fastfold_jax.inference import fingerprint, relax
from fastfold_jax.inference.answer import Answer, publish
from fastfold_jax.inference.config import InferenceConfig
from fastfold_jax.inference.coverage import Coverage
from fastfold_jax.inference.engine import Engine, Parameters, Target, Task, Timing, default_execution
from fastfold_jax.inference.files import prepare_directory, write_json
from fastfold_jax.inference.kept_alignments import keep_alignments
from fastfold_jax.inference.manifest import Manifest, remove_partial_files
from fastfold_jax.inference.models import Network, NetworkTable
from fastfold_jax.inference.outcome import JobOutcome
from fastfold_jax.inference.provenance import program
from fastfold_jax.inference.ranking import Finished
from fastfold_jax.inference.recycle import Recycling
from fastfold_jax.inference.result import PassRecord, Prediction, scores_text
from fastfold_jax.inference.timings import Timings
from fastfold_jax.inference.writers import write_prediction

logger = logging.getLogger(__name__)

COVERAGE_FILE = "coverage.json"
_COVERAGE = "coverage"
_UNWRITTEN = 8  # predictions, of up to some hundred MB each
# Search options that say how, and not what, is found.
_HOW = ("search_threads", "search_cache", "no_search_cache", "msa_server_contact", "msa_server_patience")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Context:
    """What the jobs of a run share."""

    config: InferenceConfig
    table: NetworkTable
    parameters: Parameters
    report: search.Report = search.silent

    @functools.cached_property
    def searched(self) -> str:
        """Digest of the databases, structures and files that searches read, as they are now."""
        return search.fingerprint(self.config.search, self.config.templates)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Survey:
    """A job that has been read, and what of it is done.

    Attributes:
      job: The job as given.
      networks: The networks that predict it.
      basis: Digest of what decides all predictions alike.
      tasks: The predictions, and the digest of what decides each.
      finished: Predictions that an earlier run has made, by name.
      manifest: Manifest of the job's directory.
    """

    job: Job
    networks: Sequence[Network]
    basis: str
    tasks: Mapping[Task, str]
    finished: Mapping[str, Finished]
    manifest: Manifest

    @property
    def left(self) -> list[Task]:
        """Predictions to make."""
        return [task for task in self.tasks if task.name not in self.finished]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """A job that has been searched too, if anything of it is left to do.

    Attributes:
      survey: What is known of the job.
      target: The job with its features; None if nothing is left to predict.
      coverage: Coverage of its alignment.
      timings: Seconds of each part.
    """

    survey: Survey
    target: Target | None
    coverage: Coverage
    timings: Timings

    @property
    def num_res(self) -> int:
        """Residues."""
        return self.coverage.depth.shape[1]


def check(config: InferenceConfig) -> None:
    """Checks that all that the options name is there; what only some jobs need, `survey` looks for.

    Raises:
      UserError: if anything is missing.
    """
    search.check(config.search, config.templates)
    check_initial_guess(config.recycling.initial_guess)
    if config.jobs.cluster is None:  # other nodes may have what this one lacks
        relax.check(config.relaxation)


def survey(context: Context, source: JobSource, directory: Path) -> Survey:
    """Reads a job, sees what of it is finished and whether the rest can be searched for; writes nothing.

    Raises:
      UserError: if anything of it cannot be used, a program that it needs is missing, or the directory is another
        job's.
    """
    config = context.config
    job = dataclasses.replace(source.read(), name=source.name)
    job = with_initial_guess(job, config.recycling.initial_guess)
    networks = context.table.networks(job)
    basis = _basis(job, context)
    tasks = {
        Task(network=network, seed=seed): _task_fingerprint(basis, network, seed, config)
        for network in networks
        for seed in config.sampling.seeds(job.seeds)
    }
    manifest = Manifest(directory, job.name)
    finished = {} if config.jobs.redo else _finished(manifest, tasks)
    known = Survey(job=job, networks=networks, basis=basis, tasks=tasks, finished=finished, manifest=manifest)
    if known.left:
        search.require(job, config.search, config.templates if _read_templates(networks) else search.TemplateOptions())
    return known


def prepare(context: Context, source: JobSource, directory: Path) -> Prepared:
    """Reads a job, sees what of it is finished, and searches for what is not.

    Raises:
      UserError: if anything of it cannot be used.
    """
    timings = Timings(directory)
    config = context.config
    with timings.measure("read_input"):
        known = survey(context, source, directory)
    prepare_directory(directory)
    remove_partial_files(directory)
    first = known.networks[0].config
    made_from = fingerprint.of_options(basis=known.basis, kind=type(first).__name__)
    coverage = None if config.jobs.redo else _known_coverage(known.manifest, made_from)
    kept = not config.jobs.redo and known.manifest.finished(layout.ALIGNMENTS, made_from) is not None
    target = None
    if coverage is None or known.left or not kept:
        with timings.measure("search"):
            completed = complete(known.job, known.networks, config, context.report)
            keep_alignments(completed, made_from, known.manifest)
        target = Target(completed)
        with timings.measure("features"):
            target.features(first)
            if coverage is None:
                coverage = target.coverage(first)
                write_json(directory / COVERAGE_FILE, coverage.to_json())
                known.manifest.add(_COVERAGE, made_from, [COVERAGE_FILE], coverage.to_json())
            for task in known.left[:1]:
                target.begin(task)
    return Prepared(survey=known, target=target, coverage=coverage, timings=timings)


def complete(job: Job, networks: Sequence[Network], config: InferenceConfig, report: search.Report) -> Job:
    """The job with the alignments and, where a network reads any, the templates that it lacks.

    Raises:
      UserError: if a search fails.
    """
    if job.features is not None:
        return job
    completed = search.complete(job, config.search, report)
    if _read_templates(networks):
        return search.attach(completed, config.templates, config.search, report)
    own = any(chain.templates is not None and len(chain.templates) for chain in job.chains)
    if own or config.templates.mode != "none" or config.templates.custom_templates:
        names = ", ".join(network.config.name for network in networks)
        logger.warning("%s: templates are left out, since %s uses none", job.name, names)
    return completed


def _read_templates(networks: Sequence[Network]) -> bool:
    return any(network.config.num_templates for network in networks)


def _basis(job: Job, context: Context) -> str:
    """What decides all predictions of a job alike."""
    config = context.config
    options = {key: value for key, value in dataclasses.asdict(config.search).items() if key not in _HOW}
    return fingerprint.of_options(
        program=program(),
        job=fingerprint.of_job(job),
        search=options,
        templates=config.templates,
        searched=context.searched,
    )


def _task_fingerprint(basis: str, network: Network, seed: int, config: InferenceConfig) -> str:
    parameters = fingerprint.of_parameters(network.file) if network.file else f"{network.source} {network.seed}"
    return fingerprint.of_options(
        basis=basis,
        network=fingerprint.of_network(network.config),
        parameters=parameters,
        seed=seed,
        recycling=Recycling.of(config.recycling, network.config),
        precision=default_execution(config.execution).precision,
    )


def _finished(manifest: Manifest, tasks: Mapping[Task, str]) -> dict[str, Finished]:
    found = {}
    for task, made_from in tasks.items():
        entry = manifest.finished(task.name, made_from)
        if entry is not None:
            try:
                found[task.name] = Finished.from_json(entry.content)
            except (KeyError, TypeError):
                logger.warning("%s: what is known of %s is damaged; made again", manifest.directory, task.name)
    return found


def _known_coverage(manifest: Manifest, made_from: str) -> Coverage | None:
    entry = manifest.finished(_COVERAGE, made_from)
    try:
        return Coverage.from_json(dict(entry.content)) if entry else None
    except (KeyError, TypeError, ValueError):
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Threads:
    """What works beside the devices.

    Attributes:
      ahead: Runs what can be done before it is needed.
      writing: Writes predictions, one after another.
      publishing: Ranks, relaxes, plots and reports finished jobs, which may take longer than predicting them.
      room: For predictions that are not written yet; without any, devices wait.
    """

    ahead: Executor
    writing: Executor
    publishing: Executor
    room: Semaphore = dataclasses.field(default_factory=lambda: Semaphore(_UNWRITTEN))

    def finish(self) -> None:
        """Waits until all of it is done."""
        for executor in (self.ahead, self.writing, self.publishing):
            executor.shutdown(wait=True)


class JobRun:
    """Predicts a job and has its files written in another thread, so that the device goes on meanwhile.

    Args:
      context: What the jobs of the run share.
      source: The job.
      directory: Where the job's files go.
      threads: The run's threads.
    """

    def __init__(self, context: Context, source: JobSource, directory: Path, threads: Threads):
        self._context = context
        self._source = source
        self._directory = directory
        self._threads = threads
        self._prepared: Prepared | None = None
        self._made: list[Finished] = []
        self._pending: list[Future[None]] = []
        self._error: Exception | None = None
        self._outcome: Future[JobOutcome] | None = None

    def run(self, prepared: "Future[Prepared]", engine: Engine, stopped: Event) -> None:
        """Makes the predictions that are left; what goes wrong is kept for the outcome."""
        try:
            job = self._prepared = prepared.result()
            left = job.survey.left
            for task, following in zip(left, [*left[1:], None], strict=False):
                if stopped.is_set():
                    return
                assert job.target is not None, "a job with predictions to make has features"
                if following is not None:
                    job.target.begin(following, self._threads.ahead)
                prediction, timing = engine.predict(job.target, task, self._log_pass)
                self._threads.room.acquire()
                self._pending.append(self._threads.writing.submit(self._write, task, prediction, timing))
                self._pending[-1].add_done_callback(lambda _: self._threads.room.release())
                del prediction  # it is large
        except UserError as error:
            self._error = error
        except Exception as error:
            if self._context.config.verbose:
                logger.exception("%s: a defect of the program", self._source.name)
            self._error = error

    def finish(self) -> "Future[JobOutcome]":
        """Ranks what is there, once it is written, and publishes it; begun once, however often it is called."""
        if self._outcome is None:
            if self._prepared is not None:  # publishing may be far behind, and features are large
                self._prepared = dataclasses.replace(self._prepared, target=None)
            self._outcome = self._threads.publishing.submit(self._finish)
        return self._outcome

    def _log_pass(self, name: str, most: int, passes: Sequence[PassRecord]) -> None:
        record = passes[-1]
        change = f"{record.change:6.2f} Å" if len(passes) > 1 else "   –    "
        scores = scores_text(record.plddt, record.ptm, record.iptm)
        text = "%s %s  pass %d/%d  %s  change %s  %.1f s"
        logger.info(text, self._source.name, name, len(passes), most, scores, change, record.seconds)

    def _write(self, task: Task, prediction: Prediction, timing: Timing) -> None:
        assert self._prepared is not None
        timings = self._prepared.timings
        with timings.measure("write"):
            files = write_prediction(prediction, self._directory, self._source.name)
            finished = Finished.of(prediction, files)
            made_from = self._prepared.survey.tasks[task]
            self._prepared.survey.manifest.add(task.name, made_from, files, finished.to_json())
        self._made.append(finished)
        timings.note(task.name, timing.to_json())
        timings.write()

    def _finish(self) -> JobOutcome:
        ranked: Sequence[Finished] = ()
        failed = [future.exception() for future in self._pending]  # once they are written
        error = next((each for each in failed if isinstance(each, Exception)), self._error)
        if self._prepared is not None:
            known = {**self._prepared.survey.finished, **{item.name: item for item in self._made}}
            # In the order of the tasks, whatever was made when, so that ties are broken alike.
            finished = [known[task.name] for task in self._prepared.survey.tasks if task.name in known]
            try:
                if finished:
                    ranked = publish(self._answer(finished), self._context.config)
            except Exception as publishing:
                error = error or publishing
        return JobOutcome(
            name=self._source.name,
            directory=self._directory,
            num_res=self._prepared.num_res if self._prepared else self._source.num_res,
            ranked=tuple(ranked),
            made=len(self._made),
            error=error,
        )

    def _answer(self, finished: Sequence[Finished]) -> Answer:
        assert self._prepared is not None
        known = self._prepared.survey
        return Answer(
            job=self._source.name,
            directory=self._directory,
            finished=tuple(finished),
            manifest=known.manifest,
            coverage=self._prepared.coverage,
            timings=self._prepared.timings,
        )
