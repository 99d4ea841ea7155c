"""PNG plots of a job's predictions: alignment coverage, pLDDT, aligned errors, contacts."""

import io
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from fastfold_jax.inference.coverage import IDENTITY_EDGES, Coverage
from fastfold_jax.inference.files import write_atomically
from fastfold_jax.inference.result import MAX_ALIGNED_ERROR, Prediction

PLDDT_CLASSES = (
    (90.0, "#0053d6", "very high"),
    (70.0, "#65cbf3", "high"),
    (50.0, "#ffdb13", "low"),
    (0.0, "#ff7d45", "very low"),
)
"""Lower bound, colour and name of each class of pLDDT, as the AlphaFold Protein Structure Database draws them."""

_DPI = 150
_IDENTITY_COLOURS = ("#d0d8e8", "#a9bddc", "#7b9ccb", "#4a78b5", "#1f4f91")
_PANEL = 3.2  # inches


def write_plots(ranked: Sequence[Prediction], coverage: Coverage, directory: Path) -> list[str]:
    """Writes `coverage.png`, `plddt.png`, `pae.png` (if the models predict it) and `distogram.png`; returns the names.

    Args:
      ranked: Predictions of one job, best first; each gets a line or a panel.
      coverage: Coverage of the job's alignment.
      directory: Where the files go.

    Raises:
      ImportError: if matplotlib is not installed.
      OutputError: if a file cannot be written.
    """
    drawn: dict[str, Callable[[Any], None]] = {
        "coverage.png": lambda figure: draw_coverage(figure, coverage, ranked[0]),
        "plddt.png": lambda figure: draw_plddt(figure, ranked),
        "distogram.png": lambda figure: draw_contacts(figure, ranked),
    }
    if ranked[0].pae is not None:
        drawn["pae.png"] = lambda figure: draw_pae(figure, ranked)
    for name, draw in drawn.items():
        write_atomically(directory / name, _png(draw))
    return list(drawn)


def draw_coverage(figure: Any, coverage: Coverage, prediction: Prediction) -> None:
    """Rows with a letter at each residue, stacked by identity to the query."""
    figure.set_size_inches(8, 3.5)
    axes = figure.subplots()
    x = np.arange(1, coverage.depth.shape[1] + 1)
    percent = [f"{round(100 * edge)}" for edge in IDENTITY_EDGES]
    labels = [f"{low}-{high} % identical" for low, high in pairwise(percent)]
    edges = np.concatenate([x - 0.5, [x[-1] + 0.5]])
    base = np.zeros(len(x))
    for depth, colour, label in reversed(list(zip(coverage.depth, _IDENTITY_COLOURS, labels, strict=True))):
        axes.stairs(base + depth, edges, baseline=base, fill=True, color=colour, label=label)
        base = base + depth
    _mark_chains(axes, prediction, vertical=True)
    axes.set(xlim=(0.5, len(x) + 0.5), xlabel="residue", ylabel="sequences", title=f"{coverage.rows:,} sequences")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7, loc="upper right")


def draw_plddt(figure: Any, ranked: Sequence[Prediction]) -> None:
    """pLDDT along the chains, a line a prediction."""
    figure.set_size_inches(8, 3.5)
    axes = figure.subplots()
    upper = 100.0
    for low, colour, _ in PLDDT_CLASSES:
        axes.axhspan(low, upper, color=colour, alpha=0.12, linewidth=0)
        upper = low
    for place, prediction in enumerate(ranked):
        x = np.arange(1, len(prediction.plddt) + 1)
        axes.plot(x, prediction.plddt, linewidth=1, label=f"rank {place}: {prediction.name}")
    _mark_chains(axes, ranked[0], vertical=True)
    axes.set(xlim=(1, max(len(ranked[0].plddt), 2)), ylim=(0, 100), xlabel="residue", ylabel="pLDDT")
    axes.legend(fontsize=7, loc="lower right")


def draw_pae(figure: Any, ranked: Sequence[Prediction]) -> None:
    """Aligned errors, a panel a prediction, lines between chains."""
    panels = [(_titled(place, prediction), prediction.pae) for place, prediction in enumerate(ranked)]
    label = "expected position error (Å)"
    _draw_matrices(figure, panels, ranked[0], colours="Greens_r", top=MAX_ALIGNED_ERROR, label=label)


def draw_contacts(figure: Any, ranked: Sequence[Prediction]) -> None:
    """Probability by the distogram that Cβ atoms are within 8 Å, a panel a prediction."""
    panels = [(_titled(place, prediction), prediction.contact_probability) for place, prediction in enumerate(ranked)]
    _draw_matrices(figure, panels, ranked[0], colours="Blues", top=1.0, label="probability of Cβ within 8 Å")


def _titled(place: int, prediction: Prediction) -> str:
    return f"rank {place}\n{prediction.name}"


def _draw_matrices(
    figure: Any, panels: Sequence[tuple[str, Any]], prediction: Prediction, *, colours: str, top: float, label: str
) -> None:
    figure.set_size_inches(_PANEL * len(panels) + 1, _PANEL + 0.6)
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    n = len(prediction.plddt)
    for axes, (title, matrix) in zip(row, panels, strict=True):
        image = axes.imshow(
            matrix, cmap=colours, vmin=0, vmax=top, extent=(0.5, n + 0.5, n + 0.5, 0.5), interpolation="nearest"
        )
        _mark_chains(axes, prediction, vertical=True)
        _mark_chains(axes, prediction, vertical=False)
        axes.set_title(title, fontsize=8)
        axes.tick_params(labelsize=7)
    figure.colorbar(image, ax=list(row), label=label, fraction=0.05, pad=0.02)


def _mark_chains(axes: Any, prediction: Prediction, *, vertical: bool) -> None:
    """Lines between chains, and their names where there are several."""
    line = axes.axvline if vertical else axes.axhline
    for chain in prediction.chains[1:]:
        line(chain.start + 0.5, color="black", linewidth=0.8)
    if vertical and len(prediction.chains) > 1:
        for chain in prediction.chains:
            axes.annotate(
                chain.id,
                ((chain.start + chain.stop) / 2 + 0.5, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, -1),
                textcoords="offset points",
                ha="center",
                va="top",
                fontsize=7,
            )


def _png(draw: Callable[[Any], None]) -> bytes:
    """What a drawing puts on a figure of its own; touches none of matplotlib's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()
