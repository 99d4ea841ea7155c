"""Frames of the eight rigid groups: from torsion angles to atoms, and from known atoms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fastfold_jax.constants.atoms import ATOM14_MASK
from fastfold_jax.constants.rigid_groups import (
    ATOM14_POSITION,
    ATOM14_TO_GROUP,
    DEFAULT_FRAMES,
    GROUP_AMBIGUOUS,
    GROUP_BASE_ATOM37,
    GROUP_MASK,
)
from fastfold_jax.geometry.rigid import Rigid


def _about_x(sin_cos: Float[Array, "*n 2"]) -> Float[Array, "*n 3 3"]:
    """Rotation about the x axis (AlphaFold 2 supplement, Algorithm 25)."""
    sin, cos = sin_cos[..., 0], sin_cos[..., 1]
    one, zero = jnp.ones_like(sin), jnp.zeros_like(sin)
    rows = ((one, zero, zero), (zero, cos, -sin), (zero, sin, cos))
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def frames_from_torsions(aatype: Int[Array, "*n"], backbone: Rigid, sin_cos: Float[Array, "*n 7 2"]) -> Rigid:
    """Global frames of the eight rigid groups of each residue (AlphaFold 2 supplement, Algorithm 24, lines 1-10).

    Args:
      aatype: Residue types 0..20.
      backbone: [*n] backbone frames, Å.
      sin_cos: Sine and cosine of omega, phi, psi, chi 1-4.

    Returns:
      [*n, 8] frames, Å; frames of groups that the residue type lacks mean nothing.
    """
    no_turn = jnp.broadcast_to(jnp.array([0.0, 1.0]), (*sin_cos.shape[:-2], 1, 2))
    turn = Rigid(rotation=_about_x(jnp.concatenate([no_turn, sin_cos], axis=-2)), translation=jnp.zeros(3))
    default = jnp.asarray(DEFAULT_FRAMES)[aatype]
    local = Rigid(rotation=default[..., :3, :3], translation=default[..., :3, 3]).compose(turn)

    on_backbone = [local[..., group] for group in range(5)]
    for group in (5, 6, 7):  # chi 2-4 hang on the chi before
        on_backbone.append(on_backbone[-1].compose(local[..., group]))
    # A rotation has two axes after the leading ones, a translation one.
    stacked = Rigid(
        rotation=jnp.stack([frame.rotation for frame in on_backbone], axis=-3),
        translation=jnp.stack([frame.translation for frame in on_backbone], axis=-2),
    )
    return backbone[..., None].compose(stacked)


def atom14_positions(aatype: Int[Array, "*n"], frames: Rigid) -> Float[Array, "*n 14 3"]:
    """Places each residue's atoms, ideal within its rigid groups (AlphaFold 2 supplement, Algorithm 24, line 11).

    Args:
      aatype: Residue types 0..20.
      frames: [*n, 8] global frames of the rigid groups.

    Returns:
      Positions in the unit of the frames; zeros in unused columns.
    """
    carried_by = np.eye(8, dtype=np.float32)[ATOM14_TO_GROUP] * ATOM14_MASK[..., None]
    in_every_group = frames[..., None, :].apply(jnp.asarray(ATOM14_POSITION)[aatype][..., None, :])
    # A sum in place of a gather, whose transpose would scatter.
    return jnp.sum(in_every_group * jnp.asarray(carried_by)[aatype][..., None], axis=-2)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupFrames:
    """Frames of rigid groups found from known atoms.

    Attributes:
      frames: [*n, 8] frames, Å.
      alternative: [*n, 8] the same under the other naming of ambiguous atoms.
      mask: [*n, 8] 1 where all atoms that fix a group are known.
    """

    frames: Rigid
    alternative: Rigid
    mask: Array


def frames_from_atom37(
    aatype: Int[Array, "*n"], positions: Float[Array, "*n 37 3"], mask: Float[Array, "*n 37"]
) -> GroupFrames:
    """Frames of the rigid groups of a known structure, as targets (AlphaFold 2 supplement, Algorithm 26)."""
    base = jnp.asarray(GROUP_BASE_ATOM37)[aatype]
    flat = base.reshape(*aatype.shape, 24)
    points = jnp.take_along_axis(positions, flat[..., None], axis=-2).reshape(*base.shape, 3)
    known = jnp.min(jnp.take_along_axis(mask, flat, axis=-1).reshape(base.shape), axis=-1)
    frames = Rigid.from_points(points[..., 0, :], points[..., 1, :], points[..., 2, :])
    # C, CA, N fix the backbone's frame with C on the negative x axis; the model's has it at x > 0.
    mirrors = np.tile(np.eye(3, dtype=np.float32), (8, 1, 1))
    mirrors[0] = np.diag([-1.0, 1.0, -1.0])
    frames = frames.compose(Rigid(rotation=jnp.asarray(mirrors), translation=jnp.zeros(3)))

    half_turn = np.diag([1.0, -1.0, -1.0]) - np.eye(3)
    swaps = np.eye(3) + GROUP_AMBIGUOUS[..., None, None] * half_turn
    swap = Rigid(rotation=jnp.asarray(swaps, jnp.float32)[aatype], translation=jnp.zeros(3))
    return GroupFrames(frames=frames, alternative=frames.compose(swap), mask=known * jnp.asarray(GROUP_MASK)[aatype])
