"""Losses of the output heads: distogram, masked MSA, pLDDT, aligned error, experimentally resolved atoms.

Arrays with a pair of residues hold this device's rows where `axis` splits them; vectors are whole on each device.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fastfold_jax.geometry.rigid import Rigid
from fastfold_jax.losses.fape import local_coordinates
from fastfold_jax.losses.reduce import bin_of_squared, cross_entropy, mask_mean, sharded_mean, squared_distance
from fastfold_jax.model.heads import ALIGNED_ERROR_BREAKS, DISTOGRAM_EDGES
from parallel.axis import Axis

LDDT_CUTOFF = 15.0  # Å, in the true structure
_LDDT_THRESHOLDS = (0.5, 1.0, 2.0, 4.0)  # Å


def distogram_loss(
    logits: Float[Array, "i n 64"], beta: Float[Array, "n 3"], mask: Float[Array, "n"], axis: Axis = Axis()
) -> Float[Array, ""]:
    """Cross entropy of binned Cβ distances (AlphaFold 2 supplement, 1.9.8)."""
    squared = squared_distance(axis.shard(beta, 0)[:, None], beta[None])
    errors = cross_entropy(logits, bin_of_squared(squared, jnp.asarray(DISTOGRAM_EDGES)))
    pairs = axis.shard(mask, 0)[:, None] * mask[None, :]
    return sharded_mean(errors, pairs, axis, epsilon=1e-6)


def masked_msa_loss(
    logits: Float[Array, "s n letters"],
    true_msa: Int[Array, "s n"],
    bert_mask: Float[Array, "s n"],
    axis: Axis = Axis(),
) -> Float[Array, ""]:
    """Cross entropy of the letters that were hidden (supplement, 1.9.9); all arguments are this device's part."""
    return sharded_mean(cross_entropy(logits, true_msa), bert_mask, axis)


def lddt(predicted: Float[Array, "n 3"], true: Float[Array, "n 3"], mask: Float[Array, "n"]) -> Float[Array, "n"]:
    """lDDT (0..1) of each residue's point, such as Cα: which distances below 15 Å are kept (Mariani et al. 2013).

    Residues without a neighbour, and unknown ones, score 1.
    """

    def distance(points: Array) -> Array:
        return jnp.sqrt(1e-10 + squared_distance(points[:, None], points[None]))

    true_distance = distance(true)
    counts = (true_distance < LDDT_CUTOFF) * mask[:, None] * mask[None, :] * (1.0 - jnp.eye(len(mask)))
    error = jnp.abs(true_distance - distance(predicted))
    kept = sum((error < threshold).astype(jnp.float32) for threshold in _LDDT_THRESHOLDS) / len(_LDDT_THRESHOLDS)
    return (1e-10 + jnp.sum(counts * kept, axis=-1)) / (1e-10 + jnp.sum(counts, axis=-1))


def lddt_loss(
    logits: Float[Array, "n bins"],
    predicted_ca: Float[Array, "n 3"],
    true_ca: Float[Array, "n 3"],
    mask: Float[Array, "n"],
) -> Float[Array, ""]:
    """Cross entropy of the binned true lDDT-Cα of the prediction (supplement, 1.9.6); coordinates get no gradient."""
    bins = logits.shape[-1]
    score = jax.lax.stop_gradient(lddt(predicted_ca, true_ca, mask))
    label = jnp.minimum(jnp.floor(score * bins).astype(jnp.int32), bins - 1)
    return mask_mean(cross_entropy(logits, label), mask, 1e-8)


def aligned_error_loss(
    logits: Float[Array, "i n 64"],
    predicted: Rigid,
    true: Rigid,
    mask: Float[Array, "n"],
    axis: Axis = Axis(),
) -> Float[Array, ""]:
    """Cross entropy of binned errors of Cα j in backbone frame i (supplement, 1.9.7); coordinates get no gradient.

    Args:
      predicted, true: [n] backbone frames, Å.
      mask: 1 where the true frame is known.
    """
    predicted, true = jax.lax.stop_gradient((predicted, true))

    def seen_from_rows(frames: Rigid) -> Array:
        rows = jax.tree.map(lambda x: axis.shard(x, 0), frames)
        return local_coordinates(rows, frames.translation)

    squared = squared_distance(seen_from_rows(predicted), seen_from_rows(true))
    errors = cross_entropy(logits, bin_of_squared(squared, jnp.asarray(ALIGNED_ERROR_BREAKS)))
    return sharded_mean(errors, axis.shard(mask, 0)[:, None] * mask[None, :], axis)


def resolved_loss(
    logits: Float[Array, "n 37"], atom_mask: Float[Array, "n 37"], exists: Float[Array, "n 37"]
) -> Float[Array, ""]:
    """Binary cross entropy of which atoms the experiment resolved (supplement, 1.9.10).

    Args:
      atom_mask: 1 where it did.
      exists: 1 where the residue's type has the atom.
    """
    log_yes, log_no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    return mask_mean(-(atom_mask * log_yes + (1.0 - atom_mask) * log_no), exists, 1e-8)
