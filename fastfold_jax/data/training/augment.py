"""From an example to the arrays of one training step: crop, rows, templates and masking drawn, then padded.

Everything is a function of the example and of the name of its random streams.
"""

import dataclasses
import enum

import numpy as np
from jaxtyping import Int

from fastfold_jax.config.model import ModelConfig
from fastfold_jax.data.batch import Features
from fastfold_jax.data.buckets import Shape, pad
from fastfold_jax.data.draws import Draws
from fastfold_jax.data.labels import Labels
from fastfold_jax.data.raw import RawFeatures
from fastfold_jax.data.sampling import draw_rows, sample
from fastfold_jax.data.training import crop as crops
from fastfold_jax.data.training import rows
from fastfold_jax.data.training.example import Example, crop, only_rows, only_templates
from fastfold_jax.errors import UserError

_CROP_ATTEMPTS = 10  # crops drawn until one has a residue that the experiment saw


class _Stream(enum.IntEnum):
    """Purposes that draw independently of each other."""

    CROP = 0
    ROWS = 1
    TEMPLATES = 2
    FEATURES = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is random about an example.

    Attributes:
        crop_size: residues kept.
        spatial_fraction: share of complexes that are cropped around an interface instead of along their chains.
        deleted_blocks, block_fraction: runs of alignment rows left out, and share of the rows in each.
        distillation_rows: of a self-distillation example's alignment so many rows are drawn.
        template_pool: templates are drawn from the best so many.
    """

    crop_size: int = 256
    spatial_fraction: float = 0.5
    deleted_blocks: int = 5
    block_fraction: float = 0.3
    distillation_rows: int = 1000
    template_pool: int = 20

    def __post_init__(self) -> None:
        if self.crop_size < 1 or self.distillation_rows < 1 or self.deleted_blocks < 0 or self.template_pool < 0:
            raise UserError(
                f"crop_size={self.crop_size}, distillation_rows={self.distillation_rows}, deleted_blocks="
                f"{self.deleted_blocks}, template_pool={self.template_pool}: accepted are numbers from 1, the latter "
                "two from 0"
            )
        for name in ("spatial_fraction", "block_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name)}: accepted are numbers from 0 to 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Maker:
    """Makes an example's arrays, all of the same shape.

    DISCREPANCY: AlphaFold assigns alignment rows to clusters by whole chains and crops afterwards; here the crop comes
    first, so that rows are compared where the network sees them, at a fraction of the cost for long chains.

    Attributes:
        config: the model that they are for; its recycles and one more are the passes P.
        augmentation: what is random.
        copies: K, of each chain in the labels.
    """

    config: ModelConfig
    augmentation: Augmentation
    copies: int = 1

    @property
    def shape(self) -> Shape:
        """What the model can take, whatever an example fills."""
        return Shape(
            num_res=self.augmentation.crop_size,
            num_msa=self.config.num_clusters,
            num_extra_msa=max(self.config.num_extra_msa, 1),
            num_templates=self.config.num_templates,
        )

    def make(
        self, example: Example, name: tuple[int, ...], *, num_recycles: int, clamped: bool, distillation: bool = False
    ) -> tuple[Features, Labels]:
        """Features of all passes, leaves [P, ...], and labels of the last.

        Args:
            example: a chain or complex.
            name: of the random streams.
            num_recycles: passes after the first that are made; the features of all others are zeros.
            clamped: whether the backbone loss will be, which decides how the crop is drawn.
            distillation: whether the structure is a prediction.
        """
        kept = choose_residues(example, self.augmentation, Draws(*name, _Stream.CROP), clamped=clamped)
        raw = crop(self._rows_and_templates(example.raw, name, distillation), kept)
        seed = int(Draws(*name, _Stream.FEATURES).raw(1)[0])
        features = self._passes(raw, seed, num_recycles)
        return features, self._labels(example, kept, raw, seed, clamped)

    def _rows_and_templates(self, raw: RawFeatures, name: tuple[int, ...], distillation: bool) -> RawFeatures:
        """The features with some rows of the alignment and some templates left out."""
        augmentation, draws = self.augmentation, Draws(*name, _Stream.ROWS)
        if distillation:
            raw = only_rows(raw, rows.few(raw.num_rows, augmentation.distillation_rows, draws))
        if augmentation.deleted_blocks:
            fraction, blocks = augmentation.block_fraction, augmentation.deleted_blocks
            raw = only_rows(raw, rows.without_blocks(raw.num_rows, draws, fraction=fraction, blocks=blocks))
        count = len(raw.templates)
        return only_templates(raw, choose_templates(count, augmentation, Draws(*name, _Stream.TEMPLATES)))

    def _passes(self, raw: RawFeatures, seed: int, num_recycles: int) -> Features:
        last = self.config.num_recycles
        unused = last - num_recycles
        made = [
            pad(sample(raw, self.config, seed=seed, pass_index=index), self.shape) for index in range(unused, last + 1)
        ]

        def stack(name: str) -> np.ndarray:
            leaves = [getattr(features, name) for features in made]
            return np.stack([np.zeros_like(leaves[0])] * unused + leaves)

        return Features(**{field.name: stack(field.name) for field in dataclasses.fields(Features)})

    def _labels(
        self, example: Example, kept: Int[np.ndarray, " kept"], raw: RawFeatures, seed: int, clamped: bool
    ) -> Labels:
        positions, mask = example.native(kept, self.copies)
        drawn = draw_rows(raw, self.config, (seed, self.config.num_recycles, 0))  # as `sample` did for the last pass
        missing = self.shape.num_res - len(kept)
        to_shape = ((0, self.shape.num_msa - len(drawn.true_msa)), (0, missing))
        return Labels(
            atom_positions=np.pad(positions, ((0, 0), (0, missing), (0, 0), (0, 0))),
            atom_mask=np.pad(mask, ((0, 0), (0, missing), (0, 0))),
            resolution=np.float32(example.resolution),
            use_clamped_fape=np.float32(clamped),
            true_msa=np.pad(drawn.true_msa, to_shape),
            bert_mask=np.pad(drawn.masked.astype(np.float32), to_shape),
        )


def choose_residues(
    example: Example, augmentation: Augmentation, draws: Draws, *, clamped: bool
) -> Int[np.ndarray, " kept"]:
    """The residues to keep, at least one of them with a known Cα: if ten draws find none, a stretch around one."""
    size = augmentation.crop_size
    alpha, known = example.alpha()
    for _ in range(_CROP_ATTEMPTS):
        kept = None
        if len(example.lengths) == 1:
            kept = crops.contiguous(len(known), size, draws, clamped=clamped)
        elif draws.uniform(1)[0] < augmentation.spatial_fraction:
            kept = crops.spatial(alpha, known, example.raw.asym_id, size, draws)
        if kept is None:
            kept = crops.contiguous_complex(example.lengths, size, draws)
        if known[kept].any():
            return kept
    return crops.around(np.flatnonzero(known), len(known), size, draws)


def choose_templates(count: int, augmentation: Augmentation, draws: Draws) -> Int[np.ndarray, " k"]:
    """Which templates to use: a uniform number of them, drawn from the best ones (section 1.2.3).

    The model takes as many of these as it can, four.
    """
    pool = min(count, augmentation.template_pool)
    number = int(draws.below(np.array([pool + 1]))[0])
    return draws.permutation(pool)[:number]
