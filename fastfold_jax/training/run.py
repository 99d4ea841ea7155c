"""A training run from its options to its last checkpoint."""

import dataclasses
import json
import logging
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from fastfold_jax.atomic import replacing
from fastfold_jax.autochunk import budget, target
from fastfold_jax.autochunk.api import autochunk
from fastfold_jax.backend.memory import memory_errors
from fastfold_jax.config.training import Stage
from fastfold_jax.data.labels import TrainingBatch
from fastfold_jax.errors import UserError
from fastfold_jax.model.alphafold import Apply
from fastfold_jax.params import store
from fastfold_jax.training.checkpoint import Checkpoints
from fastfold_jax.training.dataset import Dataset
from fastfold_jax.training.loader import BatchIterator
from fastfold_jax.training.options import MachineOptions, TrainConfig
from fastfold_jax.training.processes import (
    Stop,
    all_or_none,
    data_share,
    keep_programs_where_all_see_them,
    shared_options,
)
from fastfold_jax.training.recorder import Recorder
from fastfold_jax.training.step import TrainState, make_step, put_batch, start_state, whole
from fastfold_jax.training.validation import Validation
from parallel import DAP, DATA, make_mesh
from parallel.hosts import agree, connect, watched

logger = logging.getLogger(__name__)


class TrainingError(UserError):
    """The run cannot go on: nothing but gradients that are not finite, or no memory."""


def run(config: TrainConfig, console: Console | None = None) -> None:
    """Trains, from the start or from the latest checkpoint in `config.out`, until all steps are made or SIGTERM.

    Raises:
      UserError: if data, parameters, checkpoints or devices cannot be used, or the loss stays without a value; in all
        of several processes if in one of them.
    """
    connect(config.machine.hosts())
    stop = Stop()
    with watched(), stop.listening(signal.SIGTERM):
        keep_programs_where_all_see_them()
        stage = config.chosen()
        mesh = make_mesh(data=config.machine.data, dap=config.machine.dap)
        with all_or_none():
            agreed = shared_options(config) | _machine(config.machine)
        agree(**agreed, devices=mesh.size, jax=jax.__version__)
        with all_or_none():
            dataset, validation = _data(config, stage, mesh)
            initial = _initial(config, stage)
            _make_directory(config)
        agree(**{"training data": dataset.fingerprint})

        facts = {"preset": stage.name, "network": stage.model.name, "seed": config.seed, "batch_size": stage.batch_size}
        checkpoints = Checkpoints(config.out / "checkpoints", keep=config.keep_checkpoints, facts=facts)
        state = jax.device_put(start_state(stage, config.seed, initial), whole(mesh))
        restored = checkpoints.restore(state)
        batches = BatchIterator(dataset)
        if restored is not None:
            state = restored.state
            batches.set_state(restored.data)
            logger.info("going on with step %d of %s", int(state.step), checkpoints.directory)
        recorder = Recorder(
            config.out,
            console or Console(stderr=True),
            first=int(state.step),
            steps=stage.steps,
            log_every=config.log_every,
            active=jax.process_index() == 0,
        )
        loop = Loop(
            config=config, stage=stage, mesh=mesh, checkpoints=checkpoints, recorder=recorder, validation=validation
        )
        try:
            with stop.listening(signal.SIGINT), _memory_errors(stage):
                state = loop.run(state, batches, stop)
        finally:
            batches.close()
            recorder.close()
            if jax.process_count() == 1:  # of several, another's part of what is being saved may never come
                checkpoints.wait()
        try:  # first, as the last checkpoint may fail
            if jax.process_index() == 0 and int(state.step) >= stage.steps:
                export(state, stage, config.out)
        finally:
            checkpoints.close()


def _machine(options: MachineOptions) -> dict[str, Any]:
    """What plans depend on beside the options, and programs with them: the devices, and what `auto` is on them."""
    kind = jax.local_devices()[0].device_kind
    if options.budget() != "device":
        return {"kind of device": kind}
    return {"kind of device": kind, "memory budget": budget.of_device(target.current())}


def _data(config: TrainConfig, stage: Stage, mesh: Mesh) -> tuple[Dataset, Validation | None]:
    """This process's part of the training data, and what validates."""
    host, hosts = data_share(mesh)
    if stage.batch_size % mesh.shape[DATA]:
        raise UserError(
            f"a batch of {stage.batch_size} examples does not divide over {mesh.shape[DATA]} rows of devices"
        )
    dataset = Dataset(
        config.training_data(),
        stage.model,
        seed=config.seed,
        batch_size=stage.batch_size,
        host=host,
        hosts=hosts,
        multiple=mesh.shape[DAP],
    )
    data = config.validation_data()
    if data is None:
        return dataset, None
    share, transform = (host, hosts), _chunking(config.machine)
    return dataset, Validation(stage, config.machine.execution(), mesh, data, share, transform=transform)


def _chunking(machine: MachineOptions) -> Callable[[Apply], Apply]:
    """What makes the network run in chunks, where there is a budget."""
    size = machine.budget()
    return lambda apply: apply if size is None else autochunk(apply, memory_budget=size)


def _memory_errors(stage: Stage) -> AbstractContextManager[None]:
    return memory_errors(
        TrainingError,
        f"at {stage.crop_size} residues, {stage.model.num_msa} MSA rows and {stage.model.num_extra_msa} extra ones; "
        "--memory-budget with less than the device has, --dap with more devices, --crop-size or --max-msa with smaller "
        "numbers and --precision bf16 need less",
    )


def export(state: TrainState, stage: Stage, directory: Path) -> Path:
    """Writes the moving average of the parameters as DeepMind's code, ColabFold and `infer.py` read it."""
    path = directory / f"params_{stage.model.name}.npz"
    store.save(state.average, stage.model, path)
    logger.info("wrote %s", path)
    return path


def _initial(config: TrainConfig, stage: Stage) -> Any | None:
    """Parameters to begin with, if a file is given; a head that this stage adds to the one before is drawn."""
    return None if config.init is None else store.load(config.init, stage.model, draw_heads=config.seed)


def _make_directory(config: TrainConfig) -> None:
    """Makes the output directory and writes the options down there."""
    if jax.process_index() != 0:
        return
    try:
        config.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(dataclasses.asdict(config), indent=2, default=str)
        with replacing(config.out / "config.json") as file:
            file.write(f"{text}\n".encode())
    except OSError as error:
        raise UserError(f"--out {config.out}: cannot be written to ({error.strerror or error})") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loop:
    """Steps, and what happens between them."""

    config: TrainConfig
    stage: Stage
    mesh: Mesh
    checkpoints: Checkpoints
    recorder: Recorder
    validation: Validation | None

    def run(self, state: TrainState, batches: BatchIterator, stop: Stop) -> TrainState:
        """Makes steps until all are made or `stop` has been asked for, then saves.

        Raises:
          TrainingError: after too many steps in a row without a finite gradient.
        """
        machine = self.config.machine
        step = make_step(self.stage, machine.execution(), self.mesh, transform=_chunking(machine))
        done = int(state.step)
        pending, stopping = None, stop.poll(self.mesh)()
        while done < self.stage.steps and not stopping:
            asked = stop.poll(self.mesh)
            batch = next(batches)
            state, metrics = step(state, put_batch(batch, self.mesh))
            # The device works on this step while the host records the one before, hears whether to stop, and fetches
            # the next batch.
            self._record(pending)
            pending = (done, metrics, self._residues(batch))
            done += 1
            if done % self.config.checkpoint_every == 0:
                self.checkpoints.save(done, state, batches.get_state())
            if self.validation is not None and (
                done % self.config.validation.validate_every == 0 or done == self.stage.steps
            ):
                self._record(pending)
                pending = None
                self.recorder.validation(done, self.validation.run(state.average))
            stopping = asked()
        self._record(pending)
        self.checkpoints.save(done, state, batches.get_state())
        return state

    def _residues(self, batch: TrainingBatch) -> float:
        """Residues of a step on all hosts, judged by this one's."""
        mine = float(np.sum(batch.features.seq_mask[:, -1]))
        return mine / len(batch.features.seq_mask) * self.stage.batch_size

    def _record(self, pending: tuple[int, Any, float] | None) -> None:
        if pending is None:
            return
        done, metrics, residues = pending
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self.recorder.step(done, values, residues)
        values["step"] = done
        if not values["skipped"]:
            return
        lost = ", ".join(sorted(name for name, value in values.items() if not np.isfinite(value)))
        logger.warning("step %d skipped: not finite are %s", done, lost)
        in_a_row = int(values["skipped_in_a_row"])
        if in_a_row >= self.stage.optimizer.max_skipped:
            raise TrainingError(
                f"{in_a_row} steps in a row, the last of them {done}, had no finite gradient: not finite are {lost}. "
                f"{_diagnosis(values, self.config)} The last checkpoint is of step {self.checkpoints.latest()}."
            )


def _diagnosis(values: dict[str, float], config: TrainConfig) -> str:
    """What most likely went wrong, and what to try."""
    if all(np.isfinite(value) for name, value in values.items() if name.startswith("loss")):
        return "The loss is finite and its gradient is not: try --precision float32."
    if values["skipped_in_a_row"] > values["step"]:
        return f"No step succeeded since the start: check {config.init or 'the data'}, and try --precision float32."
    return "The network's own output is not finite: the parameters have diverged; try a lower --learning-rate."
