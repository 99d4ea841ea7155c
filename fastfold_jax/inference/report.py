"""`report.html`: one file that shows a job's predictions in any browser, without a network."""

import base64
import dataclasses
import html
import importlib.resources
import json
import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from fastfold_jax.constants import RESTYPES_WITH_X
from fastfold_jax.constants.atoms import ATOM37_INDEX, ATOM37_NAMES
from fastfold_jax.geometry.superposition import superposition
from fastfold_jax.inference.citations import Served, bibtex, papers
from fastfold_jax.inference.config import InferenceConfig
from fastfold_jax.inference.coverage import Coverage
from fastfold_jax.inference.plots import PLDDT_CLASSES
from fastfold_jax.inference.provenance import LICENCE
from fastfold_jax.inference.ranking import Finished
from fastfold_jax.inference.reproduce import command_line
from fastfold_jax.inference.result import MAX_ALIGNED_ERROR, Prediction

REPORT_FILE = "report.html"

_MOST_CELLS = 512  # of a matrix's side; larger ones are averaged, which keeps a report within a few MB
_MOST_COORDINATE = 32_767


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page:
    """What the report is about.

    Attributes:
      job: The job's name.
      ranked: All predictions, best first.
      shown: The first of them, with coordinates (those of the relaxed structure where there is one); the later ones are
        listed only.
      relaxed: Figures of relaxations, by name, as `ranking.json` holds them.
      coverage: Coverage of the alignment.
      config: The run, whose command the page states.
    """

    job: str
    ranked: Sequence[Finished]
    shown: Sequence[Prediction]
    relaxed: Mapping[str, Mapping[str, Any]]
    coverage: Coverage
    config: InferenceConfig


def report_html(page: Page) -> str:
    """The page as HTML."""
    data = _data(page)
    # In a script element only "</" and "<!--" could end the data early.
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    return string.Template(_asset("report.html")).substitute(
        title=html.escape(f"{page.job} – {data['about']}"),
        css=_asset("report.css"),
        data=text,
        viewer=_asset("viewer.js"),
        script=_asset("report.js"),
    )


def _asset(name: str) -> str:
    return (importlib.resources.files(__package__) / "assets" / name).read_text(encoding="utf-8")


def _data(page: Page) -> dict[str, Any]:
    best = page.shown[0]
    errors = best.pae is not None
    cited = papers(Served(multimer=best.scale == "iptm+ptm", complex=len(best.chains) > 1), page.config)
    warning = best.provenance.warning
    reference = _alphas(best)
    return {
        "job": page.job,
        "about": f"{_about(best)}, predicted by {best.provenance.program}",
        "warning": warning,
        "chains": [
            {"id": chain.id, "description": chain.description, "start": chain.start, "length": len(chain.aatype)}
            for chain in best.chains
        ],
        "names": "".join(RESTYPES_WITH_X[restype] for restype in best.aatype),
        "numbers": [int(number) for chain in best.chains for number in chain.numbers],
        "atomNames": list(ATOM37_NAMES),
        "ranking": [_row(place, item, page.relaxed.get(item.name)) for place, item in enumerate(page.ranked)],
        "models": [_model(prediction, reference, errors=errors) for prediction in page.shown],
        "side": min(len(best.plddt), _MOST_CELLS),
        "matrixKind": "pae" if errors else "contact",
        "matrixTop": MAX_ALIGNED_ERROR if errors else 1.0,
        "plddtClasses": [list(each) for each in PLDDT_CLASSES],
        "coverage": page.coverage.to_json(),
        "settings": _settings(best, page.ranked),
        "command": command_line(page.config),
        "citations": [] if warning else [str(paper) for paper in cited],
        "bibtex": "" if warning else bibtex(cited),
        "licence": "" if warning else LICENCE,
    }


def _about(prediction: Prediction) -> str:
    number = len(prediction.chains)
    chains = f"{number} chains, " if number > 1 else ""
    return f"{chains}{len(prediction.plddt)} residues"


def _row(place: int, item: Finished, relaxed: Mapping[str, Any] | None) -> dict[str, Any]:
    relaxed = relaxed or {}
    counts = [relaxed[key]["residues"] for key in ("violations_before", "violations_after") if key in relaxed]
    return {
        "name": item.name,
        "mean_plddt": item.mean_plddt,
        "ptm": item.ptm,
        "iptm": item.iptm,
        # A monomer's is its mean pLDDT, which has a column already.
        "ranking_confidence": item.ranking_confidence if item.scale == "iptm+ptm" else None,
        "passes": item.passes,
        "violations": counts or None,
        "relaxation_problem": relaxed.get("problem"),
        "file": f"ranked_{place}.cif",
        "interfaces": [dict(interface) for interface in item.interfaces],
        "templates": [{"of": chain, **used} for chain, found in item.templates.items() for used in found],
    }


def _settings(best: Prediction, ranked: Sequence[Finished]) -> list[tuple[str, str]]:
    source = best.provenance
    parameters = sorted({item.provenance.parameters for item in ranked})
    return [
        ("program", source.program),
        ("models", ", ".join(dict.fromkeys(item.provenance.model for item in ranked))),
        ("parameters", ", ".join(parameters)),
        ("seeds", ", ".join(map(str, sorted({item.provenance.seed for item in ranked})))),
        ("MSA rows a pass", source.rows),
        *([("dropout", "on")] if source.dropout else []),
        *([("initial guess", source.initial_guess)] if source.initial_guess else []),
        ("activations", source.precision),
        ("platform", source.platform),
        ("sequence", best.sequence),
        *((f"chain {chain.id}", chain.description) for chain in best.chains if chain.description),
    ]


def _alphas(prediction: Prediction) -> Float[np.ndarray, "n 3"]:
    """Cα positions, NaN where there is none."""
    column = ATOM37_INDEX["CA"]
    known = prediction.atom_mask[:, column] > 0.5
    return np.where(known[:, None], prediction.atom_positions[:, column], np.nan).astype(np.float64)


def _model(prediction: Prediction, reference: Float[np.ndarray, "n 3"], *, errors: bool) -> dict[str, Any]:
    """A prediction laid over the best one; coordinates as 16-bit steps, matrices as bytes."""
    positions = _superpose(prediction.atom_positions.astype(np.float64), _alphas(prediction), reference)
    present = prediction.atom_mask > 0.5
    atoms = positions[present]
    scale = max(float(np.abs(atoms).max(initial=0.0)) / _MOST_COORDINATE, 1e-3)
    matrix = prediction.pae if errors else prediction.contact_probability
    top = MAX_ALIGNED_ERROR if errors else 1.0
    return {
        "name": prediction.name,
        "plddt": [round(float(value), 1) for value in prediction.plddt],
        "scale": scale,
        "counts": _text(present.sum(axis=1).astype(np.uint8)),
        "types": _text(np.nonzero(present)[1].astype(np.uint8)),
        "xyz": _text(np.round(atoms / scale).astype("<i2")),
        "matrix": None if matrix is None else _text(_bytes(matrix.astype(np.float32) / top)),
    }


def _superpose(
    positions: Float[np.ndarray, "n 37 3"], alphas: Float[np.ndarray, "n 3"], reference: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "n 37 3"]:
    """Moved and turned so that Cα atoms lie over the reference's, whose centre becomes the origin."""
    both = ~np.isnan(alphas + reference).any(axis=1)
    if not both.any():
        return positions
    rotation, shift = superposition(alphas[both], reference[both])
    return positions @ rotation + shift - reference[both].mean(axis=0)


def _bytes(matrix: Float[np.ndarray, "n n"]) -> UInt8[np.ndarray, "m m"]:
    """0..1 as 0..255, averaged over neighbouring residues where there are more than `_MOST_CELLS`."""
    n = len(matrix)
    if n > _MOST_CELLS:
        starts = np.arange(_MOST_CELLS) * n // _MOST_CELLS
        sizes = np.diff(np.append(starts, n))
        matrix = np.add.reduceat(np.add.reduceat(matrix, starts, axis=0), starts, axis=1) / np.outer(sizes, sizes)
    return np.round(np.clip(matrix, 0, 1) * 255).astype(np.uint8)


def _text(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
