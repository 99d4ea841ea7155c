"""Which examples a training step sees: a function of seed and step alone, whatever the number of hosts and workers."""

import dataclasses
import enum
import functools
import hashlib
import itertools
import logging
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float64

from fastfold_jax.checks import at_least, share
from fastfold_jax.config.model import ModelConfig, MultimerConfig
from fastfold_jax.data.batch import Features
from fastfold_jax.data.draws import Draws
from fastfold_jax.data.labels import Labels, TrainingBatch
from fastfold_jax.data.training.augment import Augmentation, Maker, row
from fastfold_jax.data.training.example import Example, Reader
from fastfold_jax.data.training.records import Index, read_index, with_clusters
from fastfold_jax.data.training.selection import Filters, Record, select, weights
from fastfold_jax.data.training.templates import TemplateConfig, TemplateSource
from fastfold_jax.errors import UserError

logger = logging.getLogger(__name__)

_ATTEMPTS = 100  # records drawn for one example until one is usable


class _Stream(enum.IntEnum):
    """Purposes that draw independently of each other."""

    RECYCLES = 0
    CLAMPED = 1
    RECORD = 2
    EXAMPLE = 3
    TEMPLATES = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What to train on.

    Attributes:
        index: of experimental structures, made by `python -m fastfold_jax.training.index`.
        clusters: file of clusters to use in place of the index's.
        distillation_index: of predicted structures; none by default.
        distillation_fraction: share of examples drawn from them, where there are any.
        filters: which experimental structures to use.
        distillation_filters: which predicted ones.
        min_confidence: of predicted structures, residues with a lower pLDDT are masked out.
        augmentation: what is random about an example.
        clamped_fraction: share of steps whose backbone loss is clamped.
        max_copies: chains of equal sequence in a complex, and the copies that labels have room for.
        max_chains: chains in a complex.
        templates: which structures serve as templates; None trains without any.
        workers: processes that make batches; 0 makes them in a thread.
    """

    index: Path
    clusters: Path | None = None
    distillation_index: Path | None = None
    distillation_fraction: float = 0.75
    filters: Filters = dataclasses.field(default_factory=Filters)
    distillation_filters: Filters = dataclasses.field(default_factory=Filters)
    min_confidence: float = 50.0
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    clamped_fraction: float = 0.9
    max_copies: int = 20
    max_chains: int = 20
    templates: TemplateConfig | None = None
    workers: int = 8

    def __post_init__(self) -> None:
        share(distillation_fraction=self.distillation_fraction, clamped_fraction=self.clamped_fraction)
        at_least(1, max_copies=self.max_copies, max_chains=self.max_chains)
        at_least(0, workers=self.workers)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skipped:
    """A record or a template that could not be used, and why."""

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
        multiple: of which residues and MSA rows are multiples, the number of devices that share an example.

    Attributes:
        maker: makes arrays of examples; knows their shape.

    Raises:
        UserError: an index cannot be read, no record passes its filters or can be read, or the batch does not divide by
            the number of hosts.
    """

    def __init__(
        self,
        config: DataConfig,
        model: ModelConfig,
        *,
        seed: int,
        batch_size: int,
        host: int = 0,
        hosts: int = 1,
        multiple: int = 1,
    ):
        if batch_size < 1 or batch_size % hosts:
            raise UserError(f"a batch of {batch_size} examples does not divide among {hosts} processes")
        if model.num_ensemble != 1:
            raise UserError(f"{model.name}: num_ensemble={model.num_ensemble}, but training has no ensembles: 1")
        if model.eval_dropout:
            raise UserError(f"{model.name}: eval_dropout is of predictions; training has the stage's, validation none")
        self.config = config
        self.seed = seed
        self.batch_size = batch_size
        self._slots = range(host * batch_size // hosts, (host + 1) * batch_size // hosts)
        self.maker = Maker(
            config=model,
            augmentation=config.augmentation,
            copies=config.max_copies if isinstance(model, MultimerConfig) else 1,
            multiple=multiple,
        )
        self._sets = _open(config, model)
        for records in self._sets:
            self._require_usable(records)

    @property
    def batch_bytes(self) -> int:
        """Size of this process's part of a batch."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.maker.blank(len(self._slots))))

    @functools.cached_property
    def fingerprint(self) -> str:
        """Tells whether a run goes on with the data that it began with: the records by name and cluster, in order."""
        digest = hashlib.sha256()
        for record in itertools.chain.from_iterable(records.records for records in self._sets):
            digest.update(f"{record.file}\0{record.label}\0{record.cluster}\n".encode())
        return digest.hexdigest()[:16]

    def num_recycles(self, step: int) -> int:
        """Recycles of a step, uniform from 0 to the model's most, and the same on every host."""
        return int(Draws(self.seed, step, _Stream.RECYCLES).below(np.array([self.maker.config.num_recycles + 1]))[0])

    def clamped(self, step: int) -> bool:
        """Whether the backbone loss of a step is clamped."""
        return bool(Draws(self.seed, step, _Stream.CLAMPED).uniform(1)[0] < self.config.clamped_fraction)

    def batch(self, step: int) -> tuple[TrainingBatch, tuple[Skipped, ...]]:
        """This process's examples of a step, and the records and templates that had to be passed over for them.

        Raises:
            UserError: a hundred records in a row could not be used.
        """
        features, labels = self.maker.blank(len(self._slots))
        skipped: list[Skipped] = []
        for place, slot in enumerate(self._slots):
            skipped += self._fill((row(features, place), row(labels, place)), step, slot)
        batch = TrainingBatch(features=features, labels=labels, num_recycles=np.int32(self.num_recycles(step)))
        return batch, tuple(skipped)

    def _fill(self, out: tuple[Features, Labels], step: int, slot: int) -> list[Skipped]:
        """Writes the example of one place in a step's batch; returns what was passed over for it."""
        skipped: list[Skipped] = []
        for attempt in range(_ATTEMPTS):
            name = (self.seed, step, slot, attempt)
            draws = Draws(*name, _Stream.RECORD)
            wants_distilled = draws.uniform(1)[0] < self.config.distillation_fraction
            records = self._sets[-1] if wants_distilled else self._sets[0]
            record = records.draw(draws)
            try:
                example = records.reader.read(record, Draws(*name, _Stream.TEMPLATES))
                skipped += broken_templates(example)
                self.maker.fill(
                    out,
                    example,
                    (*name, _Stream.EXAMPLE),
                    num_recycles=self.num_recycles(step),
                    clamped=self.clamped(step),
                    distillation=records.distillation,
                )
                return skipped
            except Exception as error:  # one bad file of half a million must not end a run of weeks
                skipped.append(Skipped(record=record.name, reason=describe(error)))
        raise UserError(
            f"step {step}: {_ATTEMPTS} records in a row cannot be used, the last of them {skipped[-1].record}: "
            f"{skipped[-1].reason}"
        )

    def _require_usable(self, records: RecordSet) -> None:
        """Raises unless some record can be read; those that are tried spread over the whole set."""
        tried = Draws(self.seed, _Stream.RECORD).permutation(len(records.records))[:_ATTEMPTS]
        for record in (records.records[place] for place in tried):
            try:
                records.reader.read(record)
                return
            except Exception as error:
                reason = f"{record.name}: {describe(error)}"
                logger.warning("%s: skipped %s", records.name, reason)
        raise UserError(
            f"{records.name}: nothing in it can be used: all {len(tried)} chains that were tried of "
            f"{len(records.records)} failed, such as {reason}"
        )


def _open(config: DataConfig, model: ModelConfig) -> tuple[RecordSet, ...]:
    """The set of experimental structures, and if there is one that of predictions."""
    index = with_clusters(read_index(config.index), config.clusters)
    reader = Reader(
        structures=index.structures,
        alignments=index.alignments,
        config=model,
        max_copies=config.max_copies,
        max_chains=config.max_chains,
        templates=template_source(config.templates, index, model),
    )
    sets = [_record_set(index, config.filters, str(config.index), reader)]
    if config.distillation_index is not None and config.distillation_fraction > 0:
        index = read_index(config.distillation_index)
        reader = dataclasses.replace(
            reader,
            structures=index.structures,
            alignments=index.alignments,
            min_confidence=config.min_confidence,
        )
        sets.append(_record_set(index, config.distillation_filters, str(config.distillation_index), reader))
    return tuple(sets)


def template_source(config: TemplateConfig | None, index: Index, model: ModelConfig) -> TemplateSource | None:
    """Where templates come from; None if there is nowhere, or the model takes none."""
    return config.source(index, model.num_templates) if config is not None and model.num_templates else None


def _record_set(index: Index, filters: Filters, name: str, reader: Reader) -> RecordSet:
    records = select(index, filters, what=name)
    return RecordSet(
        name=name,
        records=records,
        cumulative=np.cumsum(weights(records)),
        reader=reader,
        distillation=reader.min_confidence is not None,
    )


def report(skipped: Skipped, known: dict[str, str]) -> None:
    """Names and counts what was skipped, unless it is among what is known already."""
    if skipped.record not in known:
        known[skipped.record] = skipped.reason
        logger.warning("skipped %s (%d so far): %s", skipped.record, len(known), skipped.reason)


def broken_templates(example: Example) -> list[Skipped]:
    """The templates that the example would have had if they could be read."""
    return [Skipped(record=f"template {entry}", reason=reason) for entry, reason in example.broken_templates.items()]


def describe(error: Exception) -> str:
    """An error in one line; one that no user can cause with its type."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
