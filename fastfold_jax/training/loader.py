"""The stream of batches: made ahead by several processes, resumable at any step."""

import dataclasses
import functools
import logging
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fastfold_jax.data.labels import TrainingBatch
from fastfold_jax.errors import UserError
from fastfold_jax.training.dataset import Dataset, Skipped, report

logger = logging.getLogger(__name__)

PREFETCH = 2
"""Batches that each worker makes ahead."""

_SHARED_MEMORY = Path("/dev/shm")

_MANY_STEPS = 1 << 40
"""A data set has no end; grain wants to know where it is."""


_Element = tuple[TrainingBatch, tuple[tuple[str, str], ...]]
"""A batch, and record and reason of what was passed over for it."""


class _Steps:
    """The data set as a source of grain, whose records are whole batches.

    So the batches do not depend on the number of workers, which take turns.
    """

    def __init__(self, dataset: Dataset, first: int):
        self._dataset = dataset
        self._first = first

    def __len__(self) -> int:
        return _MANY_STEPS

    def __getitem__(self, index: int) -> _Element:
        batch, skipped = self._dataset.batch(self._first + int(index))
        if self._dataset.config.workers:
            batch = _without_unused_passes(batch)
        return batch, tuple((record.record, record.reason) for record in skipped)


def _without_unused_passes(batch: TrainingBatch) -> TrainingBatch:
    """The batch with the features of those passes alone that its step makes: less to hand over between processes."""
    made = batch.num_recycles + 1
    return dataclasses.replace(batch, features=jax.tree.map(lambda leaf: leaf[:, -made:], batch.features))


def _received(element: _Element, passes: int) -> _Element:
    """What a worker made, in memory of our own (that shared with it ends with it), with zeros for all other passes."""
    batch, skipped = element

    def whole(leaf: np.ndarray) -> np.ndarray:
        out = np.zeros((leaf.shape[0], passes, *leaf.shape[2:]), leaf.dtype)
        out[:, -leaf.shape[1] :] = leaf
        return out

    features = jax.tree.map(whole, batch.features)
    labels = jax.tree.map(np.array, batch.labels)
    return TrainingBatch(features=features, labels=labels, num_recycles=np.int32(batch.num_recycles)), skipped


class BatchIterator(Iterator[TrainingBatch]):
    """Yields the batches of step 0, 1, ..., made ahead by `DataConfig.workers` processes.

    Its state is the number of the next step, a small dict that a checkpoint holds as JSON. It depends neither on the
    number of workers nor on that of hosts: what was made ahead is not saved but made again. Close the iterator, or use
    it as a context manager: that ends the processes.

    Args:
        dataset: this process's part of the data.
        step: the first step.

    Attributes:
        skipped: records and templates that could not be used since the start of this process, each with the reason.
    """

    def __init__(self, dataset: Dataset, *, step: int = 0):
        self._dataset = dataset
        self._step = step
        self._stream: Any = None
        self.skipped: dict[str, str] = {}

    def __enter__(self) -> "BatchIterator":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __next__(self) -> TrainingBatch:
        if self._stream is None:
            self._stream = iter(_pipeline(self._dataset, self._step))
        batch, skipped = next(self._stream)
        self._step += 1
        for record, reason in skipped:
            report(Skipped(record=record, reason=reason), self.skipped)
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
            logger.warning("the training data or their filters are not those that the run was begun with")
        self.close()
        self._step = step

    def close(self) -> None:
        """Ends the worker processes."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _pipeline(dataset: Dataset, first: int) -> Any:
    """The batches from a step on, as grain's data set."""
    import grain
    from absl import flags

    config = dataset.config
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=PREFETCH)
    steps = grain.MapDataset.source(_Steps(dataset, first)).to_iter_dataset(options)
    if not config.workers:
        return steps
    _check_shared_memory(dataset)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain reads flags of its own, and we have no command line for them
    made = steps.mp_prefetch(
        grain.MultiprocessingOptions(num_workers=config.workers, per_worker_buffer_size=PREFETCH),
        worker_init_fn=_start_worker,
    ).map(functools.partial(_received, passes=dataset.maker.config.num_recycles + 1))
    # A thread of this process receives the next batch while the caller is busy with the last.
    return grain.experimental.ThreadPrefetchIterDataset(made, prefetch_buffer_size=1)


def _check_shared_memory(dataset: Dataset) -> None:
    """Warns if workers may run out of the memory that they hand batches over in, which ends them with a bus error."""
    if not _SHARED_MEMORY.is_dir():
        return
    config = dataset.config
    needed = dataset.batch_bytes * config.workers * (PREFETCH + 1)
    free = shutil.disk_usage(_SHARED_MEMORY).free
    if free < needed:
        logger.warning(
            "%s has %.1f GB free, but batches made ahead by %d workers may need %.1f GB: workers that find it full end "
            "with a bus error. Use fewer workers, or give the container more (docker run --shm-size)",
            _SHARED_MEMORY,
            free / 1e9,
            config.workers,
            needed / 1e9,
        )


def _start_worker(_index: int, _count: int) -> None:
    """Ties a worker's life to its parent's: signals are for the parent to act upon, and it ends when that is gone.

    Otherwise Ctrl-C or a scheduler's SIGTERM, which go to all processes, would end workers whose batches the last step
    before the checkpoint still needs, and those of a killed run would stay forever.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker
    parent.join()
    os._exit(1)
