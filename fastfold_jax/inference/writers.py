"""Files of a prediction: PDB, mmCIF, confidence and aligned errors as JSON, and all of it as arrays."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastfold_jax.inference.arrays import ARRAYS_SUFFIX, prediction_bytes
from fastfold_jax.inference.files import write_atomically, write_json
from fastfold_jax.inference.mmcif import mmcif_text
from fastfold_jax.inference.result import MAX_ALIGNED_ERROR, Prediction
from fastfold_jax.inference.structure import build_structure, pdb_obstacle, pdb_text

logger = logging.getLogger(__name__)

_CATEGORIES = ((90.0, "H"), (70.0, "M"), (50.0, "L"), (-np.inf, "D"))  # high, medium, low, disordered


def confidence_json(prediction: Prediction) -> dict[str, Any]:
    """Each residue's pLDDT in the AlphaFold Protein Structure Database's form; residues count through all chains."""
    plddt = np.round(prediction.plddt.astype(np.float64), 2)
    return _warned(
        prediction,
        {
            "residueNumber": list(range(1, len(plddt) + 1)),
            "confidenceScore": plddt.tolist(),
            "confidenceCategory": [next(category for low, category in _CATEGORIES if score >= low) for score in plddt],
        },
    )


def pae_json(prediction: Prediction) -> list[dict[str, Any]]:
    """Aligned errors (Å; row: residue aligned on, column: residue whose error it is) in that database's form.

    Raises:
      ValueError: if the network has no aligned error head.
    """
    if prediction.pae is None:
        raise ValueError(f"{prediction.provenance.model} predicts no aligned errors")
    rows = np.round(prediction.pae.astype(np.float64), 2).tolist()
    content = {"predicted_aligned_error": rows, "max_predicted_aligned_error": MAX_ALIGNED_ERROR}
    return [_warned(prediction, content)]


def scores_json(prediction: Prediction) -> dict[str, Any]:
    """The same, with pTM and ipTM, in the form of ColabFold's `scores` files, which tools for its results read."""
    content: dict[str, Any] = {"plddt": np.round(prediction.plddt.astype(np.float64), 2).tolist()}
    if prediction.pae is not None:
        pae = prediction.pae.astype(np.float64)
        content |= {"max_pae": float(pae.max()), "pae": np.round(pae, 2).tolist()}
    given = {"ptm": prediction.ptm, "iptm": prediction.iptm}
    content |= {name: round(value, 2) for name, value in given.items() if value is not None}
    return _warned(prediction, content)


def _warned(prediction: Prediction, content: Mapping[str, Any]) -> dict[str, Any]:
    """The same with a field `warning` where there is something to warn of."""
    warning = prediction.provenance.warning
    return {**content, **({"warning": warning} if warning else {})}


def mmcif_string(prediction: Prediction, name: str) -> str:
    """The structure in mmCIF format."""
    return mmcif_text(build_structure(prediction, name), prediction)


def write_prediction(prediction: Prediction, directory: Path, job: str) -> Sequence[str]:
    """Writes all files of one prediction and returns their names, structures first.

    The PDB file is left out, with a warning in the log, where that format cannot hold the structure.

    Raises:
      OutputError: if a file cannot be written.
    """
    stem = f"{job}_{prediction.name}"
    structure = build_structure(prediction, stem)
    texts: dict[str, str] = {}
    obstacle = pdb_obstacle(structure)
    if obstacle:
        logger.warning("%s: no PDB file, only mmCIF: %s", stem, obstacle)
    else:
        texts[f"{stem}.pdb"] = pdb_text(structure)
    texts[f"{stem}.cif"] = mmcif_text(structure, prediction)
    for name, text in texts.items():
        write_atomically(directory / name, text)
    written = list(texts)
    documents: dict[str, Any] = {f"{stem}_confidence.json": confidence_json(prediction)}
    if prediction.pae is not None:
        documents[f"{stem}_pae.json"] = pae_json(prediction)
    documents[f"{stem}_scores.json"] = scores_json(prediction)
    for name, content in documents.items():
        write_json(directory / name, content)
    arrays = f"{stem}{ARRAYS_SUFFIX}"
    write_atomically(directory / arrays, prediction_bytes(prediction))
    return [*written, *documents, arrays]
