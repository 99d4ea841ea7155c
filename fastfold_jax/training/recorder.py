"""Metrics of a run: to the console, to a file of JSON lines and to TensorBoard."""

import collections
import json
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from fastfold_jax.atomic import replacing
from fastfold_jax.errors import UserError

METRICS = "metrics.jsonl"
_RECENT = 50  # steps that the step time is averaged over

logger = logging.getLogger(__name__)


class Recorder:
    """Writes the metrics of each step.

    Args:
      directory: The run's directory, which exists.
      first: The step that the run begins or goes on with; what an interrupted run wrote of later ones is dropped.
      steps: Steps of the whole run.
      log_every: Steps between two lines of the log, which terminals have as a progress bar instead.
      active: False for all processes but one, which write nothing.

    Raises:
      UserError: if the directory cannot be written to.
    """

    def __init__(
        self, directory: Path, console: Console, *, first: int, steps: int, log_every: int, active: bool = True
    ):
        self._steps, self._log_every, self._active = steps, log_every, active
        self._times: collections.deque[float] = collections.deque(maxlen=_RECENT)
        self._last = time.perf_counter()
        self._progress: Progress | None = None
        if not active:
            return
        try:
            _drop_after(directory / METRICS, first)
            self._file = open(directory / METRICS, "a", encoding="utf-8")  # noqa: SIM115  (open as long as the run)
            self._events = SummaryWriter(str(directory / "tensorboard"), purge_step=first)
        except OSError as error:
            raise UserError(f"{directory}: metrics cannot be written ({error.strerror or error})") from error
        if console.is_terminal:
            self._progress = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._progress.add_task("", total=steps, completed=first, figures="compiling")
            self._progress.start()

    def step(self, step: int, metrics: Mapping[str, float], residues: float) -> None:
        """Records a finished step of so many residues."""
        now = time.perf_counter()
        self._times.append(now - self._last)
        self._last = now
        # The first step of a process holds its compilation.
        mean = sorted(self._times)[len(self._times) // 2]
        figures = {"step_seconds": self._times[-1], "residues_per_second": residues / max(mean, 1e-9)}
        self._write("train", step, {**metrics, **figures})
        if not self._active:
            return
        text = (
            f"loss {metrics['loss']:.3f}  lDDT-Cα {100 * metrics['lddt_ca']:.1f}  |g| {metrics['gradient_norm']:.3g}  "
            f"{mean:.2f} s/step  {figures['residues_per_second']:.0f} residues/s"
        )
        if self._progress is not None:
            self._progress.update(self._task, completed=step + 1, figures=text)
        elif (step + 1) % self._log_every == 0:
            left = (self._steps - step - 1) * mean
            logger.info("step %d/%d  %s  %s left", step + 1, self._steps, text, _duration(left))

    def validation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Records a validation after `step` steps."""
        self._write("validation", step, metrics)
        logger.info("validation at step %d: %s", step, "  ".join(f"{k} {v:.3f}" for k, v in metrics.items()))
        self._last = time.perf_counter()  # it is no part of the next step

    def _write(self, kind: str, step: int, metrics: Mapping[str, float]) -> None:
        if not self._active:
            return
        # JSON has no word for NaN, which a step without finite gradient brings.
        values = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._file.write(json.dumps({"kind": kind, "step": step, **values}, allow_nan=False) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._events.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Ends the progress bar and closes the files."""
        if self._progress is not None:
            self._progress.stop()
        if self._active:
            self._file.close()
            self._events.close()


def _drop_after(path: Path, first: int) -> None:
    """Leaves those lines of an interrupted run that the resumed one does not write again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # cut short when the process was killed
        # A validation after `first` steps was made before the checkpoint of that step.
        if entry["step"] < first or (entry["kind"] == "validation" and entry["step"] == first):
            kept.append(line)
    with replacing(path) as file:
        file.writelines(f"{line}\n".encode() for line in kept)


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
