"""From an example to the arrays of one training step: crop, rows and masking drawn, then padded.

Everything is a function of the example and of the name of its random streams.
"""

import dataclasses
import enum
from typing import TypeVar

import numpy as np
from jaxtyping import Int

from fastfold_jax.checks import at_least, share
from fastfold_jax.config.model import ModelConfig
from fastfold_jax.data.batch import MSA_CHANNELS, Features
from fastfold_jax.data.buckets import Shape
from fastfold_jax.data.draws import Draws
from fastfold_jax.data.labels import Labels
from fastfold_jax.data.raw import RawFeatures
from fastfold_jax.data.sampling import draw_rows, sample
from fastfold_jax.data.training import crop as crops
from fastfold_jax.data.training import rows
from fastfold_jax.data.training.example import Example, crop, only_rows, without_empty_rows

Arrays = TypeVar("Arrays", Features, Labels)

_CROP_ATTEMPTS = 10  # crops drawn until one has a residue that the experiment saw


class _Stream(enum.IntEnum):
    """Purposes that draw independently of each other."""

    CROP = 0
    ROWS = 1
    FEATURES = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is random about an example.

    Attributes:
        crop_size: residues kept.
        spatial_fraction: share of complexes that are cropped around an interface instead of along their chains.
        deleted_blocks, block_fraction: runs of alignment rows left out, and share of the rows in each.
        distillation_rows: of a self-distillation example's alignment so many rows are drawn.
    """

    crop_size: int = 256
    spatial_fraction: float = 0.5
    deleted_blocks: int = 5
    block_fraction: float = 0.3
    distillation_rows: int = 1000

    def __post_init__(self) -> None:
        at_least(1, crop_size=self.crop_size, distillation_rows=self.distillation_rows)
        at_least(0, deleted_blocks=self.deleted_blocks)
        share(spatial_fraction=self.spatial_fraction, block_fraction=self.block_fraction)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Maker:
    """Makes examples' arrays, all of the same shape.

    DISCREPANCY: AlphaFold assigns alignment rows to clusters by whole chains and crops afterwards; here the crop comes
    first, so that rows are compared where the network sees them, at a fraction of the cost for long chains. Rows that
    are empty there are left out: they would take the places of others, and agree with no centre to be assigned to.

    Attributes:
        config: the model that they are for; its recycles and one more are the passes P.
        augmentation: what is random.
        copies: K, of each chain in the labels.
        multiple: residues and MSA rows are padded to multiples of this, the number of devices that share an example.
    """

    config: ModelConfig
    augmentation: Augmentation
    copies: int = 1
    multiple: int = 1

    @property
    def shape(self) -> Shape:
        """What the model can take, whatever an example fills, but for `multiple`."""
        sizes = {
            "num_res": self.augmentation.crop_size,
            "num_msa": self.config.num_clusters,
            "num_extra_msa": max(self.config.num_extra_msa, 1),
        }
        split = {name: -(-size // self.multiple) * self.multiple for name, size in sizes.items()}
        # Templates stay whole: each device goes through all of them.
        return Shape(**split, num_templates=self.config.num_templates)

    def blank(self, batch_size: int) -> tuple[Features, Labels]:
        """Features [B, P, ...] and labels [B, ...] of examples without residues: zeros, all masked out.

        The operating system hands out zeros for nothing, so passes and padding that are never written cost no time.
        """
        n, s, e, t = dataclasses.astuple(self.shape)

        def zeros(*sizes: int, dtype: type = np.float32) -> np.ndarray:
            return np.zeros((batch_size, self.config.num_recycles + 1, *sizes), dtype)

        of_residues = ("aatype", "residue_index", "asym_id", "entity_id", "sym_id")
        features = Features(
            **{name: zeros(n, dtype=np.int32) for name in of_residues},
            seq_mask=zeros(n),
            msa_feat=zeros(s, n, MSA_CHANNELS),
            msa_mask=zeros(s, n),
            extra_msa=zeros(e, n, dtype=np.int8),
            extra_deletion_value=zeros(e, n),
            extra_msa_mask=zeros(e, n),
            template_aatype=zeros(t, n, dtype=np.int32),
            template_all_atom_positions=zeros(t, n, 37, 3),
            template_all_atom_mask=zeros(t, n, 37),
            template_mask=zeros(t),
        )
        labels = Labels(
            atom_positions=np.zeros((batch_size, self.copies, n, 37, 3), np.float32),
            atom_mask=np.zeros((batch_size, self.copies, n, 37), np.float32),
            resolution=np.zeros(batch_size, np.float32),
            use_clamped_fape=np.zeros(batch_size, np.float32),
            true_msa=np.zeros((batch_size, s, n), np.int8),
            bert_mask=np.zeros((batch_size, s, n), np.float32),
        )
        return features, labels

    def fill(
        self,
        out: tuple[Features, Labels],
        example: Example,
        name: tuple[int, ...],
        *,
        num_recycles: int,
        clamped: bool,
        distillation: bool = False,
    ) -> None:
        """Writes an example into arrays of zeros, once all of it is made.

        Args:
            out: where to, leaves [P, ...] and labels without leading axis: one row of `blank`.
            example: a chain or complex.
            name: of the random streams.
            num_recycles: passes after the first that are made.
            clamped: whether the backbone loss will be, which decides how the crop is drawn.
            distillation: whether the structure is a prediction.
        """
        kept = choose_residues(example, self.augmentation, Draws(*name, _Stream.CROP), clamped=clamped)
        raw = self._fewer_rows(example.raw, Draws(*name, _Stream.ROWS), distillation)
        raw = without_empty_rows(crop(raw, kept))
        seed = int(Draws(*name, _Stream.FEATURES).raw(1)[0])
        last = self.config.num_recycles
        passes = {
            index: sample(raw, self.config, seed=seed, pass_index=index)
            for index in range(last - num_recycles, last + 1)
        }
        positions, mask = example.native(kept, self.copies)
        drawn = draw_rows(raw, self.config, (seed, last, 0))  # as `sample` did for the last pass
        labels = Labels(
            atom_positions=positions,
            atom_mask=mask,
            resolution=np.float32(example.resolution),
            use_clamped_fape=np.float32(clamped),
            true_msa=drawn.true_msa,
            bert_mask=drawn.masked,
        )
        for index, features in passes.items():
            _write(row(out[0], index), features)
        _write(out[1], labels)

    def _fewer_rows(self, raw: RawFeatures, draws: Draws, distillation: bool) -> RawFeatures:
        """The features with some rows of the alignment left out."""
        augmentation = self.augmentation
        if distillation:
            raw = only_rows(raw, rows.few(raw.num_rows, augmentation.distillation_rows, draws))
        if augmentation.deleted_blocks:
            fraction, blocks = augmentation.block_fraction, augmentation.deleted_blocks
            raw = only_rows(raw, rows.without_blocks(raw.num_rows, draws, fraction=fraction, blocks=blocks))
        return raw


def row(arrays: Arrays, place: int) -> Arrays:
    """One row of the leading axis of every leaf, as views."""
    return type(arrays)(**{field.name: getattr(arrays, field.name)[place, ...] for field in dataclasses.fields(arrays)})


def _write(out: Arrays, values: Arrays) -> None:
    """Writes leaves into larger ones, what is beyond them being padding."""
    for field in dataclasses.fields(out):
        value = np.asarray(getattr(values, field.name))
        getattr(out, field.name)[tuple(map(slice, value.shape))] = value


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
