"""From a configuration to files: reads the input once, predicts with each model and seed, writes each as it is done."""

import functools
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from fastfold_jax.config.execution import Execution
from fastfold_jax.config.model import ModelConfig, MultimerConfig
from fastfold_jax.data import buckets
from fastfold_jax.data.assemble import assemble
from fastfold_jax.data.job import Job, read_job
from fastfold_jax.data.raw import RawFeatures
from fastfold_jax.data.sampling import sample
from fastfold_jax.inference.config import RANDOM, ExecutionOptions, InferenceConfig
from fastfold_jax.inference.layout import chain_layout
from fastfold_jax.inference.models import Network, choose, locate
from fastfold_jax.inference.predictor import Compiler, PredictionError, Result, predict
from fastfold_jax.inference.provenance import RANDOM_WARNING, program
from fastfold_jax.inference.ranking import Finished, publish
from fastfold_jax.inference.recycle import FeatureStream, Recycling
from fastfold_jax.inference.result import PassRecord, Prediction, Provenance
from fastfold_jax.inference.writers import prepare_directory, write_json, write_prediction

logger = logging.getLogger(__name__)

TIMINGS_FILE = "timings.json"


def run(config: InferenceConfig, networks: Sequence[ModelConfig] | None = None) -> list[Finished]:
    """Predicts and writes everything, best prediction first.

    What is finished when an error or an interrupt ends the run stays, ranked.

    Args:
      config: The run.
      networks: In place of those that `config.model` names; for networks that are no preset.

    Raises:
      UserError: if something given cannot be used; all that can be checked is checked before anything is computed.
    """
    clock = _Clock()
    prepare_directory(config.out)
    with clock.measure("read_input"):
        job = read_job(config.input)
    chosen = networks if networks is not None else choose(config, job)
    located = locate(chosen, config.params, seed=config.sampling.seed)
    if config.params == RANDOM:
        _warn_of_random()
    worker = _Worker(config, job, clock)
    finished: list[Finished] = []
    try:
        for network in located:
            for prediction in worker.predictions(network):
                with clock.measure("write"):
                    files = write_prediction(prediction, config.out, job.name)
                finished.append(Finished.of(prediction, files))
    finally:
        if finished:  # else what an earlier run left here stays as it is
            finished = publish(finished, config.out)
            write_json(config.out / TIMINGS_FILE, clock.report(), indent=1)
    for place, item in enumerate(finished):
        scores = _scores(item.mean_plddt, item.ptm, item.iptm)
        path = config.out / f"ranked_{place}{Path(item.files[0]).suffix}"
        logger.info("%s  %s  %s", path, scores, item.name)
    return finished


def default_execution(options: ExecutionOptions) -> Execution:
    """The user's wishes; bf16 where there is hardware for it."""
    precision = options.precision or ("float32" if jax.default_backend() == "cpu" else "bf16")
    return Execution(kernels=options.kernels, precision=precision)


class _Clock:
    """Seconds of each stage, and of each prediction's stages."""

    def __init__(self):
        self._start = time.perf_counter()
        self._stages: dict[str, float] = {}
        self._predictions: dict[str, dict[str, Any]] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._stages[stage] = self._stages.get(stage, 0.0) + time.perf_counter() - start

    def note(self, prediction: str, **figures: Any) -> None:
        self._predictions.setdefault(prediction, {}).update(figures)

    def report(self) -> dict[str, Any]:
        """All of it in seconds, for JSON."""
        stages = {stage: round(seconds, 3) for stage, seconds in self._stages.items()}
        return {**stages, "total": round(time.perf_counter() - self._start, 3), "predictions": self._predictions}


class _Worker:
    """What the predictions of one run share: the job, its features, compiled programs."""

    def __init__(self, config: InferenceConfig, job: Job, clock: _Clock):
        self._config = config
        self._job = job
        self._clock = clock
        self._execution = default_execution(config.execution)
        self._compiler = Compiler(self._execution, config.execution.budget())
        self._raw: dict[tuple[type, bool], RawFeatures] = {}

    def predictions(self, network: Network) -> Iterator[Prediction]:
        """One for each seed; the parameters are read once, and let go at the end."""
        raw = self._features(network.config)
        recycling = Recycling.of(self._config.recycling, network.config)
        state = None
        for seed in self._config.sampling.seeds:
            provenance = self._provenance(network, seed)
            name = f"{provenance.model}_seed{seed}"
            with self._stream(raw, network.config, seed, recycling.num_passes) as stream:
                if state is None:
                    with self._clock.measure("read_parameters"):
                        state = network.state()
                compiled = self._compiler.program(network.config, stream.peek())
                report = functools.partial(_log_pass, name, recycling.num_passes)
                try:
                    result = predict(compiled, state, stream, recycling, report)
                except PredictionError as error:
                    raise PredictionError(f"{name}: {error}") from error
            self._clock.note(
                name,
                compile=round(compiled.seconds, 3),
                compiled_before=compiled.from_cache,
                passes=[round(record.seconds, 3) for record in result.passes],
            )
            yield self._prediction(result, raw, provenance, network.config)

    def _features(self, config: ModelConfig) -> RawFeatures:
        """Monomers and multimers merge alignments differently; models of one kind share the outcome."""
        kind = (type(config), config.num_templates > 0)
        if kind not in self._raw:
            with self._clock.measure("features"):
                self._raw[kind] = assemble(self._job, config)
        return self._raw[kind]

    def _stream(self, raw: RawFeatures, config: ModelConfig, seed: int, num_passes: int) -> FeatureStream:
        shape = buckets.choose(raw, config)
        return FeatureStream(
            lambda index: buckets.pad(sample(raw, config, seed=seed, pass_index=index), shape), num_passes
        )

    def _provenance(self, network: Network, seed: int) -> Provenance:
        return Provenance(
            program=program(),
            model=network.config.name,
            parameters=network.source,
            seed=seed,
            rows=f"{network.config.num_msa}:{network.config.num_extra_msa}",
            platform=f"JAX {jax.__version__} on {jax.devices()[0].device_kind}",
            precision=self._execution.precision,
            warning=None if network.file else RANDOM_WARNING,
        )

    def _prediction(self, result: Result, raw: RawFeatures, provenance: Provenance, config: ModelConfig) -> Prediction:
        """Without the padding."""
        outputs, n = result.outputs, raw.num_res
        last = result.passes[-1]
        return Prediction(
            provenance=provenance,
            chains=chain_layout(raw, self._job),
            atom_positions=outputs.atom_positions[:n],
            atom_mask=outputs.atom_mask[:n],
            plddt=outputs.plddt[:n],
            pae=None if outputs.pae is None else outputs.pae[:n, :n],
            ptm=last.ptm,
            iptm=last.iptm,
            ranking_confidence=float(outputs.ranking_confidence),
            scale="iptm+ptm" if isinstance(config, MultimerConfig) else "plddts",
            passes=result.passes,
        )


def _scores(plddt: float, ptm: float | None, iptm: float | None) -> str:
    text = f"pLDDT {plddt:5.2f}"
    text += "" if ptm is None else f"  pTM {ptm:.3f}"
    return text + ("" if iptm is None else f"  ipTM {iptm:.3f}")


def _log_pass(name: str, most: int, passes: Sequence[PassRecord]) -> None:
    record = passes[-1]
    change = f"{record.change:6.2f} Å" if len(passes) > 1 else "   –    "
    scores = _scores(record.plddt, record.ptm, record.iptm)
    logger.info("%s  pass %d/%d  %s  change %s  %.1f s", name, len(passes), most, scores, change, record.seconds)


def _warn_of_random() -> None:
    bar = "*" * 100
    for line in (bar, RANDOM_WARNING, bar):
        logger.warning(line)
