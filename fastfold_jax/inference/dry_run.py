"""What a run would do, told without doing it: `--dry-run`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
from rich.console import Console
from rich.table import Table

from fastfold_jax.config.model import ModelConfig
from fastfold_jax.data import buckets
from fastfold_jax.data.assemble import assemble
from fastfold_jax.data.job import Job
from fastfold_jax.data.job_sources import find_jobs
from fastfold_jax.errors import UserError
from fastfold_jax.inference.config import InferenceConfig
from fastfold_jax.inference.engine import Parameters, default_execution
from fastfold_jax.inference.estimate import device_rate, estimate
from fastfold_jax.inference.job_run import Context, Survey, survey
from fastfold_jax.inference.models import NetworkTable
from fastfold_jax.inference.outcome import SUMMARY_FILE
from fastfold_jax.inference.recycle import Recycling

_GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planned:
    """A job of a run that was not run.

    Attributes:
      name: The job's.
      chains: Lengths.
      searched: Chains that would be searched for alignments.
      predictions: How many there would be in all.
      finished: How many of them are there already.
      padded: Residues of the compiled program.
      bytes: Memory of the largest pass.
      seconds: Of the predictions that are left, compiling left out.
      error: Why it would fail, if that shows already.
    """

    name: str
    chains: tuple[int, ...] = ()
    searched: int = 0
    predictions: int = 0
    finished: int = 0
    padded: int = 0
    bytes: float = 0.0
    seconds: float = 0.0
    error: str | None = None


def plan(config: InferenceConfig, networks: Sequence[ModelConfig] | None = None) -> list[Planned]:
    """The jobs in the order in which one device would take them.

    Raises:
      UserError: if something given cannot be used.
    """
    sources = find_jobs(config.input, joined=config.jobs.complex, copies=config.jobs.copies(), reserved=(SUMMARY_FILE,))
    context = Context(config=config, table=NetworkTable(config, networks), parameters=Parameters())
    rate = device_rate(default_execution(config.execution))
    planned = []
    for source in sorted(sources, key=lambda source: source.num_res):
        directory = config.out if len(sources) == 1 else config.out / source.name
        try:
            planned.append(_planned(survey(context, source, directory), config, rate))
        except UserError as error:
            planned.append(Planned(name=source.name, error=str(error)))
    return planned


def _planned(known: Survey, config: InferenceConfig, rate: float) -> Planned:
    job = known.job
    searched = [chain for chain in job.chains if not chain.alignments] if config.search.mode != "none" else []
    shapes = {network.config: _shape(job, network.config, bool(searched)) for network in known.networks}
    execution = default_execution(config.execution)
    costs = {
        network: estimate(network, shape, execution, Recycling.of(config.recycling, network).num_passes)
        for network, shape in shapes.items()
    }
    return Planned(
        name=job.name,
        chains=tuple(len(chain.sequence) for chain in job.chains),
        searched=len({chain.sequence for chain in searched}),
        predictions=len(known.tasks),
        finished=len(known.finished),
        padded=max(shape.num_res for shape in shapes.values()),
        bytes=max(cost.bytes for cost in costs.values()),
        seconds=sum(costs[task.network.config].seconds(rate) for task in known.left),
    )


def _shape(job: Job, network: ModelConfig, searched: bool) -> buckets.Shape:
    """What the network would be compiled for; with a search before it, as if that filled all rows."""
    if not searched:
        return buckets.choose(assemble(job, network), network)
    full = buckets.Shape(
        num_res=sum(len(chain.sequence) for chain in job.chains),
        num_msa=network.num_clusters,
        num_extra_msa=network.num_extra_msa,
        num_templates=network.num_templates,
    )
    return buckets.choose(full, network)


def show(planned: Sequence[Planned], out: Path, console: Console) -> None:
    """A table of the plan, and its sums."""
    table = Table("job", "residues", "chains", "search", "predict", "done", "padded", "GiB", "time")
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for item in planned:
        if item.error is not None:
            table.add_row(item.name, *["–"] * 8)
            continue
        table.add_row(
            item.name,
            str(sum(item.chains)) if item.chains else "?",
            str(len(item.chains) or "?"),
            str(item.searched),
            str(item.predictions),
            str(item.finished),
            str(item.padded),
            f"{item.bytes / _GIB:.1f}",
            _time(item.seconds),
        )
    console.print(table)
    devices = jax.local_devices()
    left = sum(item.predictions - item.finished for item in planned)
    most = max((item.bytes for item in planned), default=0.0)
    sizes = len({item.padded for item in planned if item.error is None})
    console.print(
        f"{left} predictions to make on {len(devices)} x {devices[0].device_kind}, into {out}: about "
        f"{_time(sum(item.seconds for item in planned) / min(len(devices), max(len(planned), 1)))}, searches and "
        f"compiling ({sizes} sizes) not counted, if every pass is made. Memory up to {most / _GIB:.1f} GiB a device, "
        "reckoned without chunking and fused kernels."
    )
    for item in planned:
        if item.error is not None:
            console.print(f"{item.name} would fail: {item.error}", markup=False)


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6_000 else f"{seconds / 3_600:.1f} h"
