"""Turns a whole alignment into one pass's features: which rows become clusters, what is masked, what clusters hold.

AlphaFold 2 supplement, sections 1.2.6-1.2.9. Every pass draws anew, from streams named by seed, pass and member of the
ensemble.
"""

import dataclasses
import enum

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int8, Real

from fastfold_jax.config.model import ModelConfig, MultimerConfig
from fastfold_jax.constants import MASK, RESTYPES
from fastfold_jax.data.batch import Features
from fastfold_jax.data.clusters import Rows, summarise_monomer, summarise_multimer
from fastfold_jax.data.draws import Draws
from fastfold_jax.data.raw import RawFeatures, one_hot

MASKED_FRACTION = 0.15
"""Share of the clusters' letters that BERT-style masking touches, also at inference."""

# Of the letters that masking touches: a uniform amino acid, one drawn from the column's profile, the same letter again;
# the rest becomes the mask letter.
UNIFORM, PROFILE, SAME = 0.1, 0.1, 0.1


class _Stream(enum.IntEnum):
    """Purposes that draw independently of each other."""

    ORDER = 0
    MASKING = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """Rows chosen for one pass, before they are turned into features.

    Attributes:
        clusters: centres after masking.
        true_msa: their letters before it.
        masked: where masking touched them (what the masked-MSA loss asks for).
        others: all other rows, in random order.
    """

    clusters: Rows
    true_msa: Int8[np.ndarray, "s n"]
    masked: Bool[np.ndarray, "s n"]
    others: Rows


def sample(raw: RawFeatures, config: ModelConfig, *, seed: int, pass_index: int) -> Features:
    """The features of one pass of the model; the same for the same arguments on any machine.

    Shapes are those that the alignment fills: at most `config.num_clusters` clusters and `config.num_extra_msa` extra
    rows, fewer where it is shallow (`buckets.pad` pads). With `config.num_ensemble` above 1 the MSA leaves are stacked.

    Args:
        raw: the protein.
        config: sizes, and whether the model is a monomer's or a multimer's.
        seed: of the whole prediction, not negative.
        pass_index: 0 for the first pass, then one more for each recycle.
    """
    names = [(seed, pass_index, member) for member in range(config.num_ensemble)]
    members = [_msa_features(draw_rows(raw, config, name), config) for name in names]
    msa = members[0]
    if len(members) > 1:
        msa = {leaf: np.stack([member[leaf] for member in members]) for leaf in msa}
    return Features(
        aatype=raw.aatype,
        residue_index=raw.residue_index,
        asym_id=raw.asym_id,
        entity_id=raw.entity_id,
        sym_id=raw.sym_id,
        seq_mask=raw.seq_mask,
        **msa,
        **_template_features(raw, config),
    )


def draw_rows(raw: RawFeatures, config: ModelConfig, name: tuple[int, ...]) -> Sample:
    """Picks cluster centres and masks them; `name` (seed, pass, ensemble member) names the random streams."""
    order = _row_order(raw, Draws(*name, _Stream.ORDER))
    ordered = Rows(letters=raw.msa, deletions=raw.deletions, mask=raw.msa_mask)[order]
    clusters, others = ordered[: config.num_clusters], ordered[config.num_clusters :]
    masked, letters = mask_letters(clusters, raw.letter_counts, Draws(*name, _Stream.MASKING))
    return Sample(
        clusters=dataclasses.replace(clusters, letters=letters), true_msa=clusters.letters, masked=masked, others=others
    )


def _row_order(raw: RawFeatures, draws: Draws) -> Int[np.ndarray, " r"]:
    """The rows that always come first, then the others shuffled, then those that are masked out entirely."""
    rank = np.where(raw.first, 0, np.where(raw.msa_mask.any(axis=1), 1, 2))
    shuffled = draws.permutation(raw.num_rows)
    kept = np.flatnonzero(raw.first)
    others = shuffled[~raw.first[shuffled]]
    return np.concatenate([kept, others[np.argsort(rank[others], kind="stable")]])


def mask_letters(
    rows: Rows, letter_counts: Int[np.ndarray, "n 22"], draws: Draws
) -> tuple[Bool[np.ndarray, "s n"], Int8[np.ndarray, "s n"]]:
    """BERT-style masking: where it touches the rows, and the letters after it.

    Args:
        rows: cluster centres.
        letter_counts: letters of each column of the whole alignment, the profile that replacements are drawn from.
        draws: the random stream.
    """
    num_rows, num_res = rows.letters.shape
    touched = (draws.uniform(num_rows * num_res).reshape(num_rows, num_res) < MASKED_FRACTION) & rows.mask
    row, column = np.nonzero(touched)
    kind = draws.uniform(len(row))
    uniform = draws.below(np.full(len(row), len(RESTYPES)))
    cumulative = np.cumsum(letter_counts, axis=1)[column]
    from_profile = (cumulative <= draws.below(cumulative[:, -1])[:, None]).sum(axis=1)
    choices = (uniform, from_profile, rows.letters[row, column], np.full(len(row), MASK))
    which = np.searchsorted(np.cumsum([UNIFORM, PROFILE, SAME]), kind, side="right")
    letters = np.where(rows.mask, rows.letters, 0).astype(np.int8)
    letters[row, column] = np.choose(which, choices)
    return touched, letters


def _msa_features(drawn: Sample, config: ModelConfig) -> dict[str, np.ndarray]:
    """The MSA leaves of the batch. Clusters are summarised over all other rows, before those are cropped."""
    summarise = summarise_multimer if isinstance(config, MultimerConfig) else summarise_monomer
    summary = summarise(drawn.clusters, drawn.others)
    extra = drawn.others[: config.num_extra_msa]
    deletions = drawn.clusters.deletions
    columns = (
        one_hot(drawn.clusters.letters),
        np.minimum(deletions, 1)[..., None],
        squash_deletions(deletions)[..., None],
        summary.profile,
        squash_deletions(summary.deletion_mean)[..., None],
    )
    return {
        "msa_feat": np.concatenate(columns, axis=-1, dtype=np.float32),
        "msa_mask": drawn.clusters.mask.astype(np.float32),
        "extra_msa": extra.letters,
        "extra_deletion_value": squash_deletions(extra.deletions),
        "extra_msa_mask": extra.mask.astype(np.float32),
    }


def _template_features(raw: RawFeatures, config: ModelConfig) -> dict[str, np.ndarray]:
    """The template leaves of the batch: the best ones, as many as the model takes.

    A multimer averages over all of its templates, empty ones included, as AlphaFold-Multimer's pipeline, which always
    hands it four, made it do in training; so it gets its full number, each with mask 1.
    """
    count = config.num_templates
    if not isinstance(config, MultimerConfig):
        count = min(count, len(raw.templates))
    templates = raw.templates.resize(count)
    return {
        "template_aatype": templates.aatype,
        "template_all_atom_positions": templates.positions,
        "template_all_atom_mask": templates.atom_mask,
        "template_mask": np.ones(count, np.float32),
    }


def squash_deletions(counts: Real[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """Deletion counts d, or their means, as atan(d / 3) * 2 / pi, in [0, 1)."""
    squashed = np.zeros(counts.shape, np.float32)
    where = np.nonzero(counts)
    squashed[where] = _arctan(counts[where] / 3.0) * (2 / np.pi)
    return squashed


def _arctan(x: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Inverse tangent of non-negative numbers, to 1e-15.

    Made of operations that IEEE 754 rounds exactly, because NumPy's own differs in the last place between processors.
    The angle is halved three times, atan(x) = 2 atan(x / (1 + sqrt(1 + x^2))), until a Taylor series is short.
    """
    x = np.asarray(x, np.float64)
    for _ in range(3):
        x = x / (1 + np.sqrt(1 + x * x))
    square, series = x * x, np.zeros_like(x)
    for power in range(23, 0, -2):
        series = 1 / power - square * series
    return 8 * x * series
