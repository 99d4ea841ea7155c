"""What a reader opens first: the ranked structures of a job, plots, and the report."""

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastfold_jax.errors import UserError
from fastfold_jax.inference import fingerprint
from fastfold_jax.inference.arrays import ARRAYS_SUFFIX, load_prediction
from fastfold_jax.inference.citations import BIBLIOGRAPHY_FILE, Served, bibtex, papers
from fastfold_jax.inference.config import InferenceConfig
from fastfold_jax.inference.coverage import Coverage
from fastfold_jax.inference.files import write_atomically
from fastfold_jax.inference.manifest import Manifest
from fastfold_jax.inference.plots import write_plots
from fastfold_jax.inference.ranking import Finished, rank, write_ranking
from fastfold_jax.inference.relaxing import read_relaxed, relax_prediction
from fastfold_jax.inference.report import REPORT_FILE, Page, report_html
from fastfold_jax.inference.result import Prediction
from fastfold_jax.inference.timings import Timings

logger = logging.getLogger(__name__)

_ANSWER = "answer"

_Relaxed = tuple[Sequence[str], Mapping[str, Any]]
"""Files of a relaxed structure, none where that failed, and figures."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """The finished predictions of a job.

    Attributes:
      job: The job's name.
      directory: Where the job's files are.
      finished: The job's predictions, unordered.
      manifest: Manifest of the directory, which lists them.
      coverage: Coverage of the alignment.
      timings: Seconds of each part.
    """

    job: str
    directory: Path
    finished: Sequence[Finished]
    manifest: Manifest
    coverage: Coverage
    timings: Timings


def publish(answer: Answer, config: InferenceConfig) -> list[Finished]:
    """Ranks, relaxes, plots and reports; returns the predictions, best first.

    Nothing is done where all of that is there already, made from these predictions, unless it is to be made again.

    Everything is made from the files of the predictions, never from memory, so that a run that was stopped and started
    again gives the same. Files that an earlier answer left in the directory and this one does not replace are removed,
    so that it never shows a mixture of two runs.

    Raises:
      UserError: if nothing can be relaxed here (the rest is written nevertheless) or a file cannot be written.
    """
    ranked = rank(answer.finished)
    made_from = fingerprint.of_options(
        predictions=[(item.name, answer.manifest.digest(item.name)) for item in ranked],
        relaxation=config.relaxation,
        answer=config.answer,
        plots=config.answer.plots and _can_plot(),
    )
    if not config.jobs.redo and answer.manifest.finished(_ANSWER, made_from) is not None:
        return ranked
    stale = set(answer.manifest.files(_ANSWER))
    relaxed, failure = _relax(answer, ranked, config)
    files = write_ranking(ranked, answer.directory, relaxed)
    shown = [_shown(answer.directory, item, relaxed) for item in ranked[: config.answer.report_models]]
    if config.answer.plots and _can_plot():
        with answer.timings.measure("plots"):
            files += write_plots(shown, answer.coverage, answer.directory)
    if config.answer.report:
        with answer.timings.measure("report"):
            page = Page(
                job=answer.job,
                ranked=ranked,
                shown=shown,
                relaxed={name: figures for name, (_, figures) in relaxed.items()},
                coverage=answer.coverage,
                config=config,
            )
            write_atomically(answer.directory / REPORT_FILE, report_html(page))
        files.append(REPORT_FILE)
    if ranked[0].provenance.warning is None:
        served = Served(multimer=ranked[0].scale == "iptm+ptm", complex=bool(ranked[0].interfaces))
        write_atomically(answer.directory / BIBLIOGRAPHY_FILE, bibtex(papers(served, config)))
        files.append(BIBLIOGRAPHY_FILE)
    for name in stale.difference(files):
        (answer.directory / name).unlink(missing_ok=True)
    answer.timings.write()
    if failure is not None:
        raise failure
    answer.manifest.add(_ANSWER, made_from, files, {})
    return ranked


def _arrays_of(item: Finished) -> str:
    return next(name for name in item.files if name.endswith(ARRAYS_SUFFIX))


def _shown(directory: Path, item: Finished, relaxed: Mapping[str, _Relaxed]) -> Prediction:
    """A prediction with the coordinates that its ranked files have."""
    prediction = load_prediction(directory / _arrays_of(item))
    files, _ = relaxed.get(item.name, ((), {}))
    structure = next((name for name in files if name.endswith(".cif")), None)
    return prediction if structure is None else read_relaxed(prediction, directory / structure)


@functools.cache  # told once
def _can_plot() -> bool:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        logger.info("no plots: matplotlib is not installed (pip install 'fastfold-jax[plots]')")
        return False
    return True


def _relax(
    answer: Answer, ranked: Sequence[Finished], config: InferenceConfig
) -> tuple[dict[str, _Relaxed], UserError | None]:
    """Files and figures of the relaxed structures, made or found finished, and what ended it early."""
    wanted = {"none": 0, "best": 1, "all": len(ranked)}[config.relaxation.relax]
    relaxed: dict[str, _Relaxed] = {}
    for item in ranked[:wanted]:
        name = f"{item.name}_relaxed"
        how = {**dataclasses.asdict(config.relaxation), "relax": None}  # which ones is no matter
        made_from = fingerprint.of_options(prediction=answer.manifest.digest(item.name), how=how)
        entry = None if config.jobs.redo else answer.manifest.finished(name, made_from)
        if entry is None:
            prediction = load_prediction(answer.directory / _arrays_of(item))
            try:
                with answer.timings.measure("relax"):
                    files, figures = relax_prediction(prediction, answer.directory, answer.job, config.relaxation)
            except UserError as error:
                return relaxed, error
            entry = answer.manifest.add(name, made_from, files, figures)
        relaxed[item.name] = tuple(entry.files), entry.content
    return relaxed, None
