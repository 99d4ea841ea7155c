"""Which examples a training step sees: a function of seed and step alone, whatever the number of hosts and workers."""

import dataclasses
import enum
import hashlib
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float64

from fastfold_jax.config.model import ModelConfig, MultimerConfig
from fastfold_jax.data.batch import Features
from fastfold_jax.data.buckets import Shape
from fastfold_jax.data.draws import Draws
from fastfold_jax.data.labels import Labels, TrainingBatch
from fastfold_jax.data.training.augment import (
    Augmentation,
    augment,
    batch_shape,
    feature_seed,
    make_labels,
    make_passes,
    mask_labels,
)
from fastfold_jax.data.training.example import Reader
from fastfold_jax.data.training.records import read_index
from fastfold_jax.data.training.selection import Filters, Record, select, weights
from fastfold_jax.errors import UserError

_LOG = logging.getLogger(__name__)

_ATTEMPTS = 100  # records drawn for one example until one is usable


class _Stream(enum.IntEnum):
    """Purposes that draw independently of each other."""

    RECYCLES = 0
    CLAMPED = 1
    RECORD = 2
    EXAMPLE = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What to train on.

    Attributes:
        index: of experimental structures, made by `python -m fastfold_jax.training.index`.
        distillation_index: of predicted structures; none by default.
        distillation_fraction: share of examples drawn from them, where there are any.
        filters: which experimental structures to use.
        distillation_filters: which predicted ones.
        min_confidence: of predicted structures, residues with a lower pLDDT are masked out.
        augmentation: what is random about an example.
        clamped_fraction: share of steps whose backbone loss is clamped.
        max_copies: chains of equal sequence in a complex, and the copies that labels have room for.
        max_chains: chains in a complex.
        workers: processes that make batches; 0 makes them in a thread.
        prefetch: batches that each of them makes ahead.
    """

    index: Path
    distillation_index: Path | None = None
    distillation_fraction: float = 0.75
    filters: Filters = dataclasses.field(default_factory=Filters)
    distillation_filters: Filters = dataclasses.field(default_factory=Filters)
    min_confidence: float = 50.0
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    clamped_fraction: float = 0.9
    max_copies: int = 20
    max_chains: int = 20
    workers: int = 8
    prefetch: int = 2

    def __post_init__(self) -> None:
        for name in ("distillation_fraction", "clamped_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name)}: accepted are numbers from 0 to 1")
        for name, least in (("max_copies", 1), ("max_chains", 1), ("workers", 0), ("prefetch", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)}: accepted are numbers from {least}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skipped:
    """A record that could not be used, and why."""

    record: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RecordSet:
    """Records to draw from, experimental or predicted.

    Attributes:
        name: for messages.
        records: in the index's order.
        cumulative: sums of the probabilities of the records up to each.
        reader: makes examples of them.
        distillation: whether the structures are predictions.
    """

    name: str
    records: tuple[Record, ...]
    cumulative: Float64[np.ndarray, " records"]
    reader: Reader
    distillation: bool

    def draw(self, draws: Draws) -> Record:
        """A record, by its probability."""
        place = np.searchsorted(self.cumulative, draws.uniform(1)[0] * self.cumulative[-1], side="right")
        return self.records[min(int(place), len(self.records) - 1)]


class Dataset:
    """Batches by the number of their step; each process makes its own rows of them.

    Args:
        config: what to train on.
        model: sizes of the examples, most recycles, and whether they are chains or complexes.
        seed: of everything random.
        batch_size: examples of a step on all hosts together.
        host, hosts: which of how many processes this is.

    Raises:
        UserError: an index cannot be read, no record passes its filters or can be read, or the batch does not divide by
            the number of hosts.
    """

    def __init__(
        self, config: DataConfig, model: ModelConfig, *, seed: int, batch_size: int, host: int = 0, hosts: int = 1
    ):
        if batch_size < 1 or batch_size % hosts:
            raise UserError(f"a batch of {batch_size} examples does not divide among {hosts} processes")
        if model.num_ensemble != 1:
            raise UserError(f"{model.name}: num_ensemble={model.num_ensemble}, but training has no ensembles: 1")
        self.config = config
        self.model = model
        self.seed = seed
        self.batch_size = batch_size
        self._slots = range(host * batch_size // hosts, (host + 1) * batch_size // hosts)
        self._sets = _open(config, model)
        for records in self._sets:
            self._require_usable(records)

    @property
    def shape(self) -> Shape:
        """Sizes of every example."""
        return batch_shape(self.model, self.config.augmentation.crop_size)

    @property
    def copies(self) -> int:
        """Copies of each chain in the labels."""
        return self.config.max_copies if isinstance(self.model, MultimerConfig) else 1

    @property
    def fingerprint(self) -> str:
        """Tells whether a run goes on with the data that it began with: the records by name, in order."""
        digest = hashlib.sha256()
        for record in itertools.chain.from_iterable(records.records for records in self._sets):
            digest.update(f"{record.file}\0{record.label}\n".encode())
        return digest.hexdigest()[:16]

    def num_recycles(self, step: int) -> int:
        """Recycles of a step, uniform from 0 to the model's most, and the same on every host."""
        return int(Draws(self.seed, step, _Stream.RECYCLES).below(np.array([self.model.num_recycles + 1]))[0])

    def clamped(self, step: int) -> bool:
        """Whether the backbone loss of a step is clamped."""
        return bool(Draws(self.seed, step, _Stream.CLAMPED).uniform(1)[0] < self.config.clamped_fraction)

    def batch(self, step: int) -> tuple[TrainingBatch, tuple[Skipped, ...]]:
        """This process's examples of a step, and the records that had to be passed over for them.

        Raises:
            UserError: a hundred records in a row could not be used.
        """
        made, skipped = [], []
        for slot in self._slots:
            example, passed_over = self._example(step, slot)
            made.append(example)
            skipped += passed_over
        features, labels = (_stack(leaves) for leaves in zip(*made, strict=True))
        batch = TrainingBatch(features=features, labels=labels, num_recycles=np.int32(self.num_recycles(step)))
        return batch, tuple(skipped)

    def _example(self, step: int, slot: int) -> tuple[tuple[Features, Labels], list[Skipped]]:
        """The example of one place in a step's batch."""
        skipped: list[Skipped] = []
        for attempt in range(_ATTEMPTS):
            draws = Draws(self.seed, step, slot, attempt, _Stream.RECORD)
            wants_distilled = draws.uniform(1)[0] < self.config.distillation_fraction
            records = self._sets[-1] if wants_distilled else self._sets[0]
            record = records.draw(draws)
            try:
                return self._make(records, record, step, (self.seed, step, slot, attempt, _Stream.EXAMPLE)), skipped
            except Exception as error:  # one bad file of half a million must not end a run of weeks
                skipped.append(Skipped(record=record.name, reason=_describe(error)))
        raise UserError(
            f"step {step}: {_ATTEMPTS} records in a row cannot be used, the last of them {skipped[-1].record}: "
            f"{skipped[-1].reason}"
        )

    def _make(
        self, records: RecordSet, record: Record, step: int, name: tuple[int, ...]
    ) -> tuple[Features, Labels]:
        clamped = self.clamped(step)
        example = records.reader.read(record)
        raw, kept = augment(
            example, self.config.augmentation, name, clamped=clamped, distillation=records.distillation
        )
        seed = feature_seed(name)
        features = make_passes(raw, self.model, self.shape, seed, num_recycles=self.num_recycles(step))
        labels = make_labels(example, kept, self.shape, copies=self.copies, clamped=clamped)
        return features, mask_labels(labels, raw, self.model, seed)

    def _require_usable(self, records: RecordSet) -> None:
        """Raises unless some record can be read; those that are tried spread over the whole set."""
        tried = Draws(self.seed, _Stream.RECORD).permutation(len(records.records))[:_ATTEMPTS]
        for record in (records.records[place] for place in tried):
            try:
                records.reader.read(record)
                return
            except Exception as error:
                reason = f"{record.name}: {_describe(error)}"
                _LOG.warning("%s: skipped %s", records.name, reason)
        raise UserError(
            f"{records.name}: nothing in it can be used: all {len(tried)} chains that were tried of "
            f"{len(records.records)} failed, such as {reason}"
        )


def _open(config: DataConfig, model: ModelConfig) -> tuple[RecordSet, ...]:
    """The set of experimental structures, and if there is one that of predictions."""
    sets = [_record_set(config, model, config.index, config.filters, distillation=False)]
    if config.distillation_index is not None and config.distillation_fraction > 0:
        filters = config.distillation_filters
        sets.append(_record_set(config, model, config.distillation_index, filters, distillation=True))
    return tuple(sets)


def _record_set(
    config: DataConfig, model: ModelConfig, path: Path, filters: Filters, *, distillation: bool
) -> RecordSet:
    index = read_index(path)
    records = select(index, filters, what=str(path))
    reader = Reader(
        structures=index.structures,
        alignments=index.alignments,
        config=model,
        min_confidence=config.min_confidence if distillation else None,
        max_copies=config.max_copies,
        max_chains=config.max_chains,
    )
    return RecordSet(
        name=str(path),
        records=records,
        cumulative=np.cumsum(weights(records)),
        reader=reader,
        distillation=distillation,
    )


def _describe(error: Exception) -> str:
    """An error in one line; one that no user can cause with its type."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _stack(examples: Sequence) -> Features | Labels:
    """Examples side by side on a leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *examples)
