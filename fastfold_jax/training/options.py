"""The options of `train.py`: one typed configuration, which is also the Python interface."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from fastfold_jax.autochunk.budget import Budget, from_gib
from fastfold_jax.config.execution import Execution, Kernels, Precision, Remat
from fastfold_jax.config.options import at_least, option
from fastfold_jax.config.training import STAGES, Stage, stage
from fastfold_jax.data.training.augment import Augmentation
from fastfold_jax.data.training.selection import Filters
from fastfold_jax.errors import UserError
from fastfold_jax.training.dataset import DataConfig
from fastfold_jax.training.validation_data import ValidationConfig
from parallel.hosts import Hosts


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions:
    """What to train and to validate on."""

    index: Annotated[
        Path,
        option(
            "Index of experimental structures and alignments, made by `python -m fastfold_jax.training.index`.",
            metavar="FILE",
        ),
    ]
    distillation_index: Annotated[
        Path | None, option("Index of predicted structures, for self-distillation.", metavar="FILE", default="none")
    ] = None
    distillation_fraction: Annotated[
        float, option("Share of examples drawn from predicted structures, if there are any.", metavar="X")
    ] = 0.75
    max_resolution: Annotated[
        float, option("Structures of a lower resolution (a larger number, Å) are left out.", metavar="Å")
    ] = 9.0
    released_before: Annotated[
        str | None, option("Leave out structures released later than this day.", metavar="DATE", default="all")
    ] = None
    allow_no_alignment: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        option("Use chains without an alignment too; their own sequence is then all that they have."),
    ] = False
    deleted_blocks: Annotated[
        int, option("Runs of alignment rows left out of each example at random.", metavar="N")
    ] = Augmentation.deleted_blocks
    loader_workers: Annotated[int, option("Processes that make examples; 0 makes them in a thread.", metavar="N")] = (
        DataConfig.workers
    )
    validation_index: Annotated[
        Path | None, option("Index of structures to validate on.", metavar="FILE", default="no validation")
    ] = None
    validation_limit: Annotated[
        int | None, option("Validate on so many chains.", metavar="N", default="all of them")
    ] = None
    validate_every: Annotated[int, option("Steps between two validations.", metavar="N")] = 1000

    def __post_init__(self):
        at_least(1, validate_every=self.validate_every, validation_limit=self.validation_limit)

    @property
    def filters(self) -> Filters:
        """Which chains count."""
        return Filters(
            max_resolution=self.max_resolution,
            released_before=self.released_before,
            need_alignment=not self.allow_no_alignment,
        )

    def training(self, chosen: Stage) -> DataConfig:
        """The training data of a stage."""
        return DataConfig(
            index=self.index,
            distillation_index=self.distillation_index,
            distillation_fraction=self.distillation_fraction,
            filters=self.filters,
            augmentation=Augmentation(crop_size=chosen.crop_size, deleted_blocks=self.deleted_blocks),
            workers=self.loader_workers,
        )

    def validation(self, chosen: Stage) -> ValidationConfig | None:
        """The validation data, if there are any."""
        if self.validation_index is None:
            return None
        return ValidationConfig(
            index=self.validation_index,
            filters=Filters(need_alignment=not self.allow_no_alignment),
            crop_size=chosen.crop_size,
            limit=self.validation_limit,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageOptions:
    """Departures from the preset."""

    steps: Annotated[int | None, option("Steps of the whole run.", metavar="N", default="the preset's")] = None
    batch_size: Annotated[
        int | None, option("Examples of a step on all devices together.", metavar="N", default="the preset's")
    ] = None
    crop_size: Annotated[int | None, option("Residues of an example.", metavar="N", default="the preset's")] = None
    learning_rate: Annotated[float | None, option("After warm-up.", metavar="X", default="the preset's")] = None
    max_msa: Annotated[
        tuple[int, int] | None,
        option("MSA clusters and extra MSA rows of an example.", metavar="M E", default="the preset's"),
    ] = None

    def __post_init__(self):
        at_least(1, steps=self.steps, batch_size=self.batch_size, crop_size=self.crop_size)

    def apply(self, chosen: Stage) -> Stage:
        """The stage with these departures."""
        given = {name: getattr(self, name) for name in ("steps", "batch_size", "crop_size")}
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
    coordinator: Annotated[
        str | None,
        option(
            "Of several processes: where the first of them listens. SLURM and Open MPI need none.", metavar="HOST:PORT"
        ),
    ] = None
    num_processes: Annotated[int | None, option("How many processes there are.", metavar="N")] = None
    process_id: Annotated[int | None, option("Which of them this is, from 0.", metavar="I")] = None

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

    def hosts(self) -> Hosts:
        """Who takes part."""
        return Hosts(coordinator=self.coordinator, num_processes=self.num_processes, process_id=self.process_id)

    def execution(self) -> Execution:
        """How the network runs."""
        remat: Remat = False if self.no_remat else "offload" if self.offload else True
        return Execution(precision=self.precision, kernels=self.kernels, remat=remat)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train AlphaFold 2 from scratch, or go on with DeepMind's parameters or with an earlier run.

    Writes into the output directory checkpoints, metrics.jsonl, TensorBoard's events, and at the end the moving average
    of the parameters as a file that AlphaFold, ColabFold and `infer.py` read. Started again with the same options it
    goes on where it was, bit for bit.
    """

    out: Annotated[Path, option("Output directory, made if need be.", metavar="DIR")]
    data: tyro.conf.OmitArgPrefixes[DataOptions]
    preset: Annotated[str, option(f"Stage of training: {', '.join(STAGES)}.", metavar="NAME")] = "initial"
    init: Annotated[
        Path | None,
        option(
            "Parameters to begin with: a params_*.npz file of the preset's network.",
            metavar="FILE",
            default="freshly drawn ones",
        ),
    ] = None
    seed: Annotated[int, option("Seed of everything random.", metavar="N")] = 0
    stage: tyro.conf.OmitArgPrefixes[StageOptions] = dataclasses.field(default_factory=StageOptions)
    machine: tyro.conf.OmitArgPrefixes[MachineOptions] = dataclasses.field(default_factory=MachineOptions)
    checkpoint_every: Annotated[int, option("Steps between two checkpoints.", metavar="N")] = 500
    keep_checkpoints: Annotated[int, option("So many of the latest are kept.", metavar="N")] = 3
    log_every: Annotated[int, option("Steps between two lines of the log.", metavar="N")] = 10
    verbose: Annotated[
        bool, tyro.conf.FlagCreatePairsOff, option("Log details, and show the traceback of an error.")
    ] = False

    def __post_init__(self):
        at_least(0, seed=self.seed)
        at_least(
            1,
            checkpoint_every=self.checkpoint_every,
            keep_checkpoints=self.keep_checkpoints,
            log_every=self.log_every,
        )
        self.chosen()

    def chosen(self) -> Stage:
        """The stage with this run's departures.

        Raises:
          UserError: if there is no such preset, or a size is impossible.
        """
        return self.stage.apply(stage(self.preset))
