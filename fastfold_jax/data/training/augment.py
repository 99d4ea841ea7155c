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
from fastfold_jax.data.raw import RawFeatures, Templates
from fastfold_jax.data.sampling import draw_rows, sample
from fastfold_jax.data.training import crop as crops
from fastfold_jax.data.training import rows
from fastfold_jax.data.training.example import Example, crop, only_rows
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


def batch_shape(config: ModelConfig, crop_size: int) -> Shape:
    """The one shape of all training examples: what the model can take, whatever an example fills."""
    return Shape(
        num_res=crop_size,
        num_msa=config.num_clusters,
        num_extra_msa=max(config.num_extra_msa, 1),
        num_templates=config.num_templates,
    )


def choose_residues(
    example: Example, augmentation: Augmentation, draws: Draws, *, clamped: bool
) -> Int[np.ndarray, " kept"]:
    """The residues to keep, at least one of them with a known Cα: if ten draws find none, a stretch around one."""
    alpha, known = example.alpha()
    for _ in range(_CROP_ATTEMPTS):
        kept = None
        if len(example.lengths) == 1:
            kept = crops.contiguous(example.lengths[0], augmentation.crop_size, draws, clamped=clamped)
        elif draws.uniform(1)[0] < augmentation.spatial_fraction:
            kept = crops.spatial(alpha, known, example.raw.asym_id, augmentation.crop_size, draws)
        if kept is None:
            kept = crops.contiguous_complex(example.lengths, augmentation.crop_size, draws)
        if known[kept].any():
            return kept
    return crops.around(np.flatnonzero(known), len(known), augmentation.crop_size, draws)


def augment(
    example: Example, augmentation: Augmentation, name: tuple[int, ...], *, clamped: bool, distillation: bool
) -> tuple[RawFeatures, Int[np.ndarray, " kept"]]:
    """The features with random residues, rows and templates left out, and the indices of the residues kept.

    DISCREPANCY: AlphaFold assigns alignment rows to clusters by whole chains and crops afterwards; here the crop comes
    first, so that rows are compared where the network sees them, at a fraction of the cost for long chains.

    Args:
        example: a chain or complex.
        augmentation: how much.
        name: of the random streams.
        clamped: whether the step's loss is (see `crop.contiguous`).
        distillation: whether the structure is a prediction.
    """
    kept = choose_residues(example, augmentation, Draws(*name, _Stream.CROP), clamped=clamped)
    raw = example.raw
    draws = Draws(*name, _Stream.ROWS)
    if distillation:
        raw = only_rows(raw, rows.few(raw.num_rows, augmentation.distillation_rows, draws))
    if augmentation.deleted_blocks:
        remaining = rows.without_blocks(
            raw.num_rows, draws, fraction=augmentation.block_fraction, blocks=augmentation.deleted_blocks
        )
        raw = only_rows(raw, remaining)
    chosen = choose_templates(len(raw.templates), augmentation.template_pool, Draws(*name, _Stream.TEMPLATES))
    raw = dataclasses.replace(raw, templates=_only(raw.templates, chosen))
    return crop(raw, kept), kept


def choose_templates(count: int, pool: int, draws: Draws) -> Int[np.ndarray, " k"]:
    """Which templates to use: a uniform number of them, drawn from the best `pool` (section 1.2.3).

    The model takes as many of these as it can, 4 of them, as training did.
    """
    count = min(count, pool)
    number = int(draws.below(np.array([count + 1]))[0])
    return draws.permutation(count)[:number]


def make_passes(
    raw: RawFeatures, config: ModelConfig, shape: Shape, seed: int, *, num_recycles: int
) -> Features:
    """Features of all passes, leaves [P, ...]; those of passes that this step does not make are zeros.

    Args:
        raw: a cropped example.
        config: the model; P is its `num_recycles` + 1.
        shape: what to pad to.
        seed: names the random streams.
        num_recycles: of this step.
    """
    last = config.num_recycles
    made = [
        pad(sample(raw, config, seed=seed, pass_index=index), shape) for index in range(last - num_recycles, last + 1)
    ]

    def stack(name: str) -> np.ndarray:
        leaves = [getattr(features, name) for features in made]
        return np.stack([np.zeros_like(leaves[0])] * (last - num_recycles) + leaves)

    return Features(**{field.name: stack(field.name) for field in dataclasses.fields(Features)})


def make_labels(
    example: Example, kept: Int[np.ndarray, " kept"], shape: Shape, *, copies: int, clamped: bool
) -> Labels:
    """What does not depend on the masking: `mask_labels` fills in the rest."""
    positions, mask = example.native(kept, copies)
    missing = shape.num_res - len(kept)
    return Labels(
        atom_positions=np.pad(positions, ((0, 0), (0, missing), (0, 0), (0, 0))),
        atom_mask=np.pad(mask, ((0, 0), (0, missing), (0, 0))),
        resolution=np.float32(example.resolution),
        use_clamped_fape=np.float32(clamped),
        true_msa=np.zeros((shape.num_msa, shape.num_res), np.int8),
        bert_mask=np.zeros((shape.num_msa, shape.num_res), np.float32),
    )


def mask_labels(labels: Labels, raw: RawFeatures, config: ModelConfig, seed: int) -> Labels:
    """The labels with what the last pass masked in the alignment, and what was there."""
    drawn = draw_rows(raw, config, (seed, config.num_recycles, 0))
    true_msa, bert_mask = labels.true_msa.copy(), labels.bert_mask.copy()
    num_rows, num_res = drawn.true_msa.shape
    true_msa[:num_rows, :num_res] = drawn.true_msa
    bert_mask[:num_rows, :num_res] = drawn.masked
    return dataclasses.replace(labels, true_msa=true_msa, bert_mask=bert_mask)


def feature_seed(name: tuple[int, ...]) -> int:
    """The seed of an example's passes."""
    return int(Draws(*name, _Stream.FEATURES).raw(1)[0])


def _only(templates: Templates, chosen: Int[np.ndarray, " k"]) -> Templates:
    return Templates(
        aatype=templates.aatype[chosen], positions=templates.positions[chosen], atom_mask=templates.atom_mask[chosen]
    )
