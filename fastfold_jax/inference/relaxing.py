"""Relaxes a prediction, writes the relaxed structure beside it, and reads it again."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gemmi
import numpy as np

from fastfold_jax.constants.atoms import ATOM37_INDEX
from fastfold_jax.inference.files import write_atomically
from fastfold_jax.inference.mmcif import mmcif_text
from fastfold_jax.inference.provenance import Relaxation
from fastfold_jax.inference.relax import RelaxOptions, RelaxResult, relax
from fastfold_jax.inference.relax_openmm import RelaxFailed
from fastfold_jax.inference.relax_violations import Violations
from fastfold_jax.inference.result import Prediction
from fastfold_jax.inference.structure import build_structure, mark_relaxed, pdb_obstacle, pdb_text

logger = logging.getLogger(__name__)


def relax_prediction(
    prediction: Prediction, directory: Path, job: str, options: RelaxOptions
) -> tuple[Sequence[str], dict[str, Any]]:
    """Writes `*_relaxed.pdb` and `.cif`; returns their names and the relaxation's figures as JSON holds them.

    A structure that cannot be relaxed has no files, and the reason as its figures.

    Raises:
      UserError: if nothing can be relaxed here, or a file cannot be written.
    """
    stem = f"{job}_{prediction.name}_relaxed"
    try:
        result = relax(build_structure(prediction, stem), options)
    except RelaxFailed as error:
        logger.warning("%s: not relaxed: %s", prediction.name, error)
        return (), {"problem": str(error)}
    figures = _figures(result)
    logger.log(
        logging.WARNING if result.problem else logging.INFO,
        "%s relaxed%s: residues with violations %d -> %d, moved by %.2f Å",
        *(prediction.name, f", {result.problem}" if result.problem else ""),
        *(result.before.count, result.after.count, result.rmsd),
    )
    relaxation = _relaxation(result)
    mark_relaxed(result.structure, prediction, relaxation)
    texts = {f"{stem}.cif": mmcif_text(result.structure, prediction, relaxation)}
    obstacle = pdb_obstacle(result.structure)
    if obstacle:
        logger.warning("%s: no PDB file, only mmCIF: %s", stem, obstacle)
    else:
        texts = {f"{stem}.pdb": pdb_text(result.structure), **texts}
    for name, text in texts.items():
        write_atomically(directory / name, text)
    return list(texts), figures


def read_relaxed(prediction: Prediction, path: Path) -> Prediction:
    """The prediction with the atoms of its relaxed structure, hydrogens left out.

    Args:
      prediction: As it was predicted.
      path: The mmCIF file that `relax_prediction` wrote.
    """
    positions = np.zeros_like(prediction.atom_positions)
    mask = np.zeros_like(prediction.atom_mask)
    starts = {chain.id: chain.start for chain in prediction.chains}
    for chain in gemmi.read_structure(str(path))[0]:
        for residue in chain:
            assert residue.label_seq is not None, "files of ours number residues by sequence"
            row = starts[chain.name] + residue.label_seq - 1
            for atom in residue:
                if (column := ATOM37_INDEX.get(atom.name)) is not None:
                    positions[row, column] = atom.pos.tolist()
                    mask[row, column] = 1
    return dataclasses.replace(prediction, atom_positions=positions, atom_mask=mask)


def _relaxation(result: RelaxResult) -> Relaxation:
    problem = f" ({result.problem})" if result.problem else ""
    return Relaxation(
        program=result.program,
        details=(
            f"Relaxed by {result.program} in Amber's ff14SB force field, hydrogens added: {result.steps:,} steps in "
            f"{result.rounds} minimisation{'' if result.rounds == 1 else 's'}{problem}."
        ),
    )


def _figures(result: RelaxResult) -> dict[str, Any]:
    return {
        "violations_before": _shares(result.before),
        "violations_after": _shares(result.after),
        "energy_kcal_per_mol": [round(result.initial_energy, 1), round(result.final_energy, 1)],
        "rmsd_angstrom": round(result.rmsd, 3),
        "rounds": result.rounds,
        "steps": result.steps,
        "platform": result.platform,
        **({"problem": result.problem} if result.problem else {}),
    }


def _shares(violations: Violations) -> dict[str, Any]:
    fields = {field.name: getattr(violations, field.name) for field in dataclasses.fields(violations)}
    shares = {name: round(value, 4) for name, value in fields.items() if isinstance(value, float)}
    return {"residues": violations.count, **shares}
