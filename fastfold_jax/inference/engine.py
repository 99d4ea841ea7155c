"""Predictions of prepared jobs on the devices given: parameters read once, programs compiled once."""

import dataclasses
import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fastfold_jax.autochunk.explain import Explanation
from fastfold_jax.config.execution import Execution
from fastfold_jax.config.model import ModelConfig, MultimerConfig
from fastfold_jax.data import buckets
from fastfold_jax.data.assemble import assemble
from fastfold_jax.data.batch import Features
from fastfold_jax.data.fasta import Record
from fastfold_jax.data.job import Job
from fastfold_jax.data.job_chains import chains_of
from fastfold_jax.data.raw import RawFeatures
from fastfold_jax.data.sampling import sample
from fastfold_jax.inference.compiled_pass import Compiler, PredictionError, Result, predict
from fastfold_jax.inference.config import ExecutionOptions, RecyclingOptions
from fastfold_jax.inference.coverage import Coverage, coverage_of
from fastfold_jax.inference.devices import mesh_for
from fastfold_jax.inference.layout import chain_layout
from fastfold_jax.inference.models import Network
from fastfold_jax.inference.provenance import program
from fastfold_jax.inference.recycle import FeatureStream, Recycling
from fastfold_jax.inference.result import PassRecord, Prediction, Provenance

logger = logging.getLogger(__name__)

OnPass = Callable[[str, int, Sequence[PassRecord]], None]
"""Called after each pass with the prediction's name, the most passes there can be, and the figures of all so far."""


def default_execution(options: ExecutionOptions) -> Execution:
    """The user's wishes; bf16 where there is hardware for it."""
    precision = options.precision or ("float32" if jax.default_backend() == "cpu" else "bf16")
    return Execution(kernels=options.kernels, precision=precision)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One prediction to make."""

    network: Network
    seed: int

    @property
    def name(self) -> str:
        """As `Prediction.name`."""
        return f"{self.network.config.name}_seed{self.seed}"


class Target:
    """A job with its features, which are made when first asked for and shared by all networks of one kind."""

    def __init__(self, job: Job):
        self.job = job
        self._raw: dict[tuple[type, bool], RawFeatures] = {}
        self._begun: dict[Task, Callable[[], Features]] = {}

    def features(self, config: ModelConfig) -> RawFeatures:
        """Monomers and multimers merge alignments differently."""
        kind = (type(config), config.num_templates > 0)
        if kind not in self._raw:
            raw = self._raw[kind] = assemble(self.job, config)
            logger.info("%s: %d residues, %d alignment rows", self.job.name, raw.num_res, raw.num_rows)
        return self._raw[kind]

    def sampled(self, task: Task, index: int) -> Features:
        """The features of one pass, without padding."""
        begun = self._begun.pop(task, None) if index == 0 else None
        return begun() if begun else self._sample(task, index)

    def begin(self, task: Task, executor: Executor | None = None) -> None:
        """Has the first pass's features made before they are asked for: here and now, or by an executor."""
        if executor is not None:
            self._begun[task] = executor.submit(self._sample, task, 0).result
            return
        made = self._sample(task, 0)
        self._begun[task] = lambda: made

    def _sample(self, task: Task, index: int) -> Features:
        config = task.network.config
        return sample(self.features(config), config, seed=task.seed, pass_index=index)

    def coverage(self, config: ModelConfig) -> Coverage:
        """Coverage of the alignment that a network starts from."""
        return coverage_of(self.features(config))


class Parameters:
    """Parameters of networks in the host's memory: each file is read once, whatever the number of jobs and devices."""

    def __init__(self):
        self._states: dict[Network, Any] = {}
        self._lock = threading.Lock()
        self.seconds = 0.0

    def of(self, network: Network) -> Any:
        """As NumPy arrays.

        Raises:
          ParamsError: if the file cannot be read or is of another network.
        """
        with self._lock:
            if network not in self._states:
                begun = time.perf_counter()
                self._states[network] = jax.device_get(network.state())
                self.seconds += time.perf_counter() - begun
            return self._states[network]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of one prediction.

    Attributes:
      compile: Tracing and compiling; 0 for a program that this process had compiled already.
      compiled_before: Whether the program was compiled before, by this process or another.
      waited: From the call to the first pass's start, without compiling: features and parameters.
      passes: Each pass.
    """

    compile: float
    compiled_before: bool
    waited: float
    passes: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Rounded to milliseconds."""
        fields = dataclasses.asdict(self)
        rounded = {name: round(value, 3) for name, value in fields.items() if isinstance(value, float)}
        return {**fields, **rounded, "passes": [round(value, 3) for value in self.passes]}


class Engine:
    """Makes predictions, one at a time.

    Args:
      options: How to run.
      recycling: When to stop.
      parameters: Shared by all engines.
      devices: This engine's own, over as many of which a protein is split as the options say; None for JAX's first.
    """

    def __init__(
        self,
        options: ExecutionOptions,
        recycling: RecyclingOptions,
        parameters: Parameters,
        devices: Sequence[jax.Device] | None = None,
    ):
        self.execution = default_execution(options)
        self.devices = tuple(devices or jax.local_devices()[:1])
        self._dap = options.devices()
        self._recycling = recycling
        self._parameters = parameters
        self._budget = options.budget()
        self._compilers: dict[int, Compiler] = {}
        self._loaded: tuple[Network, int, Any] | None = None

    def predict(self, target: Target, task: Task, on_pass: OnPass) -> tuple[Prediction, Timing]:
        """One prediction.

        Raises:
          PredictionError: if memory does not suffice or a pass gives something else than numbers.
          UserError: if parameters or features cannot be used.
        """
        begun = time.perf_counter()
        config = task.network.config
        raw = target.features(config)
        recycling = Recycling.of(self._recycling, config)
        compiler, shape = self._placed(buckets.sampled_shape(raw, config), config)
        with (
            jax.default_device(self.devices[0]),
            FeatureStream(
                lambda index: buckets.pad(target.sampled(task, index), shape), recycling.num_passes
            ) as stream,
        ):
            compiled = compiler.program(config, stream.peek())
            state = self._state(task.network, compiler.mesh)
            waited = time.perf_counter() - begun - compiled.seconds
            report = functools.partial(on_pass, task.name, recycling.num_passes)
            key = jax.random.key(task.seed) if config.eval_dropout else None
            guess = target.job.initial_guess
            start = guess.positions if guess else None
            try:
                result = predict(compiled, state, stream, recycling, report, key=key, initial_guess=start)
            except PredictionError as error:
                raise PredictionError(f"{task.name}: {error}") from error
        timing = Timing(
            compile=compiled.seconds,
            compiled_before=compiled.from_cache,
            waited=waited,
            passes=tuple(record.seconds for record in result.passes),
        )
        return _prediction(result, raw, target.job, self._provenance(task, target.job), config), timing

    def plan(self, exact: buckets.Shape, config: ModelConfig) -> tuple[buckets.Shape, int, Explanation]:
        """How a protein would be predicted: padded to which shape, over how many devices, in how much memory of each.

        Args:
          exact: Sizes of its features, unpadded.
          config: The network.

        Raises:
          UserError: if it cannot be.
        """
        compiler, shape = self._placed(exact, config)
        anything = Job(name="any", chains=chains_of([Record(description="any", sequence="G")]))
        features = sample(assemble(anything, config), config, seed=0, pass_index=0)
        return shape, compiler.mesh.size, compiler.plan(config, buckets.blank(features, shape))

    def _placed(self, exact: buckets.Shape, config: ModelConfig) -> tuple[Compiler, buckets.Shape]:
        """The compiler for as many devices as this protein gets, and the shape that it is padded to there."""
        mesh = mesh_for(self._dap, exact, config, self.devices)
        if mesh.size not in self._compilers:
            self._compilers[mesh.size] = Compiler(self.execution, mesh, self._budget)
        return self._compilers[mesh.size], buckets.choose(exact, config, multiple=mesh.size)

    def _state(self, network: Network, mesh: Mesh) -> Any:
        """The parameters on the devices, where only the latest network's stay."""
        if self._loaded is None or self._loaded[:2] != (network, mesh.size):
            self._loaded = None  # its memory first
            state = jax.device_put(self._parameters.of(network), NamedSharding(mesh, PartitionSpec()))
            self._loaded = network, mesh.size, state
        return self._loaded[2]

    def _provenance(self, task: Task, job: Job) -> Provenance:
        network, guess = task.network, job.initial_guess
        return Provenance(
            program=program(),
            model=network.config.name,
            parameters=network.source,
            seed=task.seed,
            rows=f"{network.config.num_msa}:{network.config.num_extra_msa}",
            dropout=network.config.eval_dropout,
            initial_guess=guess.file if guess else None,
            platform=f"JAX {jax.__version__} on {self.devices[0].device_kind}",
            precision=self.execution.precision,
            warning=network.warning,
        )


def _prediction(result: Result, raw: RawFeatures, job: Job, provenance: Provenance, config: ModelConfig) -> Prediction:
    """Without the padding."""
    outputs, n = result.outputs, raw.num_res
    last = result.passes[-1]
    return Prediction(
        provenance=provenance,
        chains=chain_layout(raw, job, config.num_templates),
        atom_positions=outputs.atom_positions[:n],
        atom_mask=outputs.atom_mask[:n],
        plddt=outputs.plddt[:n],
        pae=None if outputs.pae is None else outputs.pae[:n, :n],
        contact_probability=outputs.contact_probability[:n, :n],
        ptm=last.ptm,
        iptm=last.iptm,
        ranking_confidence=float(outputs.ranking_confidence),
        scale="iptm+ptm" if isinstance(config, MultimerConfig) else "plddts",
        passes=result.passes,
    )
