"""Orders the predictions of a run and publishes the order, best first: `ranking.json` and the `ranked_*` structures."""

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastfold_jax.errors import UserError
from fastfold_jax.inference.result import Prediction, Provenance, Scale
from fastfold_jax.inference.writers import copy_atomically, write_json

logger = logging.getLogger(__name__)

RANKING_FILE = "ranking.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finished:
    """What is kept of a prediction once its files are written.

    Attributes:
      name: Model and seed.
      scale: What `ranking_confidence` measures.
      ranking_confidence, mean_plddt, ptm, iptm: As in `Prediction`.
      passes: How many passes it took.
      files: Names of its files in the output directory, structures first.
      provenance: How it was made.
    """

    name: str
    scale: Scale
    ranking_confidence: float
    mean_plddt: float
    ptm: float | None
    iptm: float | None
    passes: int
    files: tuple[str, ...]
    provenance: Provenance

    @classmethod
    def of(cls, prediction: Prediction, files: Sequence[str]) -> "Finished":
        """The summary of `prediction`, written as `files`."""
        return cls(
            name=prediction.name,
            scale=prediction.scale,
            ranking_confidence=prediction.ranking_confidence,
            mean_plddt=prediction.mean_plddt,
            ptm=prediction.ptm,
            iptm=prediction.iptm,
            passes=len(prediction.passes),
            files=tuple(files),
            provenance=prediction.provenance,
        )


def rank(predictions: Sequence[Finished]) -> list[Finished]:
    """Best first; equal ones stay in the order given.

    Raises:
      UserError: if they are not on one scale (monomer models rank by pLDDT, multimer models by ipTM and pTM).
    """
    if len({prediction.scale for prediction in predictions}) > 1:
        raise UserError(
            "monomer and multimer models rank on different scales: predict with one kind of model at a time"
        )
    return sorted(predictions, key=lambda prediction: -prediction.ranking_confidence)


def publish(predictions: Sequence[Finished], directory: Path) -> list[Finished]:
    """Ranks the predictions and writes `ranked_0.pdb`, `ranked_0.cif`, ... (copies) and `ranking.json`.

    `ranked_*` files that an earlier run's `ranking.json` lists and this one does not replace are removed, so that the
    directory never shows a mixture of two runs.

    Raises:
      OutputError: if a file cannot be written.
    """
    ranked = rank(predictions)
    stale = _earlier_files(directory)
    entries = {}
    for place, prediction in enumerate(ranked):
        structures = [name for name in prediction.files if name.endswith((".pdb", ".cif"))]
        copies = [f"ranked_{place}{Path(name).suffix}" for name in structures]
        for source, copy in zip(structures, copies, strict=True):
            copy_atomically(directory / source, directory / copy)
        stale.difference_update(copies)
        entry = {"rank": place, **dataclasses.asdict(prediction, dict_factory=_without_none), "ranked_files": copies}
        entries[entry.pop("name")] = entry
    for name in stale:
        (directory / name).unlink(missing_ok=True)
    warning = next((item.provenance.warning for item in ranked if item.provenance.warning), None)
    content: dict[str, Any] = {
        **({"warning": warning} if warning else {}),
        **{scale: {item.name: item.ranking_confidence for item in ranked} for scale in {item.scale for item in ranked}},
        "order": [item.name for item in ranked],
        "predictions": entries,
    }
    write_json(directory / RANKING_FILE, content, indent=1)
    return ranked


def _without_none(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in items if value is not None}


def _earlier_files(directory: Path) -> set[str]:
    """`ranked_*` files of the run that wrote here before."""
    try:
        entries = json.loads((directory / RANKING_FILE).read_text(encoding="utf-8"))["predictions"].values()
        names = {name for entry in entries for name in entry["ranked_files"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()  # none, or somebody else's file of that name
    return {name for name in names if Path(name).name == name and name.startswith("ranked_")}
