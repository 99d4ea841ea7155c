"""Torsion angles of residues from the positions of their atoms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fastfold_jax.constants.atoms import ATOM37_INDEX, CHI_ATOM37, CHI_MASK, CHI_PI_PERIODIC
from fastfold_jax.constants.residues import UNKNOWN
from fastfold_jax.geometry.rigid import Rigid

_N, _CA, _C, _O = (ATOM37_INDEX[name] for name in ("N", "CA", "C", "O"))
_COLUMNS37 = len(ATOM37_INDEX)

# The backbone's three angles: columns of the four atoms, and how many of them belong to the residue before.
_BACKBONE = (((_CA, _C, _N, _CA), 2), ((_C, _N, _CA, _C), 1), ((_N, _CA, _C, _O), 0))

# Psi is measured at O, which lies opposite to the next residue's N.
_SIGN = (1.0, 1.0, -1.0, 1.0, 1.0, 1.0, 1.0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Torsions:
    """The seven torsion angles of residues: omega before the residue, phi, psi, chi 1-4.

    Attributes:
      sin_cos: [*b, N, 7, 2] sine and cosine.
      alternative_sin_cos: [*b, N, 7, 2] the same under the other naming of ambiguous atoms.
      mask: [*b, N, 7] 1 where the angle exists and its four atoms are known.
    """

    sin_cos: Array
    alternative_sin_cos: Array
    mask: Array


def _columns() -> np.ndarray:
    """[21, 7, 4] the four atoms of each residue type's angles: 0..36 of the residue before, 37..73 of its own."""
    backbone = [
        [column + (0 if place < num_before else _COLUMNS37) for place, column in enumerate(columns)]
        for columns, num_before in _BACKBONE
    ]
    backbone_of_all = np.broadcast_to(np.array(backbone), (len(CHI_ATOM37), 3, 4))
    return np.concatenate([backbone_of_all, CHI_ATOM37 + _COLUMNS37], axis=1)


def _with_before(x: Float[Array, "..."], residues: int) -> Float[Array, "..."]:
    """The columns of the residue before, zeros for the first, then the residue's own; `residues` is the axis before."""
    first = jnp.zeros_like(jax.lax.slice_in_dim(x, 0, 1, axis=residues))
    before = jnp.concatenate([first, jax.lax.slice_in_dim(x, 0, x.shape[residues] - 1, axis=residues)], axis=residues)
    return jnp.concatenate([before, x], axis=residues + 1)


def _torsion_atoms(
    aatype: Int[Array, "*b n"], positions: Float[Array, "*b n 37 3"], mask: Float[Array, "*b n 37"]
) -> tuple[Float[Array, "*b n 7 4 3"], Float[Array, "*b n 7 4"]]:
    """Positions of the four atoms of each angle, and which of them are known."""
    shape = (*aatype.shape, 7, 4)
    columns = jnp.asarray(_columns())[aatype].reshape(*aatype.shape, 28)
    atoms = jnp.take_along_axis(
        _with_before(positions, aatype.ndim - 1), columns[..., None], axis=-2, mode="promise_in_bounds"
    )
    known = jnp.take_along_axis(_with_before(mask, aatype.ndim - 1), columns, axis=-1, mode="promise_in_bounds")
    return atoms.reshape(*shape, 3), known.reshape(shape)


def torsions_from_atom37(
    aatype: Int[Array, "*b n"],
    positions: Float[Array, "*b n 37 3"],
    mask: Float[Array, "*b n 37"],
    *,
    fill_undefined: bool = False,
) -> Torsions:
    """Torsion angles as features and as targets (AlphaFold 2 supplement, sections 1.2.4 and 1.8.4).

    DISCREPANCY: neighbours are neighbours in the array; gaps in the residue index and ends of chains do not interrupt
    omega and phi. Angles whose mask is 0 hold whatever the unknown atoms' positions give, as DeepMind's features do.

    Args:
      aatype: Residue types; values above 20 count as unknown.
      positions: Å.
      fill_undefined: Set angles whose mask is 0 to (sin, cos) = (1, 0), as DeepMind's code does when it trains without
        zero initialisation.
    """
    aatype = jnp.minimum(aatype, UNKNOWN)
    atoms, atoms_known = _torsion_atoms(aatype, positions, mask)
    known = jnp.prod(atoms_known, axis=-1)
    exists = jnp.concatenate([jnp.ones_like(known[..., :3]), jnp.asarray(CHI_MASK)[aatype]], axis=-1)
    angle_mask = known * exists

    frame = Rigid.from_points(atoms[..., 1, :], atoms[..., 2, :], atoms[..., 0, :])
    # Not `invert_apply`: angles of unknown atoms are rounding error and nothing else, so round in DeepMind's order.
    end = frame.invert().apply(atoms[..., 3, :])
    sin_cos = jnp.stack([end[..., 2], end[..., 1]], axis=-1)
    sin_cos = sin_cos / jnp.sqrt(jnp.sum(jnp.square(sin_cos), axis=-1, keepdims=True) + 1e-8)
    sin_cos = sin_cos * jnp.array(_SIGN)[:, None]

    half_turn = jnp.concatenate([jnp.zeros_like(known[..., :3]), jnp.asarray(CHI_PI_PERIODIC)[aatype]], axis=-1)
    alternative = sin_cos * (1.0 - 2.0 * half_turn)[..., None]
    if fill_undefined:
        defined = angle_mask[..., None]
        placeholder = jnp.array([1.0, 0.0]) * (1.0 - defined)
        sin_cos, alternative = sin_cos * defined + placeholder, alternative * defined + placeholder
    return Torsions(sin_cos=sin_cos, alternative_sin_cos=alternative, mask=angle_mask)
