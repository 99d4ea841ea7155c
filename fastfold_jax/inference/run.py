"""From a configuration to files: finds the jobs, predicts each with every model and seed, writes each as it is done."""

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import jax

from fastfold_jax.config.model import ModelConfig
from fastfold_jax.data.job_sources import JobSource
from fastfold_jax.inference.cluster import run_on_cluster
from fastfold_jax.inference.config import InferenceConfig
from fastfold_jax.inference.devices import fits, groups
from fastfold_jax.inference.engine import Engine, Parameters
from fastfold_jax.inference.files import prepare_directory
from fastfold_jax.inference.job_run import Context, JobRun, Prepared, Threads, check, prepare
from fastfold_jax.inference.manifest import job_directories
from fastfold_jax.inference.models import WARNINGS, NetworkTable
from fastfold_jax.inference.outcome import JobOutcome, by_error, write_summary
from fastfold_jax.inference.sources import job_sources
from fastfold_jax.search.report import Report, silent

logger = logging.getLogger(__name__)

_LOOK_AHEAD = 1  # jobs a device that are read, searched and featurised while others are predicted


def run(
    config: InferenceConfig, networks: Sequence[ModelConfig] | None = None, report: Report = silent
) -> tuple[JobOutcome, ...]:
    """Predicts and writes everything that is not finished already; the outcome of each job in the input's order.

    A job that fails is reported, and the others go on. What is finished when an interrupt ends the run stays, ranked.

    Args:
      config: The run.
      networks: Networks to use in place of those that `config.model` names, such as ones that are no preset.
      report: Called with the progress of searches.

    Raises:
      UserError: if something given cannot be used, or the only job fails. What can be checked is checked before
        anything is computed.
    """
    prepare_directory(config.out)
    sources = job_sources(config)
    for names, error in by_error((source.name, str(source.error)) for source in sources if source.error is not None):
        logger.warning("%s: %s; the other jobs go on", names, error)
    table = NetworkTable(config, networks)
    check(config)
    directories = job_directories(config.out, [source.name for source in sources])
    if config.params in WARNINGS:
        _warn(WARNINGS[config.params])
    if config.jobs.cluster is not None:
        outcomes = run_on_cluster(config, sources, directories, networks)
        write_summary(outcomes, config.out)
    else:
        context = Context(config=config, table=table, parameters=Parameters(), report=report)
        outcomes = _run_here(_Runner(context, sources, directories), config, alone=len(sources) == 1)
    for outcome in outcomes:
        outcome.log()
    if len(sources) == 1 and outcomes[0].error is not None:
        raise outcomes[0].error
    for names, error in by_error((each.name, str(each.error)) for each in outcomes if each.error is not None):
        logger.error("%s: %s", names, error)
    return outcomes


def _run_here(runner: "_Runner", config: InferenceConfig, *, alone: bool) -> tuple[JobOutcome, ...]:
    try:
        return runner.run()
    finally:
        if not alone and (known := runner.outcomes()):
            write_summary(known, config.out)


class _Runner:
    """The jobs of a run over the devices: a thread prepares the next ones, another writes what is done."""

    def __init__(self, context: Context, sources: Sequence[JobSource], directories: Sequence[Path]):
        config = self._config = context.config
        self._sources = sources
        self._directories = directories
        self._devices = jax.local_devices()
        self._groups = groups(config.execution.devices(), len(sources), self._devices)
        # Longest first where devices share the jobs, so that none waits for another's longest at the end.
        order = sorted(range(len(sources)), key=lambda i: sources[i].num_res, reverse=len(self._groups) > 1)
        # What fits on no single device comes last, one after the other, when all are free for it.
        self._large = [i for i in order if len(self._groups) > 1 and not fits(sources[i].num_res, self._devices[0])]
        self._order = [i for i in order if i not in self._large]
        self._outcomes: dict[int, Future[JobOutcome]] = {}
        self._context = context
        self._preparation = ThreadPoolExecutor(len(self._groups), thread_name_prefix="prepare")
        self._threads = Threads(
            ahead=ThreadPoolExecutor(len(self._groups), thread_name_prefix="sample"),
            writing=ThreadPoolExecutor(1, thread_name_prefix="write"),
            publishing=ThreadPoolExecutor(len(self._groups), thread_name_prefix="publish"),
        )
        self._prepared: dict[int, Future[Prepared]] = {}
        self._running: dict[int, JobRun] = {}
        self._next = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def run(self) -> tuple[JobOutcome, ...]:
        try:
            if len(self._groups) == 1:
                self._work(self._groups[0])
            else:
                self._work_side_by_side()
            if self._large:
                self._order += self._large
                self._work(self._devices)
        except BaseException:
            self._stopped.set()
            self._preparation.shutdown(wait=False, cancel_futures=True)
            self._threads.ahead.shutdown(wait=False, cancel_futures=True)
            for index, job in list(self._running.items()):  # what they have finished is ranked at once
                self._outcomes[index] = job.finish()
            raise
        finally:
            self._threads.finish()
        self._preparation.shutdown(wait=True)
        return self.outcomes()

    def outcomes(self) -> tuple[JobOutcome, ...]:
        """Outcomes of the jobs that have come to an end, in the input's order."""
        return tuple(future.result() for _, future in sorted(self._outcomes.items()) if future.done())

    def _work_side_by_side(self) -> None:
        """Runs a thread for each group of devices. An interrupt does not wait for the passes under way."""
        pool = ThreadPoolExecutor(len(self._groups), thread_name_prefix="device")
        try:
            for working in [pool.submit(self._work, group) for group in self._groups]:
                working.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _work(self, devices: Sequence[jax.Device]) -> None:
        """Takes job after job until there is none."""
        engine = Engine(self._config.execution, self._config.recycling, self._context.parameters, devices)
        while (taken := self._take()) is not None:
            index, prepared = taken
            job = JobRun(self._context, self._sources[index], self._directories[index], self._threads)
            self._running[index] = job
            job.run(prepared, engine, self._stopped)
            if not self._stopped.is_set():
                self._outcomes[index] = job.finish()
                self._running.pop(index)

    def _take(self) -> tuple[int, "Future[Prepared]"] | None:
        """The next job, and the preparation of those behind it begun."""
        with self._lock:
            ahead = self._next + len(self._groups) * _LOOK_AHEAD + 1
            for index in self._order[self._next : ahead]:
                if index not in self._prepared and not self._stopped.is_set():
                    self._prepared[index] = self._preparation.submit(
                        prepare, self._context, self._sources[index], self._directories[index]
                    )
            if self._next == len(self._order) or self._stopped.is_set():
                return None
            index = self._order[self._next]
            self._next += 1
            return index, self._prepared.pop(index)


def _warn(text: str) -> None:
    bar = "*" * 100
    for line in (bar, text, bar):
        logger.warning(line)
