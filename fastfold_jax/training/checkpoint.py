"""Checkpoints: written in the background, either whole or not at all, and found again."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from fastfold_jax.errors import UserError
from fastfold_jax.training.step import TrainState

logger = logging.getLogger(__name__)

_TREES = ("parameters", "average", "optimizer")


class CheckpointError(UserError):
    """A checkpoint cannot be written or read, or belongs to another run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restored:
    """What a checkpoint holds.

    Attributes:
      state: Parameters, their average, the optimiser, the key and the step.
      data: Position in the training data.
    """

    state: TrainState
    data: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run.

    Args:
      directory: Directory of the checkpoints, made if need be.
      keep: Number of the latest checkpoints that are kept.
      facts: What a run must have in common with its checkpoints, such as the name of its network.
      read_only: Whether they are only read, such as while the run that writes them goes on.

    Raises:
      CheckpointError: if the directory cannot be used.
    """

    def __init__(self, directory: Path, *, facts: dict[str, Any], keep: int = 1, read_only: bool = False):
        self.directory = directory.absolute()
        self._read_only = read_only
        self._keep = keep
        self._facts = facts
        self._failure: str | None = None
        self._damaged: dict[int, str] = {}  # steps that could not be read, and why
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            return ocp.CheckpointManager(
                self.directory,
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=self._keep,
                    cleanup_tmp_directories=not self._read_only,
                    read_only=self._read_only,
                ),
            )
        except OSError as error:
            raise CheckpointError(
                f"{self.directory}: no checkpoints can be kept ({error.strerror or error})"
            ) from error

    def save(self, step: int, state: TrainState, data: dict[str, Any]) -> None:
        """Begins to save; returns as soon as the state is copied. A failure is logged, and the run goes on.

        What could not be read of the same step makes room.
        """
        self.wait()
        is_there = step in self._manager.all_steps()
        if is_there and step not in self._damaged:
            return
        self._failure = None  # an earlier one no longer matters
        try:
            if is_there:
                self._manager.delete(step)
            self._damaged.pop(step, None)
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(_plain(state)),
                    data=ocp.args.JsonSave(data),
                    facts=ocp.args.JsonSave(self._facts),
                ),
                force=True,
            )
        except Exception as error:
            self._failed(error)

    def wait(self) -> None:
        """Waits until what is being saved is on the disk; a failure is logged."""
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            self._failed(error)

    def close(self) -> None:
        """Finishes.

        Raises:
          CheckpointError: if the last checkpoint could not be written.
        """
        self.wait()
        self._manager.close()
        if self._failure is not None:
            raise CheckpointError(self._failure)

    def _failed(self, error: Exception) -> None:
        """Notes that a checkpoint was not written, as when the disk is full; those before stay."""
        latest = self.latest()
        kept = "there is none yet" if latest is None else f"the last is of step {latest}"
        self._failure = f"{self.directory}: a checkpoint could not be written ({_reason(error)}); {kept}"
        logger.error("%s; training goes on", self._failure)
        # The manager holds on to its error, and would raise it again.
        self._manager = self._open()

    def latest(self) -> int | None:
        """The step of the latest complete checkpoint."""
        complete = {int(path.name) for path in self.directory.iterdir() if path.name.isdigit()}
        return max(complete - self._damaged.keys(), default=None)

    def restore(self, like: TrainState) -> Restored | None:
        """The latest checkpoint that can be read; None if there is none.

        Args:
          like: A state of the same shapes, on the devices that the restored one goes to.

        Raises:
          CheckpointError: if none of those that are there can be read, or it is of another run.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                facts = self._manager.restore(step, args=ocp.args.Composite(facts=ocp.args.JsonRestore())).facts
            except Exception as error:
                self._leave_out(step, error)
                continue
            self._require_same_run(facts)
            try:
                found = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardRestore(_plain(_abstract(like))),
                        data=ocp.args.JsonRestore(),
                    ),
                )
                return Restored(state=_typed(found.state, like), data=found.data)
            except Exception as error:
                self._leave_out(step, error)
        if steps:
            raise CheckpointError(
                f"{self.directory}: none of its checkpoints ({', '.join(map(str, steps))}) can be read, the latest "
                f"because of: {self._damaged[steps[0]]}. If that does not pass, start again with another --out"
            )
        return None

    def _leave_out(self, step: int, error: Exception) -> None:
        """Notes a checkpoint that cannot be read."""
        self._damaged[step] = _reason(error)
        logger.warning("%s: checkpoint %d is damaged and left out (%s)", self.directory, step, self._damaged[step])

    def _require_same_run(self, facts: dict[str, Any]) -> None:
        differ = [name for name in self._facts if facts.get(name) != self._facts[name]]
        if differ:
            described = ", ".join(f"{name} {facts.get(name)!r} instead of {self._facts[name]!r}" for name in differ)
            raise CheckpointError(
                f"{self.directory} holds checkpoints of another run ({described}); give its options, or another --out"
            )


def _plain(state: TrainState) -> dict[str, Any]:
    """The state's fields, pytrees as lists of arrays, which any version of the libraries that define them reads.

    The arrays are the state's own: `dataclasses.asdict` would copy each, on the device.
    """
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return fields | {name: jax.tree.leaves(fields[name]) for name in _TREES}


def _typed(plain: dict[str, Any], like: TrainState) -> TrainState:
    trees = {name: jax.tree.unflatten(jax.tree.structure(getattr(like, name)), plain[name]) for name in _TREES}
    return TrainState(**{**plain, **trees})


def _abstract(state: TrainState) -> TrainState:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def _reason(error: Exception) -> str:
    """An error of the libraries below in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
