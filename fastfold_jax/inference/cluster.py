"""Jobs spread over the nodes of a Ray cluster: each is read here, and searched, predicted and written on some node."""

import functools
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event

import jax

from fastfold_jax.backend.allocator import claim_memory
from fastfold_jax.backend.compile_cache import use_compile_cache
from fastfold_jax.config.model import ModelConfig
from fastfold_jax.data.job import Job
from fastfold_jax.data.job_sources import JobSource
from fastfold_jax.errors import UserError
from fastfold_jax.inference import relax
from fastfold_jax.inference.config import InferenceConfig
from fastfold_jax.inference.devices import groups
from fastfold_jax.inference.engine import Engine, Parameters
from fastfold_jax.inference.job_run import Context, JobRun, Prepared, Threads, prepare
from fastfold_jax.inference.models import NetworkTable
from fastfold_jax.inference.outcome import JobOutcome
from fastfold_jax.search.spread import Share, spread

logger = logging.getLogger(__name__)

_HERE = "local"


def run_on_cluster(
    config: InferenceConfig,
    sources: Sequence[JobSource],
    directories: Sequence[Path],
    networks: Sequence[ModelConfig] | None = None,
) -> tuple[JobOutcome, ...]:
    """The outcome of each job, in order; one that fails does not stop the others.

    Parameters, databases, caches and the output directory must be at the same paths on every node.

    Raises:
      UserError: if Ray is not installed or cannot be reached, no node has what a job needs, or a protein is to be split
        over more GPUs than a job gets.
    """
    dap, gpus = config.execution.devices(), config.jobs.cluster_gpus
    if dap is not None and gpus and dap > gpus:
        raise UserError(f"--dap {dap}: with --cluster-gpus {gpus}, accepted are auto and numbers up to {gpus}")
    outcomes: dict[int, JobOutcome] = {}
    handed_over: list[int] = []

    def items() -> Iterator[tuple[str, Job, Path]]:
        """Jobs read one at a time, the longest first, so that none runs alone at the end."""
        for index in sorted(range(len(sources)), key=lambda index: -sources[index].num_res):
            try:
                job = sources[index].read()
            except UserError as error:
                outcomes[index] = _failed(sources[index], directories[index], error)
                continue
            handed_over.append(index)
            yield sources[index].name, job, directories[index].resolve()

    work = functools.partial(_run_one, config=config, networks=None if networks is None else tuple(networks))
    address = None if config.jobs.cluster == _HERE else config.jobs.cluster
    share = Share(cpus=config.search.search_threads or 1, gpus=gpus)
    for number, result in spread(work, items(), share, address=address):
        index = handed_over[number]
        outcome = _failed(sources[index], directories[index], result) if isinstance(result, Exception) else result
        outcomes[index] = outcome
        logger.info("%s: %s (%d of %d)", sources[index].name, outcome.status, len(outcomes), len(sources))
    return tuple(outcomes[index] for index in range(len(sources)))


def _failed(source: JobSource, directory: Path, error: Exception) -> JobOutcome:
    return JobOutcome(name=source.name, directory=directory, num_res=source.num_res, ranked=(), made=0, error=error)


def _run_one(
    item: tuple[str, Job, Path], config: InferenceConfig, networks: tuple[ModelConfig, ...] | None
) -> JobOutcome:
    """On a node: all of one job."""
    name, job, directory = item
    context, engine = _worker(config, networks)
    source = JobSource(name=name, place=name, num_res=0, read=lambda: job)
    prepared: Future[Prepared] = Future()
    try:
        prepared.set_result(prepare(context, source, directory))
    except Exception as error:
        prepared.set_exception(error)
    threads = Threads(ahead=ThreadPoolExecutor(1), writing=ThreadPoolExecutor(1), publishing=ThreadPoolExecutor(1))
    made = JobRun(context, source, directory, threads)
    made.run(prepared, engine, Event())
    outcome = made.finish().result()
    threads.finish()
    return outcome


@functools.lru_cache(maxsize=1)
def _worker(config: InferenceConfig, networks: tuple[ModelConfig, ...] | None) -> tuple[Context, Engine]:
    """What the jobs of one process share: its GPUs, parameters read once, programs compiled once.

    Raises:
      UserError: if predictions are to be relaxed, and this node cannot, or a protein is to be split over more devices
        than the process was given.
    """
    relax.check(config.relaxation)
    claim_memory()
    use_compile_cache(config.execution.cache_directory)
    (devices,) = groups(config.execution.devices(), 1, jax.local_devices())
    parameters = Parameters()
    context = Context(config=config, table=NetworkTable(config, networks), parameters=parameters)
    return context, Engine(config.execution, config.recycling, parameters, devices)
