"""The eight rigid groups of a residue: which atoms each carries, where, and how each group hangs on the one before.

Groups: 0 backbone, 1 pre-omega (no heavy atom), 2 phi (no heavy atom), 3 psi, 4-7 chi 1-4 (supplement, Table S2).
Row 20, the unknown type, has no atoms; its frames are all zero, as in DeepMind's tables.
"""

import numpy as np

from fastfold_jax.constants.atoms import ATOM37_INDEX, CHI_MASK
from fastfold_jax.constants.read import frozen, read_rows
from fastfold_jax.constants.residues import RESTYPE_3_INDEX, residues

NUM_GROUPS: int = 8


def _ideal_atoms() -> dict[str, dict[str, tuple[int, np.ndarray]]]:
    """Code -> atom -> (group, position in the group's frame in Å)."""
    atoms: dict[str, dict[str, tuple[int, np.ndarray]]] = {}
    for code, group, *entries in read_rows("rigid_groups"):
        for entry in entries:
            name, *position = entry.split()
            atoms.setdefault(code, {})[name] = int(group), np.array([float(x) for x in position])
    return atoms


_IDEAL_ATOMS = _ideal_atoms()


def _atom14_tables() -> tuple[np.ndarray, np.ndarray]:
    group = np.zeros((21, 14), np.int32)
    position = np.zeros((21, 14, 3), np.float32)
    for restype, residue in enumerate(residues()):
        for column, name in enumerate(residue.atoms):
            group[restype, column], position[restype, column] = _IDEAL_ATOMS[residue.code][name]
    return frozen(group), frozen(position)


ATOM14_TO_GROUP, ATOM14_POSITION = _atom14_tables()
"""[21, 14] int32: the group that carries each atom; [21, 14, 3] float32: its position in that group's frame, Å."""


def _frame(x_axis: np.ndarray, xy_plane: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """[4, 4] transformation whose frame has this x axis, `xy_plane` on the y > 0 side of its xy plane, this origin."""
    x = x_axis / np.linalg.norm(x_axis)
    y = xy_plane - np.dot(xy_plane, x) * x
    y /= np.linalg.norm(y)
    frame = np.eye(4)
    frame[:3] = np.stack([x, y, np.cross(x, y), origin], axis=1)
    return frame


def _default_frames() -> np.ndarray:
    frames = np.zeros((21, NUM_GROUPS, 4, 4), np.float32)
    for residue in residues():
        of_type = frames[RESTYPE_3_INDEX[residue.code]]
        at = {name: position for name, (_, position) in _IDEAL_ATOMS[residue.code].items()}
        of_type[0] = of_type[1] = np.eye(4)
        of_type[2] = _frame(at["N"] - at["CA"], np.array([1.0, 0.0, 0.0]), at["N"])
        of_type[3] = _frame(at["C"] - at["CA"], at["CA"] - at["N"], at["C"])
        for chi, (start, pivot, end, _) in enumerate(residue.chi_atoms):
            if chi == 0:  # hangs on the backbone, where all four atoms are known
                of_type[4] = _frame(at[end] - at[pivot], at[start] - at[pivot], at[end])
            else:  # hangs on the previous chi group, whose axis comes along -x and ends in the origin
                of_type[4 + chi] = _frame(at[end], np.array([-1.0, 0.0, 0.0]), at[end])
    return frozen(frames)


DEFAULT_FRAMES: np.ndarray = _default_frames()
"""[21, 8, 4, 4] float32: each group's frame at torsion 0 in the frame it hangs on (groups 0-4 on the backbone, chi 2-4
on the chi before), Å; zero for groups that do not exist."""


def _base_atoms() -> tuple[np.ndarray, np.ndarray]:
    base = np.zeros((21, NUM_GROUPS, 3), np.int32)
    base[:, 0] = [ATOM37_INDEX[name] for name in ("C", "CA", "N")]
    base[:, 3] = [ATOM37_INDEX[name] for name in ("CA", "C", "O")]
    for restype, residue in enumerate(residues()):
        for chi, names in enumerate(residue.chi_atoms):
            base[restype, 4 + chi] = [ATOM37_INDEX[name] for name in names[1:]]
    mask = np.zeros((21, NUM_GROUPS), np.float32)
    mask[:, 0] = 1
    mask[:, 3] = 1
    mask[:, 4:] = CHI_MASK
    return frozen(base), frozen(mask)


GROUP_BASE_ATOM37, GROUP_MASK = _base_atoms()
"""[21, 8, 3] int32: atom37 columns of the atoms that fix a group's frame (on the -x axis, origin, xy plane), 0 for
groups that no heavy atom fixes; [21, 8] float32: which groups heavy atoms fix."""


def _ambiguous_groups() -> np.ndarray:
    ambiguous = np.zeros((21, NUM_GROUPS), np.float32)
    for restype, residue in enumerate(residues()):
        if residue.swaps:
            ambiguous[restype, 4 + len(residue.chi_atoms) - 1] = 1
    return frozen(ambiguous)


GROUP_AMBIGUOUS: np.ndarray = _ambiguous_groups()
"""[21, 8] float32: 1 where swapping the residue's ambiguous atoms turns the group's frame by half a turn about x."""
