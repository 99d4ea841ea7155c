"""What a run would do, told without doing it: `--dry-run`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
from rich import box
from rich.console import Console
from rich.table import Table

from fastfold_jax.config.model import ModelConfig
from fastfold_jax.data import buckets
from fastfold_jax.data.assemble import assemble
from fastfold_jax.data.job import Job
from fastfold_jax.errors import UserError
from fastfold_jax.inference.config import InferenceConfig
from fastfold_jax.inference.devices import fits, groups
from fastfold_jax.inference.engine import Engine, Parameters, default_execution
from fastfold_jax.inference.estimate import device_rate, pass_flops
from fastfold_jax.inference.job_run import Context, Survey, check, survey
from fastfold_jax.inference.manifest import job_directories
from fastfold_jax.inference.models import NetworkTable
from fastfold_jax.inference.outcome import by_error
from fastfold_jax.inference.recycle import Recycling
from fastfold_jax.inference.sources import job_sources

_GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planned:
    """A job of a run that was not run.

    Attributes:
      name: The job's name.
      chains: Lengths of the chains.
      searched: Number of chains that would be searched for alignments.
      predictions: Number of predictions in all.
      finished: Number of predictions that are there already.
      padded: Residues of the compiled program.
      devices: Number of devices that share the protein.
      bytes: Memory of the largest pass on each device.
      whole: The same if no part of the pass ran in chunks.
      seconds: Time of the predictions that are left, without compiling.
      error: Why the job would fail, if that shows already.
    """

    name: str
    chains: tuple[int, ...] = ()
    searched: int = 0
    predictions: int = 0
    finished: int = 0
    padded: int = 0
    devices: int = 1
    bytes: float = 0.0
    whole: float = 0.0
    seconds: float = 0.0
    error: str | None = None


def plan(config: InferenceConfig, networks: Sequence[ModelConfig] | None = None) -> list[Planned]:
    """The jobs in the order in which one device would take them.

    Raises:
      UserError: if something given cannot be used, or the only job would fail.
    """
    sources = job_sources(config)
    context = Context(config=config, table=NetworkTable(config, networks), parameters=Parameters())
    check(config)
    directories = job_directories(config.out, [source.name for source in sources])
    rate = device_rate(default_execution(config.execution))
    devices = jax.local_devices()
    sharing = groups(config.execution.devices(), len(sources), devices)
    one, all_of_them = (
        Engine(config.execution, config.recycling, context.parameters, group) for group in (sharing[0], devices)
    )
    planned = []
    for source, directory in sorted(zip(sources, directories, strict=True), key=lambda pair: pair[0].num_res):
        engine = one if len(sharing) == 1 or fits(source.num_res, devices[0]) else all_of_them
        try:
            planned.append(_planned(survey(context, source, directory), config, engine, rate))
        except UserError as error:
            if len(sources) == 1:
                raise
            planned.append(Planned(name=source.name, error=str(error)))
    return planned


def _planned(known: Survey, config: InferenceConfig, engine: Engine, rate: float) -> Planned:
    job = known.job
    searched = [chain for chain in job.chains if not chain.alignments] if config.search.mode != "none" else []
    plans = {
        network.config: engine.plan(_shape(job, network.config, bool(searched)), network.config)
        for network in known.networks
    }
    seconds = {
        network: pass_flops(network, shape) * Recycling.of(config.recycling, network).num_passes / (rate * devices)
        for network, (shape, devices, _) in plans.items()
    }
    return Planned(
        name=job.name,
        chains=tuple(len(chain.sequence) for chain in job.chains),
        searched=len({chain.sequence for chain in searched}),
        predictions=len(known.tasks),
        finished=len(known.finished),
        padded=max(shape.num_res for shape, _, _ in plans.values()),
        devices=max(count for _, count, _ in plans.values()),
        bytes=max(memory.after for _, _, memory in plans.values()),
        whole=max(memory.before for _, _, memory in plans.values()),
        seconds=sum(seconds[task.network.config] for task in known.left),
    )


def _shape(job: Job, network: ModelConfig, searched: bool) -> buckets.Shape:
    """The sizes of the network's features, unpadded; with a search before it, as if that filled all rows."""
    if not searched:
        return buckets.sampled_shape(assemble(job, network), network)
    return buckets.Shape(
        num_res=sum(len(chain.sequence) for chain in job.chains),
        num_msa=network.num_clusters,
        num_extra_msa=network.num_extra_msa,
        num_templates=network.num_templates,
    )


def show(planned: Sequence[Planned], out: Path, console: Console) -> None:
    """A table of the plan, and its sums."""
    shared = any(item.devices > 1 for item in planned)
    chunked = any(item.whole > item.bytes for item in planned)
    names = ["job", "residues", "search", "predict", "padded", *(["devices"] if shared else [])]
    table = Table(*names, "GiB", *(["whole"] if chunked else []), "time", box=box.SIMPLE_HEAD, pad_edge=False)
    table.columns[0].overflow = "fold"
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for item in planned:
        if item.error is not None:
            table.add_row(item.name, *["–"] * (len(table.columns) - 1))
            continue
        chains = f" in {len(item.chains)} chains" if len(item.chains) > 1 else ""
        done = f", {item.finished} done" if item.finished else ""
        table.add_row(
            item.name,
            f"{sum(item.chains) or item.padded}{chains}",
            str(item.searched),
            f"{item.predictions}{done}",
            str(item.padded),
            *([str(item.devices)] if shared else []),
            f"{item.bytes / _GIB:.2f}",
            *([f"{item.whole / _GIB:.2f}"] if chunked else []),
            _time(item.seconds),
        )
    console.print(table)
    devices = jax.local_devices()
    left = sum(item.predictions - item.finished for item in planned)
    sizes = len({item.padded for item in planned if item.error is None})
    longest = max((item.seconds for item in planned), default=0.0)
    seconds = max(longest, sum(item.seconds * item.devices for item in planned) / len(devices))
    console.print(
        f"{left} prediction{'' if left == 1 else 's'} to make on {len(devices)} x {devices[0].device_kind}, into "
        f"{out}: "
        f"about {_time(seconds)} if every pass is made; searches and compiling (programs of {sizes} "
        f"size{'' if sizes == 1 else 's'}) not counted. search: chains to search alignments for. GiB: memory of a "
        f"pass, on each device, as it would run{'; whole: if nothing of it ran piece by piece' if chunked else ''}.",
        markup=False,
    )
    for jobs, error in by_error((item.name, item.error) for item in planned if item.error is not None):
        console.print(f"{jobs} would fail: {error}", markup=False)


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6_000 else f"{seconds / 3_600:.1f} h"
