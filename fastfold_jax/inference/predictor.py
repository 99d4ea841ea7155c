"""Prediction from Python: `Predictor(params).predict(sequence)`."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict, Unpack

import jax

from fastfold_jax.backend.allocator import claim_memory
from fastfold_jax.backend.compile_cache import use_compile_cache
from fastfold_jax.config.model import ModelConfig
from fastfold_jax.data.fasta import Record, clean_sequence
from fastfold_jax.data.initial_guess import with_initial_guess
from fastfold_jax.data.job_chains import Job, chain_records, chains_of
from fastfold_jax.data.job_sources import find_jobs
from fastfold_jax.data.names import safe_name
from fastfold_jax.errors import UserError
from fastfold_jax.inference import fingerprint
from fastfold_jax.inference.answer import Answer, publish
from fastfold_jax.inference.config import (
    AnswerOptions,
    ExecutionOptions,
    InferenceConfig,
    RecyclingOptions,
    SamplingOptions,
)
from fastfold_jax.inference.coverage import Coverage
from fastfold_jax.inference.engine import Engine, OnPass, Parameters, Target, Task
from fastfold_jax.inference.files import prepare_directory, write_json
from fastfold_jax.inference.interfaces import Interface, score_interfaces
from fastfold_jax.inference.job_run import COVERAGE_FILE, check, complete
from fastfold_jax.inference.kept_alignments import keep_alignments
from fastfold_jax.inference.manifest import Manifest
from fastfold_jax.inference.models import WARNINGS, NetworkTable
from fastfold_jax.inference.outcome import JobOutcome
from fastfold_jax.inference.ranking import Finished, rank
from fastfold_jax.inference.relax import RelaxOptions
from fastfold_jax.inference.report import Page, report_html
from fastfold_jax.inference.result import PassRecord, Prediction
from fastfold_jax.inference.structure import build_structure, pdb_obstacle, pdb_text
from fastfold_jax.inference.timings import Timings
from fastfold_jax.inference.writers import mmcif_string, write_prediction
from fastfold_jax.search.config import SearchOptions, TemplateOptions
from fastfold_jax.search.report import Report, silent

__all__ = ["Interface", "JobOutcome", "JobResult", "Prediction", "Predictor"]

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class JobResult:
    """The predictions of one job.

    Attributes:
      job: The job as it was predicted, alignments and templates included.
      predictions: The predictions, best first.
      coverage: Coverage of the alignment.
      config: The run.
    """

    job: Job
    predictions: tuple[Prediction, ...]
    coverage: Coverage
    config: InferenceConfig

    def __repr__(self) -> str:
        """A line a prediction, as a notebook shows it."""
        return "\n".join([f"<JobResult {self.job.name}, best first:", *(f"  {p!r}" for p in self.predictions)]) + ">"

    @property
    def best(self) -> Prediction:
        """The first of the ranking."""
        return self.predictions[0]

    def interfaces(self, place: int = 0) -> tuple[Interface, ...]:
        """Scores of each two chains, by default of the best prediction; none for a single chain."""
        return score_interfaces(self.predictions[place])

    def pdb(self, place: int = 0) -> str:
        """A structure in PDB format, by default the best.

        Raises:
          UserError: if the format cannot hold it.
        """
        structure = build_structure(self.predictions[place], self._stem(place))
        if obstacle := pdb_obstacle(structure):
            raise UserError(f"no PDB of {structure.name}: {obstacle}; mmcif() can hold it")
        return pdb_text(structure)

    def mmcif(self, place: int = 0) -> str:
        """A structure in mmCIF format, by default the best."""
        return mmcif_string(self.predictions[place], self._stem(place))

    def report(self) -> str:
        """The page that `report.html` is, of the structures as predicted: relaxation is `write`'s."""
        page = Page(
            job=self.job.name,
            ranked=[Finished.of(prediction, ()) for prediction in self.predictions],
            shown=self.predictions[: self.config.answer.report_models],
            relaxed={},
            coverage=self.coverage,
            config=self.config,
        )
        return report_html(page)

    def write(self, directory: str | Path) -> JobOutcome:
        """Writes all that the command writes, and returns what it is.

        Raises:
          UserError: if relaxation, where asked for, fails, a file cannot be written, or the directory holds another
            job's.
        """
        directory = Path(directory)
        manifest = Manifest(directory, self.job.name)
        prepare_directory(directory)
        write_json(directory / COVERAGE_FILE, self.coverage.to_json())
        keep_alignments(self.job, fingerprint.of_job(self.job), manifest)
        finished = []
        for prediction in self.predictions:
            files = write_prediction(prediction, directory, self.job.name)
            summary = Finished.of(prediction, files)
            made_from = fingerprint.of_options(arrays=fingerprint.of_file(directory / files[-1]))
            manifest.add(prediction.name, made_from, files, summary.to_json())
            finished.append(summary)
        answer = Answer(
            job=self.job.name,
            directory=directory,
            finished=finished,
            manifest=manifest,
            coverage=self.coverage,
            timings=Timings(directory),
        )
        ranked = tuple(publish(answer, self.config))
        number = len(self.best.plddt)
        return JobOutcome(name=self.job.name, directory=directory, num_res=number, ranked=ranked, made=len(finished))

    def _stem(self, place: int) -> str:
        return f"{self.job.name}_{self.predictions[place].name}"


class Options(TypedDict, total=False):
    """The option groups of the command line that a `Predictor` takes."""

    search: SearchOptions
    templates: TemplateOptions
    sampling: SamplingOptions
    recycling: RecyclingOptions
    relaxation: RelaxOptions
    answer: AnswerOptions
    execution: ExecutionOptions


class Predictor:
    """Predicts structures; reads parameters and compiles programs once.

    JAX may take nearly all of each GPU where this comes before any use of a device; else `claim_memory` has to.

        predictor = Predictor("params")
        result = predictor.predict("MKTAYIAKQRQISFVKSHFSRQ")
        result.write("out")

    Args:
      params: As `--params`: a directory, a file, "demo" or "random".
      model: Names of networks; by default one for a chain, another for a complex; "all" for five.
      networks: Networks that are no preset, in place of `model`.
      devices: Over as many of these a protein is split as the options say; by default JAX's first.
      on_pass: Called after each pass with the prediction's name, the most passes, and the figures of those so far.
      report: Called with the progress of searches.
      options: The groups of options that the command line has.

    Raises:
      UserError: if what is named cannot be used.
    """

    def __init__(
        self,
        params: str | Path | None = None,
        *,
        model: str | Sequence[str] = (),
        networks: Sequence[ModelConfig] | None = None,
        devices: Sequence[jax.Device] | None = None,
        on_pass: OnPass | None = None,
        report: Report = silent,
        **options: Unpack[Options],
    ):
        self.config = InferenceConfig(
            input=(),
            out=Path("."),
            model=(model,) if isinstance(model, str) else tuple(model),
            params=None if params is None else str(params),
            **options,
        )
        self._table = NetworkTable(self.config, networks)
        check(self.config)
        execution = self.config.execution
        claim_memory()
        use_compile_cache(execution.cache_directory)
        if self.config.params in WARNINGS:
            logger.warning(WARNINGS[self.config.params])
        self._engine = Engine(execution, self.config.recycling, Parameters(), devices)
        self._on_pass = on_pass or _log_nothing
        self._report = report

    def predict(self, what: "str | Path | Job", *, name: str | None = None) -> JobResult:
        """Predicts one job with every model and seed.

        Args:
          what: A sequence (`:` between the chains of a complex), a `Path` of a file or directory with one job, or a
            `Job`.
          name: What to call the job in files.

        Raises:
          UserError: if anything given cannot be used, or memory does not suffice.
        """
        job = with_initial_guess(_as_job(what, name), self.config.recycling.initial_guess)
        networks = self._table.networks(job)
        job = complete(job, networks, self.config, self._report)
        target = Target(job)
        predictions = {}
        for network in networks:
            for seed in self.config.sampling.seeds(job.seeds):
                task = Task(network=network, seed=seed)
                predictions[task.name], _ = self._engine.predict(target, task, self._on_pass)
        ranked = rank([Finished.of(prediction, ()) for prediction in predictions.values()])
        return JobResult(
            job=job,
            predictions=tuple(predictions[item.name] for item in ranked),
            coverage=target.coverage(networks[0].config),
            config=self.config,
        )


def _as_job(what: str | Path | Job, name: str | None) -> Job:
    if isinstance(what, Path):
        sources = find_jobs([what])
        if len(sources) != 1:
            raise UserError(f"{what}: holds {len(sources)} jobs; predict takes one at a time, `fastfold-infer` many")
        job = sources[0].read()
    elif isinstance(what, str):
        label = name or "sequence"
        sequence = clean_sequence(what, place="what to predict (give a file as a pathlib.Path)", name=label)
        record = Record(description=label, sequence=sequence)
        job = Job(name="prediction", chains=chains_of(chain_records(record, place="the sequence")))
    else:
        job = what
    return job if name is None else dataclasses.replace(job, name=safe_name(name, otherwise="prediction"))


def _log_nothing(name: str, most: int, passes: Sequence[PassRecord]) -> None:
    """Says nothing."""
