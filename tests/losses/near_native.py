"""Glucagon's structure and predictions near it, as inputs of losses, ours and the reference's."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import recorded
from scipy.spatial.transform import Rotation

from fastfold_jax.constants import ATOM14_MASK, ATOM37_MASK
from fastfold_jax.geometry import Rigid, frames_from_atom37, rotation_from_quaternion, torsions_from_atom37
from fastfold_jax.geometry.atoms import atom14_to_atom37, atom37_to_atom14

LAYERS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Native:
    """A known structure of one chain or, `copies` side by side, of several with equal sequence."""

    aatype: np.ndarray
    residue_index: np.ndarray
    asym_id: np.ndarray
    positions: np.ndarray
    mask: np.ndarray

    @property
    def residues(self):
        return self.aatype, self.residue_index, self.asym_id

    @property
    def exists(self) -> np.ndarray:
        return ATOM14_MASK[self.aatype]


def native(copies: int = 1) -> Native:
    with np.load(recorded.ROOT / "loss_model_1_ptm.feats.npz", allow_pickle=False) as archive:
        feats = {name: archive[name][0] for name in ("aatype", "residue_index", "all_atom_positions", "all_atom_mask")}
    shifts = np.array([[0.0, 0, 0], [9.0, 4.0, -3.0], [-8.0, 6.0, 5.0]])[:copies, None, None]
    mask = feats["all_atom_mask"].copy()
    mask[4, 5:] = 0  # a side chain and a whole residue that the experiment did not see
    mask[11] = 0
    positions = feats["all_atom_positions"] * mask[..., None]
    return Native(
        aatype=np.tile(feats["aatype"], copies),
        residue_index=np.tile(feats["residue_index"], copies),
        asym_id=np.repeat(np.arange(copies) + 1, len(mask)).astype(np.int32),
        positions=np.concatenate([(positions + shift) * mask[..., None] for shift in shifts]).astype(np.float32),
        mask=np.tile(mask, (copies, 1)),
    )


def predictions(known: Native, noise: float, seed: int = 0) -> dict[str, np.ndarray]:
    """What a structure module might have predicted: the native, each atom moved by `noise` Å, in arrays that losses
    are differentiated by.

    affines: [L, N, 7] backbone frames as quaternion and translation. rotations, translations: [N, 8, ...] frames of
    the rigid groups. atom14: [N, 14, 3]. sin_cos, unnormalized: [L, N, 7, 2].
    """
    rng = np.random.default_rng(seed)
    aatype = jnp.asarray(known.aatype)
    # The unseen atoms are predicted too, somewhere near the Cα of the nearest residue.
    filled = jnp.asarray(
        np.where(
            known.mask[..., None] > 0,
            known.positions,
            known.positions[:, 1:2] + 1.0 + np.arange(37 * 3).reshape(37, 3) % 7,
        )
    )
    moved = jnp.asarray(filled + noise * rng.standard_normal(known.positions.shape, np.float32) / np.sqrt(3))
    atom14, _ = atom37_to_atom14(moved, jnp.asarray(ATOM37_MASK)[aatype], aatype)
    frames = frames_from_atom37(aatype, moved, jnp.asarray(ATOM37_MASK)[aatype]).frames
    torsions = torsions_from_atom37(aatype, moved, jnp.asarray(ATOM37_MASK)[aatype])
    affines = []
    for layer in range(LAYERS):
        turn = Rotation.from_rotvec(0.05 * noise * layer * rng.standard_normal((len(aatype), 3)))
        rotation = Rotation.from_matrix(np.asarray(frames.rotation[:, 0], np.float64)) * turn
        quaternion = np.roll(rotation.as_quat(), 1, axis=-1)  # to scalar first
        affines.append(np.concatenate([quaternion, frames.translation[:, 0]], axis=-1))
    noisy = np.asarray(torsions.sin_cos)[None] * (1 + 0.1 * rng.standard_normal((LAYERS, len(aatype), 7, 1)))
    unit = noisy / np.linalg.norm(noisy, axis=-1, keepdims=True).clip(1e-6)
    arrays = {
        "affines": np.stack(affines),
        "rotations": frames.rotation,
        "translations": frames.translation,
        "atom14": atom14,
        "sin_cos": unit,
        "unnormalized": noisy,
    }
    return {name: np.asarray(value, np.float32) for name, value in arrays.items()}


def trajectory(affines: jax.Array) -> Rigid:
    return Rigid(rotation=rotation_from_quaternion(affines[..., :4]), translation=affines[..., 4:])


def atom37(known: Native, atom14: jax.Array) -> jax.Array:
    return atom14_to_atom37(atom14, jnp.asarray(known.aatype))
