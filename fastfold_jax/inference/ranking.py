"""Orders the predictions of a job, best first, and writes the order: `ranking.json` and the `ranked_*` structures."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastfold_jax.errors import UserError
from fastfold_jax.inference.files import copy_atomically, write_json
from fastfold_jax.inference.interfaces import score_interfaces
from fastfold_jax.inference.result import Prediction, Provenance, Scale

RANKING_FILE = "ranking.json"
_STRUCTURES = (".pdb", ".cif")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finished:
    """What is kept of a prediction once its files are written.

    Attributes:
      name: Model and seed.
      scale: What `ranking_confidence` measures.
      ranking_confidence, mean_plddt, ptm, iptm: As in `Prediction`.
      passes: Number of passes.
      files: Names of its files in the output directory, structures first.
      interfaces: Scores of each two chains, as JSON holds them.
      templates: What the network looked at, by chain, likewise.
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
    interfaces: tuple[Mapping[str, Any], ...] = ()
    templates: Mapping[str, Any] = dataclasses.field(default_factory=dict)
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
            interfaces=tuple(interface.to_json() for interface in score_interfaces(prediction)),
            templates={
                chain.id: [template.to_json() for template in chain.templates]
                for chain in prediction.chains
                if chain.templates
            },
            provenance=prediction.provenance,
        )

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Finished":
        """The inverse of `to_json`.

        Raises:
          KeyError, TypeError: if it is anything else.
        """
        fields = {**content, "files": tuple(content["files"]), "interfaces": tuple(content["interfaces"])}
        return cls(**{**fields, "provenance": Provenance(**content["provenance"])})

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


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


def write_ranking(
    ranked: Sequence[Finished], directory: Path, relaxed: Mapping[str, tuple[Sequence[str], Mapping[str, Any]]]
) -> list[str]:
    """Writes `ranked_0.pdb`, `ranked_0.cif`, ... (copies) and `ranking.json`, and returns their names.

    Args:
      ranked: The predictions, best first.
      directory: The job's directory.
      relaxed: Structure files that take the place of a prediction's own, if any, and the figures of the relaxation, by
        name.

    Raises:
      OutputError: if a file cannot be written.
    """
    written = []
    entries = {}
    for place, prediction in enumerate(ranked):
        files, figures = relaxed.get(prediction.name, ((), None))
        structures = [name for name in files or prediction.files if name.endswith(_STRUCTURES)]
        copies = [f"ranked_{place}{Path(name).suffix}" for name in structures]
        for source, copy in zip(structures, copies, strict=True):
            copy_atomically(directory / source, directory / copy)
        written += copies
        entry = {"rank": place, **prediction.to_json(), "ranked_files": copies, "relaxation": figures}
        entries[entry.pop("name")] = _without_none(entry)
    warning = next((item.provenance.warning for item in ranked if item.provenance.warning), None)
    content: dict[str, Any] = {
        **({"warning": warning} if warning else {}),
        **{scale: {item.name: item.ranking_confidence for item in ranked} for scale in {item.scale for item in ranked}},
        "order": [item.name for item in ranked],
        "predictions": entries,
    }
    write_json(directory / RANKING_FILE, content, indent=1)
    return [*written, RANKING_FILE]


def _without_none(content: Any) -> Any:
    if not isinstance(content, dict):
        return content
    return {key: _without_none(value) for key, value in content.items() if value is not None}
