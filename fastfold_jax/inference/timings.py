"""Seconds of a job's stages and predictions: `timings.json`."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastfold_jax.inference.files import write_json

TIMINGS_FILE = "timings.json"


class Timings:
    """What one job took. Predictions of an earlier run into the same directory keep their figures.

    Args:
      directory: The job's.
    """

    def __init__(self, directory: Path):
        self._path = directory / TIMINGS_FILE
        self._start = time.perf_counter()
        self._stages: dict[str, float] = {}
        self._predictions: dict[str, Any] = _earlier(self._path)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Adds what happens inside to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start)

    def add(self, stage: str, seconds: float) -> None:
        """Adds to a stage."""
        self._stages[stage] = self._stages.get(stage, 0.0) + seconds

    def note(self, prediction: str, figures: Mapping[str, Any]) -> None:
        """The figures of a prediction."""
        self._predictions[prediction] = dict(figures)

    def write(self) -> None:
        """All of it, in seconds.

        Raises:
          OutputError: if the file cannot be written.
        """
        stages = {stage: round(seconds, 3) for stage, seconds in self._stages.items()}
        total = round(time.perf_counter() - self._start, 3)
        write_json(self._path, {**stages, "total": total, "predictions": self._predictions}, indent=1)


def _earlier(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["predictions"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return dict(found) if isinstance(found, dict) else {}
