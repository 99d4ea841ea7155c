"""Relaxes a prediction and writes the relaxed structure beside it."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastfold_jax.inference.files import write_atomically
from fastfold_jax.inference.mmcif import mmcif_text
from fastfold_jax.inference.relax import RelaxOptions, RelaxResult, relax
from fastfold_jax.inference.relax_violations import Violations
from fastfold_jax.inference.result import Prediction
from fastfold_jax.inference.structure import build_structure, pdb_obstacle, pdb_text

logger = logging.getLogger(__name__)


def relax_prediction(
    prediction: Prediction, directory: Path, job: str, options: RelaxOptions
) -> tuple[Sequence[str], dict[str, Any]]:
    """Writes `*_relaxed.pdb` and `.cif`; returns their names and the relaxation's figures as JSON holds them.

    Raises:
      UserError: if relaxation fails or a file cannot be written.
    """
    stem = f"{job}_{prediction.name}_relaxed"
    result = relax(build_structure(prediction, stem), options)
    figures = _figures(result)
    logger.info(
        "%s relaxed: residues with violations %d -> %d, moved by %.2f Å",
        prediction.name,
        result.before.count,
        result.after.count,
        result.rmsd,
    )
    texts = {f"{stem}.cif": mmcif_text(result.structure, prediction)}
    obstacle = pdb_obstacle(result.structure)
    if obstacle:
        logger.warning("%s: no PDB file, only mmCIF: %s", stem, obstacle)
    else:
        texts = {f"{stem}.pdb": pdb_text(result.structure), **texts}
    for name, text in texts.items():
        write_atomically(directory / name, text)
    return list(texts), figures


def _figures(result: RelaxResult) -> dict[str, Any]:
    return {
        "violations_before": _shares(result.before),
        "violations_after": _shares(result.after),
        "energy_kcal_per_mol": [round(result.initial_energy, 1), round(result.final_energy, 1)],
        "rmsd_angstrom": round(result.rmsd, 3),
        "rounds": result.rounds,
        "platform": result.platform,
    }


def _shares(violations: Violations) -> dict[str, Any]:
    fields = {field.name: getattr(violations, field.name) for field in dataclasses.fields(violations)}
    shares = {name: round(value, 4) for name, value in fields.items() if isinstance(value, float)}
    return {"residues": violations.count, **shares}
