"""Pads features to few sizes, so that proteins of like size share one compiled program.

Sizes are spaced so that padding adds at most 25 % to the FLOPs of a pass over an alignment of any shape, and under 10 %
on average; a shallow alignment stays shallow.
"""

import dataclasses

import numpy as np

from fastfold_jax.config.model import ModelConfig, MultimerConfig
from fastfold_jax.data.batch import Features
from fastfold_jax.data.raw import RawFeatures


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of one batch; hashable, the key of a compiled program."""

    num_res: int
    num_msa: int
    num_extra_msa: int
    num_templates: int


def sampled_shape(raw: RawFeatures, config: ModelConfig) -> Shape:
    """The shape that `sample` gives a protein, unpadded."""
    clusters = min(raw.num_rows, config.num_clusters)
    return Shape(
        num_res=raw.num_res,
        num_msa=clusters,
        num_extra_msa=min(raw.num_rows - clusters, config.num_extra_msa),
        num_templates=config.num_templates
        if isinstance(config, MultimerConfig)
        else min(len(raw.templates), config.num_templates),
    )


def choose(raw: RawFeatures | Shape, config: ModelConfig, *, multiple: int = 1) -> Shape:
    """The bucket of a protein (or of an unpadded shape): the smallest that holds it.

    Args:
        raw: the protein, or the shape of its features.
        config: the model; no bucket exceeds what it can sample, but for `multiple`.
        multiple: residues and MSA rows are multiples of this, the number of devices that activations are split over.
            Templates are not: each device goes through all of them.
    """
    exact = raw if isinstance(raw, Shape) else sampled_shape(raw, config)
    num_res = _bucket(exact.num_res, fraction=16)
    # A cluster costs much beside a short protein's pairs of residues, and little beside a long one's.
    num_msa = _bucket(exact.num_msa, fraction=8, least_step=num_res // 64)
    # An extra row is some 30 times cheaper. There is always one, since an empty axis has no mean.
    num_extra = _bucket(max(exact.num_extra_msa, 1), fraction=2, least_step=64)
    templates = _bucket(exact.num_templates, fraction=1)
    sizes = {
        "num_res": num_res,
        "num_msa": min(num_msa, config.num_clusters),
        "num_extra_msa": min(num_extra, max(config.num_extra_msa, 1)),
    }
    split = {name: -(-size // multiple) * multiple for name, size in sizes.items()}
    return Shape(**split, num_templates=min(templates, config.num_templates))


def pad(features: Features, shape: Shape) -> Features:
    """Features with zeros, hence masked out, up to a shape.

    Raises:
        ValueError: if the features are larger.
    """
    sizes = _leading(features, shape)
    return Features(**{name: _pad_to(getattr(features, name), size, name) for name, size in sizes.items()})


def blank(features: Features, shape: Shape) -> Features:
    """Zeros of the shape that `pad` would give them; they take no memory."""
    leaves = {}
    for name, size in _leading(features, shape).items():
        leaf = getattr(features, name)
        leaves[name] = np.broadcast_to(np.zeros((), leaf.dtype), (*size, *leaf.shape[len(size) :]))
    return Features(**leaves)


def _leading(features: Features, shape: Shape) -> dict[str, tuple[int, ...]]:
    """Sizes of the leading axes of each feature at a shape."""
    rows = {
        "msa_feat": shape.num_msa,
        "msa_mask": shape.num_msa,
        "extra_msa": shape.num_extra_msa,
        "extra_deletion_value": shape.num_extra_msa,
        "extra_msa_mask": shape.num_extra_msa,
        "template_aatype": shape.num_templates,
        "template_all_atom_positions": shape.num_templates,
        "template_all_atom_mask": shape.num_templates,
    }
    is_ensemble = features.msa_mask.ndim == 3
    leading: dict[str, tuple[int, ...]] = {}
    for field in dataclasses.fields(Features):
        if field.name == "template_mask":
            leading[field.name] = (shape.num_templates,)
        elif field.name in rows:
            ensemble = features.msa_mask.shape[:1] if is_ensemble and not field.name.startswith("template") else ()
            leading[field.name] = (*ensemble, rows[field.name], shape.num_res)
        else:
            leading[field.name] = (shape.num_res,)
    return leading


def _bucket(size: int, *, fraction: int, least_step: int = 1) -> int:
    """The next multiple of a power of two that is at most 1/fraction of the size, or at most the least step."""
    step = max(size // fraction, least_step, 1)
    step = 1 << (step.bit_length() - 1)
    return -(-size // step) * step


def _pad_to(leaf: np.ndarray, sizes: tuple[int, ...], name: str) -> np.ndarray:
    """The leading axes of an array, filled up with zeros."""
    missing = [size - had for size, had in zip(sizes, leaf.shape, strict=False)]
    if min(missing) < 0:
        raise ValueError(f"{name} of shape {leaf.shape} does not fit into {sizes}")
    if not any(missing):
        return leaf
    return np.pad(leaf, [(0, extra) for extra in missing] + [(0, 0)] * (leaf.ndim - len(sizes)))
