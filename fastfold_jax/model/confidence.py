"""How sure the network is of its structure: pLDDT, PAE, pTM, ipTM, contacts, and the change between two passes.

Everything here is float32 and reduces over bins by `expected_value`, whose exponentials XLA fuses into the sums: no
array of probabilities with a bin axis is ever stored. Where pair logits are split by rows over devices (`axis`), the
per-residue vectors are whole on each of them.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fastfold_jax.constants.atoms import ATOM37_INDEX
from parallel.axis import Axis

CONTACT_DISTANCE = 8.0  # Å, between Cβ atoms (Cα for glycine)
TM_SCORE_MIN_RESIDUES = 19  # below it the TM-score's length scale d0 would be tiny or undefined
INTERFACE_WEIGHT = 0.8  # of ipTM, in the ranking of complexes; the rest is pTM's


def expected_value(logits: Float[Array, "*shape bins"], values: Float[Array, " bins"]) -> Float[Array, "*shape"]:
    """Mean of `values` under softmax(logits), float32."""
    logits = logits.astype(jnp.float32)
    weights = jnp.exp(logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True)))
    # A product and a sum, not a matmul: a matmul's operand would have to be stored.
    return jnp.sum(weights * values, axis=-1) / jnp.sum(weights, axis=-1)


def predicted_lddt(logits: Float[Array, "i bins"]) -> Float[Array, " i"]:
    """Predicted lDDT-Cα of each residue, 0..100 (AlphaFold 2 supplement, Algorithm 29).

    The bins divide 0..100 evenly.
    """
    bins = logits.shape[-1]
    centers = (jnp.arange(bins, dtype=jnp.float32) + 0.5) * (100.0 / bins)
    return expected_value(logits, centers)


def mean_predicted_lddt(plddt: Float[Array, " i"], seq_mask: Float[Array, " i"]) -> Float[Array, ""]:
    """Mean over the residues that exist; 0 if there are none."""
    return jnp.sum(plddt * seq_mask) / jnp.maximum(jnp.sum(seq_mask), 1.0)


def error_bin_centers(breaks: Float[Array, " edges"]) -> Float[Array, " edges+1"]:
    """The error (Å) that each aligned error bin stands for; the last, open bin counts as one more of the same width.

    DISCREPANCY: the middle of the bin above. What the network learns to predict puts (0, 0.5] Å into the second bin,
    but the released code counts that bin as 0.75 Å: all its PAE and pTM values are those of errors 0.5 Å larger.
    """
    breaks = jnp.asarray(breaks, jnp.float32)
    width = breaks[1] - breaks[0]
    centers = breaks + width / 2
    return jnp.append(centers, centers[-1] + width)


def predicted_aligned_error(logits: Float[Array, "i j bins"], breaks: Float[Array, " edges"]) -> Float[Array, "i j"]:
    """Expected error (Å) of residue j's Cα when the structures are aligned on residue i.

    Source: AlphaFold 2 supplement, section 1.9.7.
    """
    return expected_value(logits, error_bin_centers(breaks))


def predicted_tm_score(
    logits: Float[Array, "i j bins"],
    breaks: Float[Array, " edges"],
    residue_weights: Float[Array, " j"],
    asym_id: Int[Array, " j"] | None = None,
    axis: Axis = Axis(),
) -> Float[Array, ""]:
    """Predicted TM-score, or its interface variant (AlphaFold 2 supplement, 1.9.7; Evans et al. 2022, section 2.4).

    The expected TM-score when aligned on the best residue's frame.

    Args:
      logits: Aligned error logits; this device's rows where `axis` splits them.
      breaks: The bins' inner edges (Å).
      residue_weights: 0..1, 0 in padding; all residues, like `asym_id`.
      asym_id: Chain of each residue. Given, only pairs in different chains count: ipTM, which is 0 for a single chain.
      axis: The device axis that the rows are split along.
    """
    # The length scale of Zhang & Skolnick 2004, equation 5, from the residues that exist: padding makes nothing longer.
    length = jnp.maximum(jnp.sum(residue_weights), TM_SCORE_MIN_RESIDUES)
    scale = 1.24 * jnp.cbrt(length - 15.0) - 1.8
    tm_of_bin = 1.0 / (1.0 + jnp.square(error_bin_centers(breaks) / scale))

    row_weights = axis.shard(residue_weights, 0)
    pair_weights = row_weights[:, None] * residue_weights[None, :]
    if asym_id is not None:
        pair_weights = pair_weights * (axis.shard(asym_id, 0)[:, None] != asym_id[None, :])
    weighted = jnp.sum(expected_value(logits, tm_of_bin) * pair_weights, axis=-1)
    of_alignment = weighted / (1e-8 + jnp.sum(pair_weights, axis=-1))
    return jnp.max(axis.gather(of_alignment * row_weights, 0))


def complex_ranking_confidence(ptm: Float[Array, ""], iptm: Float[Array, ""]) -> Float[Array, ""]:
    """What ranks predictions of complexes, 0..1 (Evans et al. 2022, section 2.4)."""
    return INTERFACE_WEIGHT * iptm + (1.0 - INTERFACE_WEIGHT) * ptm


def contact_probability(logits: Float[Array, "i j bins"], bin_edges: Float[Array, " edges"]) -> Float[Array, "i j"]:
    """Probability that two residues' Cβ atoms are within 8 Å.

    Counts the bins that lie wholly below 8 Å, as AlphaFold 3 does with the same bins: distances up to 7.94 Å.
    """
    below = jnp.asarray(bin_edges) <= CONTACT_DISTANCE
    return expected_value(logits, jnp.append(below, False).astype(jnp.float32))


def ca_distance_change(
    previous: Float[Array, "i 37 3"], current: Float[Array, "i 37 3"], seq_mask: Float[Array, " i"]
) -> Float[Array, ""]:
    """Root mean square change (Å) of all Cα-Cα distances between two passes.

    Recycling stops when it falls below a tolerance (the criterion of AF2Complex, Gao et al. 2022). Residues that do not
    exist do not count, nor does any motion of the whole. Carries no gradient: the root has none where atoms coincide.
    """
    previous, current = jax.lax.stop_gradient((previous, current))
    change = _ca_distances(current) - _ca_distances(previous)
    pair_mask = seq_mask[:, None] * seq_mask[None, :]
    return jnp.sqrt(jnp.sum(jnp.square(change) * pair_mask) / (1e-10 + jnp.sum(pair_mask)) + 1e-8)


def _ca_distances(positions: Float[Array, "i 37 3"]) -> Float[Array, "i i"]:
    # By components, so that no [i, i, 3] array is formed.
    x, y, z = jnp.moveaxis(positions[:, ATOM37_INDEX["CA"]].astype(jnp.float32), -1, 0)
    return jnp.sqrt(sum(jnp.square(c[:, None] - c[None, :]) for c in (x, y, z)))
