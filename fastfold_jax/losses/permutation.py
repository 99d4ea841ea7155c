"""Which copy of an entity each predicted chain is compared with (multi-chain permutation alignment)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from fastfold_jax.constants.atoms import ATOM37_INDEX
from fastfold_jax.data.batch import Features
from fastfold_jax.data.labels import Labels

MAX_CHAINS = 64
"""Chains of one crop that are matched; further ones keep the copy that they came from."""

_CA = ATOM37_INDEX["CA"]
_FAR = 1e9


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class _Chains:
    """The C chains of a crop.

    Attributes:
      members: [C, N], 1 where a residue belongs to the chain.
      entity: [C] entity of each chain, 0 where there is none.
      own_copy: [C] the copy that each chain was cut from.
    """

    members: Any
    entity: Any
    own_copy: Any


# A GPU would round the coordinates in products to TF32's 10 bits.
@jax.default_matmul_precision("highest")
def match_copies(
    features: Features, labels: Labels, predicted_ca: Float[Array, "n 3"]
) -> tuple[Float[Array, "n 37 3"], Float[Array, "n 37"]]:
    """The known positions and mask to compare a prediction with, chains of equal sequence exchanged to fit it best.

    An anchor, the chain of the entity with fewest copies and of those the longest, is superposed on each copy of its
    entity. For each, the other chains are given, in order, the nearest copy of their entity that is still free,
    judged by the centres of Cα atoms. The superposition with the smallest deviation of all Cα atoms wins (Evans et al.
    2022, section 7.3). Carries no gradient. Without further copies nothing is computed.
    """
    positions, mask = labels.atom_positions, labels.atom_mask
    if len(positions) == 1:
        return positions[0], mask[0]
    predicted_ca = lax.stop_gradient(predicted_ca)
    copies_ca, copies_mask = positions[:, :, _CA], mask[:, :, _CA]
    chains = _chains(features)
    anchor = _anchor(chains, copies_mask)

    def try_copy(copy: Array) -> tuple[Array, Array]:
        known = copies_mask[copy] * chains.members[anchor]
        superposed = _superpose(predicted_ca, copies_ca[copy], known)
        assignment = _assign(chains, superposed, copies_ca, copies_mask, anchor, copy)
        return assignment, _deviation(chains, assignment, superposed, copies_ca, copies_mask)

    copies = jnp.arange(len(positions))
    assignments, deviations = jax.vmap(try_copy)(copies)
    exists = jnp.sum(copies_mask * chains.members[anchor], axis=1) > 0
    best = assignments[jnp.argmin(jnp.where(exists, deviations, _FAR))]
    chosen = jnp.sum(chains.members * best[:, None], axis=0).astype(jnp.int32)
    in_a_chain = jnp.sum(chains.members, axis=0) > 0
    chosen = jnp.where(in_a_chain, chosen, jnp.maximum(features.sym_id - 1, 0))
    residues = jnp.arange(positions.shape[1])
    return positions[chosen, residues], mask[chosen, residues]


def _chains(features: Features) -> _Chains:
    # Chains follow on each other in the crop; their own numbers may have gaps.
    starts = jnp.pad(features.asym_id[1:] != features.asym_id[:-1], (1, 0))
    members = jnp.arange(MAX_CHAINS)[:, None] == jnp.cumsum(starts)[None, :]
    members = members & (features.seq_mask > 0)
    of_chain = lambda ids: jnp.max(jnp.where(members, ids[None, :], 0), axis=1)  # noqa: E731
    return _Chains(
        members=members.astype(jnp.float32),
        entity=of_chain(features.entity_id),
        own_copy=jnp.maximum(of_chain(features.sym_id) - 1, 0),
    )


def _anchor(chains: _Chains, copies_mask: Float[Array, "k n"]) -> Int[Array, ""]:
    """The chain to begin with: of the entity with fewest copies, the one with most residues known in its own copy."""
    known = jnp.einsum("cn,kn->ck", chains.members, copies_mask)
    num_copies = jnp.sum(known > 0, axis=1)
    resolved = jnp.take_along_axis(known, chains.own_copy[:, None], axis=1)[:, 0]
    # Three points at least fix a superposition.
    usable = (chains.entity > 0) & (resolved >= 3)
    score = jnp.where(usable, -1e6 * num_copies + resolved, -_FAR)
    return jnp.argmax(score)


def _superpose(points: Float[Array, "n 3"], onto: Float[Array, "n 3"], mask: Float[Array, "n"]) -> Float[Array, "n 3"]:
    """All points after the rigid motion that best fits those in the mask (Kabsch 1976)."""
    weight = mask / jnp.maximum(jnp.sum(mask), 1.0)
    center, target_center = weight @ points, weight @ onto
    covariance = ((points - center) * weight[:, None]).T @ (onto - target_center)
    u, _, vt = jnp.linalg.svd(covariance)
    handedness = jnp.sign(jnp.linalg.det(u @ vt))
    rotation = (u * jnp.stack([jnp.ones(()), jnp.ones(()), handedness])) @ vt
    return (points - center) @ rotation + target_center


def _assign(
    chains: _Chains,
    predicted: Float[Array, "n 3"],
    copies_ca: Float[Array, "k n 3"],
    copies_mask: Float[Array, "k n"],
    anchor: Int[Array, ""],
    anchor_copy: Int[Array, ""],
) -> Int[Array, "c"]:
    """The copy of each chain, taken greedily in the order of chains once the anchor has its own."""
    known = copies_mask[None] * chains.members[:, None, :]  # [c, k, n]
    count = jnp.sum(known, axis=-1)
    per_known = known / jnp.maximum(count, 1.0)[..., None]
    true_centers = jnp.einsum("ckn,knd->ckd", per_known, copies_ca)
    centers = jnp.einsum("ckn,nd->ckd", per_known, predicted)
    distance = jnp.sqrt(jnp.sum(jnp.square(true_centers - centers), axis=-1))
    num_chains, num_copies = count.shape
    # The first chain of an entity keeps its list of free copies.
    keeper = jnp.argmax(chains.entity[:, None] == chains.entity[None, :], axis=1)

    def take(free: Array, chain: Array) -> tuple[Array, Array]:
        # A chain that nothing is known of anywhere keeps its copy if that is free.
        unknown = jnp.where(jnp.arange(num_copies) == chains.own_copy[chain], _FAR / 2, _FAR)
        cost = jnp.where(count[chain] > 0, distance[chain], unknown)
        cost = jnp.where(free[keeper[chain]] > 0, cost, jnp.inf)
        copy = jnp.where(chain == anchor, anchor_copy, jnp.argmin(cost))
        return free.at[keeper[chain], copy].set(0.0), copy

    free = jnp.ones((num_chains, num_copies)).at[keeper[anchor], anchor_copy].set(0.0)
    return lax.scan(take, free, jnp.arange(num_chains))[1]


def _deviation(
    chains: _Chains,
    assignment: Int[Array, "c"],
    predicted: Float[Array, "n 3"],
    copies_ca: Float[Array, "k n 3"],
    copies_mask: Float[Array, "k n"],
) -> Float[Array, ""]:
    """Mean squared deviation (Å²) of the known Cα atoms under an assignment."""
    copy = jnp.sum(chains.members * assignment[:, None], axis=0).astype(jnp.int32)
    residues = jnp.arange(predicted.shape[0])
    mask = copies_mask[copy, residues] * (jnp.sum(chains.members, axis=0) > 0)
    squared = jnp.sum(jnp.square(copies_ca[copy, residues] - predicted), axis=-1)
    return jnp.sum(mask * squared) / jnp.maximum(jnp.sum(mask), 1.0)
