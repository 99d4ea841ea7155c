"""The validation set: every structure once, in the same order, with the same crop and masking each time."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fastfold_jax.checks import at_least
from fastfold_jax.config.model import ModelConfig, MultimerConfig
from fastfold_jax.data.batch import Features
from fastfold_jax.data.labels import Labels, TrainingBatch
from fastfold_jax.data.training.augment import Augmentation, Maker, row
from fastfold_jax.data.training.example import Reader
from fastfold_jax.data.training.records import read_index
from fastfold_jax.data.training.selection import Filters, select
from fastfold_jax.data.training.templates import TemplateConfig
from fastfold_jax.errors import UserError
from fastfold_jax.training.dataset import Skipped, broken_templates, describe, report, template_source


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """What to validate on.

    Attributes:
        index: made by `python -m fastfold_jax.training.index`.
        filters: which chains of it, such as those released after the training set.
        crop_size: residues kept of each.
        limit: use the first so many chains; all by default.
        max_copies, max_chains, templates: see `DataConfig`; of the hits the best are used.
    """

    index: Path
    filters: Filters = dataclasses.field(default_factory=Filters)
    crop_size: int = 384
    limit: int | None = None
    max_copies: int = 20
    max_chains: int = 20
    templates: TemplateConfig | None = None

    def __post_init__(self) -> None:
        at_least(1, crop_size=self.crop_size, max_copies=self.max_copies, max_chains=self.max_chains, limit=self.limit)


class ValidationSet:
    """Batches over all chains, of which each process makes its own rows.

    Every process makes the same number of batches; what lacks a chain, at the end or because a file is broken, is an
    example without residues (all masks zero) whose name is "".

    Args:
        config: what to validate on.
        model: sizes of the examples; every batch has its most recycles.
        batch_size: examples of a batch on all hosts together.
        host, hosts: which of how many processes this is.
        multiple: see `Dataset`.

    Raises:
        UserError: the index cannot be read, no chain passes its filters, or the batch does not divide among hosts.
    """

    def __init__(
        self,
        config: ValidationConfig,
        model: ModelConfig,
        *,
        batch_size: int = 1,
        host: int = 0,
        hosts: int = 1,
        multiple: int = 1,
    ):
        if batch_size < 1 or batch_size % hosts:
            raise UserError(f"a batch of {batch_size} examples does not divide among {hosts} processes")
        index = read_index(config.index)
        self._records = select(index, config.filters, what=str(config.index))[: config.limit]
        self._reader = Reader(
            structures=index.structures,
            alignments=index.alignments,
            config=model,
            max_copies=config.max_copies,
            max_chains=config.max_chains,
            templates=template_source(config.templates, index, model),
        )
        self._maker = Maker(
            config=model,
            augmentation=Augmentation(crop_size=config.crop_size, deleted_blocks=0),
            copies=config.max_copies if isinstance(model, MultimerConfig) else 1,
            multiple=multiple,
        )
        self._batch_size = batch_size
        self._slots = range(host * batch_size // hosts, (host + 1) * batch_size // hosts)
        self.skipped: dict[str, str] = {}

    def __len__(self) -> int:
        """How many batches there are."""
        return math.ceil(len(self._records) / self._batch_size)

    def __iter__(self) -> Iterator[tuple[tuple[str, ...], TrainingBatch]]:
        """The names of each batch's chains, and the batch."""
        for start in range(0, len(self._records), self._batch_size):
            features, labels = self._maker.blank(len(self._slots))
            names = tuple(
                self._fill((row(features, place), row(labels, place)), start + slot)
                for place, slot in enumerate(self._slots)
            )
            num_recycles = np.int32(self._maker.config.num_recycles)
            yield names, TrainingBatch(features=features, labels=labels, num_recycles=num_recycles)

    def _fill(self, out: tuple[Features, Labels], place: int) -> str:
        """Writes the example of a record and returns its name; "" if there is none or it cannot be used."""
        if place >= len(self._records):
            return ""
        record = self._records[place]
        try:
            example = self._reader.read(record)
            for skipped in broken_templates(example):
                report(skipped, self.skipped)
            self._maker.fill(out, example, (place,), num_recycles=self._maker.config.num_recycles, clamped=True)
        except Exception as error:  # the other chains are worth validating on
            report(Skipped(record=record.name, reason=describe(error)), self.skipped)
            return ""
        return record.name
