"""The stream of batches: made ahead by several processes, resumable at any step."""

import logging
from typing import Any

import grain.python as grain

from fastfold_jax.data.labels import TrainingBatch
from fastfold_jax.errors import UserError
from fastfold_jax.training.dataset import Dataset, Skipped

_LOG = logging.getLogger(__name__)

_MANY_STEPS = 1 << 40
"""A data set has no end; grain wants to know where it is."""


class _Steps:
    """The data set as a source of grain, whose records are whole batches.

    So the batches do not depend on the number of workers, which take turns.
    """

    def __init__(self, dataset: Dataset, first: int):
        self._dataset = dataset
        self._first = first

    def __len__(self) -> int:
        return _MANY_STEPS

    def __getitem__(self, index: int) -> tuple[TrainingBatch, tuple[tuple[str, str], ...]]:
        batch, skipped = self._dataset.batch(self._first + int(index))
        return batch, tuple((record.record, record.reason) for record in skipped)


class BatchIterator(grain.DatasetIterator):
    """Yields the batches of step 0, 1, ..., made ahead by `DataConfig.workers` processes.

    Its state is the number of the next step, which `orbax` saves as JSON (grain's checkpoint handler, or as any other
    dict). It depends neither on the number of workers nor on that of hosts. Close it when done: it ends the processes.

    Args:
        dataset: this process's part of the data.
        step: the first step.

    Attributes:
        skipped: records that could not be used so far since the start of this process, each with the reason.
    """

    def __init__(self, dataset: Dataset, *, step: int = 0):
        super().__init__()
        self._dataset = dataset
        self._step = step
        self._stream: Any = None
        self.skipped: dict[str, str] = {}

    def __next__(self) -> TrainingBatch:
        if self._stream is None:
            self._stream = iter(self._pipeline())
        batch, skipped = next(self._stream)
        self._step += 1
        for record, reason in skipped:
            self._report(Skipped(record=record, reason=reason))
        return batch

    @property
    def step(self) -> int:
        """The step of the next batch."""
        return self._step

    def get_state(self) -> dict[str, Any]:
        """What `set_state` needs to go on from here."""
        return {"step": self._step, "seed": self._dataset.seed, "records": self._dataset.fingerprint}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on where the state was taken.

        Raises:
            UserError: it is of a run with another seed, or no state at all.
        """
        try:
            step, seed = int(state["step"]), int(state["seed"])
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{state!r} is no position in the training data") from None
        if seed != self._dataset.seed:
            raise UserError(f"the run was begun with seed {seed}, and cannot go on with seed {self._dataset.seed}")
        if state.get("records") != self._dataset.fingerprint:
            _LOG.warning("the training data or their filters are not those that the run was begun with")
        self.close()
        self._closed = False
        self._step = step

    def close(self) -> None:
        """Ends the worker processes."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        super().close()

    def _pipeline(self) -> grain.IterDataset:
        config = self._dataset.config
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=config.prefetch)
        steps = grain.MapDataset.source(_Steps(self._dataset, self._step)).to_iter_dataset(options)
        if not config.workers:
            return steps
        return steps.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=config.workers, per_worker_buffer_size=config.prefetch)
        )

    def _report(self, skipped: Skipped) -> None:
        if skipped.record not in self.skipped:
            self.skipped[skipped.record] = skipped.reason
            _LOG.warning("skipped %s (%d so far): %s", skipped.record, len(self.skipped), skipped.reason)
