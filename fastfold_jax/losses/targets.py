"""What the losses compare with, made from the known positions of atoms."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fastfold_jax.constants.atoms import ATOM37_INDEX
from fastfold_jax.geometry.atoms import atom37_to_atom14, pseudo_beta
from fastfold_jax.geometry.frames import GroupFrames, frames_from_atom37
from fastfold_jax.geometry.rigid import Rigid
from fastfold_jax.geometry.torsions import Torsions, torsions_from_atom37
from fastfold_jax.losses.renaming import swap_is_better, swap_names
from parallel.axis import Axis


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Targets:
    """A known structure of N residues, in every form that a loss reads. Å; masks are 1 where something is known.

    Attributes:
      atom_positions, atom_mask: [N, 37, 3] and [N, 37].
      atom14_positions, atom14_mask: [N, 14, 3] and [N, 14].
      frames: Frames of the rigid groups under both namings of symmetric atoms.
      torsions: Torsion angles under both namings.
      beta_positions, beta_mask: [N, 3] and [N], Cβ, Cα for glycine.
    """

    atom_positions: Any
    atom_mask: Any
    atom14_positions: Any
    atom14_mask: Any
    frames: GroupFrames
    torsions: Torsions
    beta_positions: Any
    beta_mask: Any

    @property
    def backbone(self) -> Rigid:
        """[N] backbone frames."""
        return self.frames.frames[..., 0]

    @property
    def backbone_mask(self) -> Float[Array, "n"]:
        """Where N, Cα and C are all known."""
        return self.frames.mask[:, 0]

    @property
    def ca_positions(self) -> Float[Array, "n 3"]:
        """Cα."""
        return self.atom_positions[:, ATOM37_INDEX["CA"]]

    @property
    def ca_mask(self) -> Float[Array, "n"]:
        """Where Cα is known."""
        return self.atom_mask[:, ATOM37_INDEX["CA"]]


def make_targets(aatype: Int[Array, "n"], positions: Float[Array, "n 37 3"], mask: Float[Array, "n 37"]) -> Targets:
    """All forms of a known structure."""
    atom14_positions, atom14_mask = atom37_to_atom14(positions, mask, aatype)
    beta_positions, beta_mask = pseudo_beta(aatype, positions, mask)
    return Targets(
        atom_positions=positions,
        atom_mask=mask,
        atom14_positions=atom14_positions,
        atom14_mask=atom14_mask,
        frames=frames_from_atom37(aatype, positions, mask),
        torsions=torsions_from_atom37(aatype, positions, mask),
        beta_positions=beta_positions,
        beta_mask=beta_mask,
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class RenamedTargets:
    """A known structure under the naming that is nearer to the prediction, so that all losses pull the same way.

    Attributes:
      frames: [N, 8] frames of the rigid groups.
      atom14_positions, atom14_mask: [N, 14, 3] Å and [N, 14].
    """

    frames: Rigid
    atom14_positions: Any
    atom14_mask: Any


def rename(
    targets: Targets, aatype: Int[Array, "n"], predicted: Float[Array, "n 14 3"], axis: Axis = Axis()
) -> RenamedTargets:
    """Algorithm 26 of the supplement, for predicted atom14 positions.

    DISCREPANCY: where only one of two symmetric atoms is known, AlphaFold-Multimer's code takes the exchanged mask
    whichever naming it chooses; this is the monomer's, which exchanges the mask with the atoms.
    """
    swap = swap_is_better(aatype, targets.atom14_positions, targets.atom14_mask, predicted, axis)

    def choose(plain: Array, swapped: Array) -> Array:
        return jnp.where(swap.reshape(swap.shape + (1,) * (plain.ndim - 1)), swapped, plain)

    return RenamedTargets(
        frames=jax.tree.map(choose, targets.frames.frames, targets.frames.alternative),
        atom14_positions=choose(targets.atom14_positions, swap_names(aatype, targets.atom14_positions)),
        atom14_mask=choose(targets.atom14_mask, swap_names(aatype, targets.atom14_mask)),
    )
