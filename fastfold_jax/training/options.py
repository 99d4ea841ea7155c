"""The options of `train.py`: one typed configuration, which is also the Python interface."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from fastfold_jax.autochunk.budget import Budget, from_gib
from fastfold_jax.config.execution import Execution, Kernels, Precision, Remat
from fastfold_jax.config.options import at_least, cache_directory, option
from fastfold_jax.config.training import STAGES, Stage, stage
from fastfold_jax.data.training.augment import Augmentation
from fastfold_jax.data.training.selection import Filters
from fastfold_jax.errors import UserError
from fastfold_jax.training.data_options import (
    ChainOptions,
    DistillationOptions,
    TemplateOptions,
    ValidationOptions,
)
from fastfold_jax.training.dataset import DataConfig
from fastfold_jax.training.validation_data import ValidationConfig
from parallel.hosts import Hosts

_SEEDS = 2**32
"""JAX's keys hold no more of a seed than its last 32 bits: larger ones would repeat the dropout of smaller ones."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageOptions:
    """Departures from the preset."""

    steps: Annotated[
        int | None, option("Steps of the whole run.", metavar="N", default="the preset's samples / --batch-size")
    ] = None
    batch_size: Annotated[
        int | None,
        option(
            "Examples of a step on all devices together. Warm-up, decay and the whole run keep the preset's samples, "
            "and take more or fewer steps.",
            metavar="N",
            default="the preset's",
        ),
    ] = None
    crop_size: Annotated[int | None, option("Residues of an example.", metavar="N", default="the preset's")] = None
    learning_rate: Annotated[float | None, option("After warm-up.", metavar="X", default="the preset's")] = None
    max_msa: Annotated[
        tuple[int, int] | None,
        option(
            "MSA rows of an example, in monomers the templates' four among them, and extra MSA rows.",
            metavar="M E",
            default="the preset's",
        ),
    ] = None

    def __post_init__(self):
        at_least(1, steps=self.steps, batch_size=self.batch_size, crop_size=self.crop_size)

    def apply(self, chosen: Stage) -> Stage:
        """The stage with these departures."""
        if self.batch_size is not None:
            chosen = chosen.in_batches_of(self.batch_size)
        given = {name: getattr(self, name) for name in ("steps", "crop_size")}
        chosen = dataclasses.replace(chosen, **{name: value for name, value in given.items() if value is not None})
        if self.learning_rate is not None:
            optimizer = dataclasses.replace(chosen.optimizer, learning_rate=self.learning_rate)
            chosen = dataclasses.replace(chosen, optimizer=optimizer)
        if self.max_msa is not None:
            try:
                model = dataclasses.replace(chosen.model, num_msa=self.max_msa[0], num_extra_msa=self.max_msa[1])
            except ValueError as error:
                raise UserError(f"--max-msa {self.max_msa[0]} {self.max_msa[1]}: {error}") from error
            chosen = dataclasses.replace(chosen, model=model)
        return chosen


@dataclasses.dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """Where and how the computation runs, which does not change what is computed."""

    data: Annotated[
        int | None,
        option("Rows of devices, each of which works on other examples.", metavar="N", default="all devices / --dap"),
    ] = None
    dap: Annotated[int, option("Devices that share an example (Dynamic Axial Parallelism).", metavar="N")] = 1
    precision: Annotated[
        Precision,
        option("Type of activations and of matmul operands; parameters, losses and geometry are float32 in any case."),
    ] = "bf16"
    kernels: Annotated[Kernels, option("Implementation of the fused operations.")] = "auto"
    no_remat: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        option("Keep all activations of the forward pass instead of computing them again: faster, if they fit."),
    ] = False
    offload: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        option("Keep what the backward pass needs of each block in the host's memory."),
    ] = False
    memory_budget: Annotated[
        str | None,
        option(
            "Memory that the network and its gradient may take on each device, in GiB: parts of them run piece by "
            "piece until they fit. `auto` is what the device has.",
            metavar="auto|GiB",
            default="everything runs whole",
        ),
    ] = None
    compile_cache: Annotated[
        Path | None,
        option(
            "Where compiled programs are kept, with what was tuned for the device, so that a run that is started again "
            "computes the same. Several processes need one that all of them see.",
            metavar="DIR",
            default="fastfold-jax/compiled in the user's cache directory",
        ),
    ] = None
    no_compile_cache: Annotated[
        bool, tyro.conf.FlagCreatePairsOff, option("Neither keep compiled programs nor use kept ones.")
    ] = False
    coordinator: Annotated[
        str | None,
        option(
            "Of several processes: where the first of them listens. SLURM and Open MPI need none.", metavar="HOST:PORT"
        ),
    ] = None
    num_processes: Annotated[
        int | None, option("How many processes there are.", metavar="N", default="the launcher's")
    ] = None
    process_id: Annotated[
        int | None, option("Which of them this is, from 0.", metavar="I", default="the launcher's, or Kubernetes'")
    ] = None
    local_device_ids: Annotated[
        tuple[int, ...] | None,
        option(
            "GPUs that this process takes, as indices among those that it is shown, from 0.",
            metavar="I...",
            default="under SLURM and Open MPI its part of the node's, else all",
        ),
    ] = None

    def __post_init__(self):
        at_least(1, data=self.data, dap=self.dap)
        if self.no_remat and self.offload:
            raise UserError("--no-remat keeps all activations on the device, --offload in the host's memory: give one")
        self.hosts()
        self.budget()

    def budget(self) -> Budget | None:
        """`memory_budget` as AutoChunk takes it; None for no chunking.

        Raises:
          UserError: if it is neither `auto` nor a positive number.
        """
        if self.memory_budget in (None, "auto"):
            return None if self.memory_budget is None else "device"
        return from_gib("--memory-budget", self.memory_budget, "auto")

    @property
    def cache_directory(self) -> Path | None:
        """Where compiled programs are kept, or None for nowhere."""
        return cache_directory("compiled", self.compile_cache, off=self.no_compile_cache)

    def hosts(self) -> Hosts:
        """Who takes part."""
        return Hosts(
            coordinator=self.coordinator,
            num_processes=self.num_processes,
            process_id=self.process_id,
            local_device_ids=self.local_device_ids,
        )

    def execution(self) -> Execution:
        """How the network runs."""
        remat: Remat = False if self.no_remat else "offload" if self.offload else True
        return Execution(precision=self.precision, kernels=self.kernels, remat=remat)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train AlphaFold 2 from scratch, or go on with DeepMind's parameters or with an earlier run.

    Writes into the output directory checkpoints, metrics.jsonl, TensorBoard's events, and at the end the moving average
    of the parameters as a file that AlphaFold, ColabFold and `infer.py` read. Started again with the same options it
    goes on where it was: bit for bit on CPUs, and on GPUs of the same kind with what docs/training.md names.
    """

    out: Annotated[Path, option("Output directory, made if need be.", metavar="DIR")]
    chains: tyro.conf.OmitArgPrefixes[ChainOptions]
    preset: Annotated[str, option(f"Stage of training: {', '.join(STAGES)}.", metavar="NAME")] = "initial"
    init: Annotated[
        Path | None,
        option(
            "Parameters to begin with: a params_*.npz file of the preset's network. Heads that it lacks are drawn.",
            metavar="FILE",
            default="freshly drawn ones",
        ),
    ] = None
    seed: Annotated[int, option("Seed of everything random.", metavar="N")] = 0
    distillation: tyro.conf.OmitArgPrefixes[DistillationOptions] = dataclasses.field(
        default_factory=DistillationOptions
    )
    templates: tyro.conf.OmitArgPrefixes[TemplateOptions] = dataclasses.field(default_factory=TemplateOptions)
    validation: tyro.conf.OmitArgPrefixes[ValidationOptions] = dataclasses.field(default_factory=ValidationOptions)
    stage: tyro.conf.OmitArgPrefixes[StageOptions] = dataclasses.field(default_factory=StageOptions)
    machine: tyro.conf.OmitArgPrefixes[MachineOptions] = dataclasses.field(default_factory=MachineOptions)
    checkpoint_every: Annotated[int, option("Steps between two checkpoints.", metavar="N")] = 500
    keep_checkpoints: Annotated[int, option("So many of the latest are kept.", metavar="N")] = 3
    log_every: Annotated[int, option("Steps between two lines of the log.", metavar="N")] = 10
    verbose: Annotated[
        bool, tyro.conf.FlagCreatePairsOff, option("Log details, and show the traceback of an error.")
    ] = False

    def __post_init__(self):
        if not 0 <= self.seed < _SEEDS:
            raise UserError(f"--seed {self.seed}: accepted are numbers from 0 to {_SEEDS - 1}")
        at_least(
            1,
            checkpoint_every=self.checkpoint_every,
            keep_checkpoints=self.keep_checkpoints,
            log_every=self.log_every,
        )
        self.training_data()
        self.validation_data()

    def chosen(self) -> Stage:
        """The stage with this run's departures.

        Raises:
          UserError: if there is no such preset, or a size is impossible.
        """
        return self.stage.apply(stage(self.preset))

    def training_data(self) -> DataConfig:
        """What examples are made of."""
        chosen = self.chosen()
        return DataConfig(
            index=self.chains.index,
            clusters=self.chains.clusters,
            distillation_index=self.distillation.distillation_index,
            distillation_fraction=self.distillation.distillation_fraction,
            filters=self.chains.filters,
            distillation_filters=self.distillation.filters(self.chains),
            min_confidence=self.distillation.distillation_min_confidence,
            augmentation=Augmentation(crop_size=chosen.crop_size, deleted_blocks=self.chains.deleted_blocks),
            max_copies=self.chains.max_copies,
            max_chains=self.chains.max_chains,
            templates=self.templates.config(chosen),
            workers=self.chains.loader_workers,
        )

    def validation_data(self) -> ValidationConfig | None:
        """What to validate on, if there is anything."""
        if self.validation.validation_index is None:
            return None
        chosen = self.chosen()
        return ValidationConfig(
            index=self.validation.validation_index,
            filters=Filters(
                released_after=self.validation.validation_released_after,
                need_alignment=not self.chains.allow_no_alignment,
            ),
            crop_size=chosen.crop_size,
            limit=self.validation.validation_limit,
            max_copies=self.chains.max_copies,
            max_chains=self.chains.max_chains,
            templates=self.templates.config(chosen),
        )
