"""What became of each job of a run, told in the log and in `summary.csv`."""

import csv
import dataclasses
import io
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from fastfold_jax.data import layout
from fastfold_jax.inference.files import write_atomically
from fastfold_jax.inference.ranking import Finished
from fastfold_jax.inference.result import scores_text

logger = logging.getLogger(__name__)

_MOST_NAMES = 5  # of jobs that failed alike
_COLUMNS = (
    "job",
    "status",
    "residues",
    "predictions",
    "best",
    "mean_plddt",
    "ptm",
    "iptm",
    "ranking_confidence",
    "directory",
    "error",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobOutcome:
    """A job that has come to an end.

    Attributes:
      name: The job's name.
      directory: Where the job's files are.
      num_res: Residues; 0 if they never became known.
      ranked: The job's predictions, best first; those from an earlier run too.
      made: Number of predictions that this run made.
      error: Why the job is not complete, if it is not.
    """

    name: str
    directory: Path
    num_res: int
    ranked: tuple[Finished, ...]
    made: int
    error: Exception | None = None

    @property
    def status(self) -> str:
        """One word."""
        return "failed" if self.error is not None else "done" if self.made else "kept"

    def log(self) -> None:
        """Its predictions, a line each."""
        for place, item in enumerate(self.ranked):
            path = self.directory / f"ranked_{place}{Path(item.files[0]).suffix}"
            logger.info("%s  %s  %s", path, scores_text(item.mean_plddt, item.ptm, item.iptm), item.name)
        if self.error is None and not self.made:
            logger.info("%s: finished by an earlier run, and still whole", self.name)


def by_error(failed: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Names of jobs and why each failed, those that failed alike together: what ails many is told once."""
    alike: dict[str, list[str]] = {}
    for name, error in failed:
        alike.setdefault(error, []).append(name)
    return [(_listed(names), error) for error, names in alike.items()]


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def write_summary(outcomes: Sequence[JobOutcome], directory: Path) -> None:
    """`summary.csv`: a row a job, in the input's order, with the scores of its best prediction.

    Raises:
      OutputError: if it cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for outcome in outcomes:
        row = {
            "job": outcome.name,
            "status": "failed" if outcome.error is not None else "done",
            "residues": outcome.num_res or "",
            "predictions": len(outcome.ranked),
            "directory": outcome.directory.name,
            "error": "" if outcome.error is None else str(outcome.error),
        }
        if outcome.ranked:
            best = outcome.ranked[0]
            row["best"] = best.name
            for score in ("mean_plddt", "ptm", "iptm", "ranking_confidence"):
                value = getattr(best, score)
                row[score] = "" if value is None else f"{value:.4f}"
        writer.writerow(row)
    write_atomically(directory / layout.SUMMARY, text.getvalue())
