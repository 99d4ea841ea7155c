"""The options of `infer.py`: one typed configuration, which is also the Python interface."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastfold_jax.autochunk.budget import Budget, from_gib
from fastfold_jax.config.execution import Kernels, Precision
from fastfold_jax.config.options import at_least, cache_directory, option
from fastfold_jax.data.job_table import parse_stoichiometry
from fastfold_jax.errors import UserError
from fastfold_jax.inference.relax import RelaxOptions
from fastfold_jax.search.config import SearchOptions, TemplateOptions

StopRule = Literal["deepmind", "colabfold"]
PROGRAM = "fastfold-infer"
RANDOM = "random"
DEMO = "demo"

_MAX_MSA = re.compile(r"(\d+):(\d+)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """What differs from prediction to prediction: what each pass sees of the alignment, and of the network."""

    max_msa: Annotated[
        str | None,
        option(
            "Most MSA clusters and most extra MSA rows a pass. Fewer is faster and smaller. Template rows, where a "
            "model counts them as clusters, are among the M.",
            metavar="M:E",
            default="the model's own, such as 512:5120",
        ),
    ] = None
    seed: Annotated[
        int | None,
        option(
            "Seed of everything random, 0 or more. The same seed gives the same features on any machine.",
            metavar="N",
            default="0, or the seeds that the job's file names",
        ),
    ] = None
    num_seeds: Annotated[
        int | None,
        option(
            "How many predictions each model makes, with seeds N, N+1, and so on.",
            metavar="K",
            default="1, or as many as the job's file names",
        ),
    ] = None
    num_ensemble: Annotated[
        int,
        option("Feature samples averaged in each pass (8 in CASP14); costs that many times as much.", metavar="N"),
    ] = 1
    dropout: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        option(
            "Keep dropout on, as in training, drawn by the seed: predictions of many seeds then differ more, and some "
            "may be better than any without."
        ),
    ] = False

    def __post_init__(self):
        at_least(0, seed=self.seed)
        at_least(1, num_seeds=self.num_seeds, num_ensemble=self.num_ensemble)
        self.rows()

    @property
    def first_seed(self) -> int:
        """The first seed of the run."""
        return self.seed or 0

    def seeds(self, of_job: Sequence[int] = ()) -> Sequence[int]:
        """All seeds of a job: its own, if it has any and neither option is given."""
        if of_job and self.seed is None and self.num_seeds is None:
            return of_job
        return range(self.first_seed, self.first_seed + (self.num_seeds or 1))

    def rows(self) -> tuple[int, int] | None:
        """`max_msa` as two numbers, clusters and extra rows.

        Raises:
          UserError: if it is anything else.
        """
        if self.max_msa is None:
            return None
        match = _MAX_MSA.fullmatch(self.max_msa.strip())
        if not match or int(match[1]) < 1:
            raise UserError(
                f"--max-msa {self.max_msa}: accepted are two numbers M:E, clusters (1 or more) and extra rows "
                "(0 or more), such as 512:1024"
            )
        return int(match[1]), int(match[2])


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecyclingOptions:
    """How often the network refines its own answer."""

    recycles: Annotated[
        int | None, option("Most passes after the first.", metavar="N", default="the model's own: 3, multimers 20")
    ] = None
    recycle_tolerance: Annotated[
        float | None,
        option(
            "Stop early when the Cα distances change by at most so many Å from one pass to the next (root mean "
            "square). 0 never stops early.",
            metavar="Å",
            default="the model's own: 0, multimers 0.5",
        ),
    ] = None
    recycle_stop: Annotated[
        StopRule,
        option(
            "What to do when the tolerance is met: `deepmind` makes one more pass, as AlphaFold-Multimer does; "
            "`colabfold` stops at once."
        ),
    ] = "deepmind"
    initial_guess: Annotated[
        Path | None,
        option(
            "Structure that the first pass refines, as if a pass before had predicted it: a PDB or mmCIF file with "
            "the job's chains in order, or a directory with a file of each job's name. Only distances between Cβ "
            "atoms count, not which amino acids the file has.",
            metavar="FILE|DIR",
            default="none",
        ),
    ] = None

    def __post_init__(self):
        at_least(0, recycles=self.recycles)
        if self.recycle_tolerance is not None and not 0 <= self.recycle_tolerance < float("inf"):
            raise UserError(f"--recycle-tolerance {self.recycle_tolerance}: accepted are numbers from 0, in Å")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExecutionOptions:
    """How the computation runs, which does not change what is computed."""

    precision: Annotated[
        Precision | None,
        option(
            "Type of activations and of matmul operands. Parameters, norms and geometry are float32 in either case.",
            metavar="bf16|float32",
            default="bf16, on a CPU float32",
        ),
    ] = None
    kernels: Annotated[
        Kernels,
        option(
            "Implementation of the fused operations. `auto` chooses by the device; one named here that cannot run "
            "is an error."
        ),
    ] = "auto"
    memory_budget: Annotated[
        str,
        option(
            "Memory that a pass may take on each device, in GiB: parts of it run piece by piece until it fits. `auto` "
            "is what the device has; `min` as little as is worth its time.",
            metavar="auto|min|GiB",
        ),
    ] = "auto"
    dap: Annotated[
        str,
        option(
            "How many devices share a protein. `auto` gives each job one, and more of one node to a job that is alone "
            "and long, or does not fit.",
            metavar="N|auto",
        ),
    ] = "auto"
    compile_cache: Annotated[
        Path | None,
        option(
            "Where compiled programs are kept, so that the next protein of like size starts at once.",
            metavar="DIR",
            default="fastfold-jax/compiled in the user's cache directory",
        ),
    ] = None
    no_compile_cache: Annotated[
        bool, tyro.conf.FlagCreatePairsOff, option("Neither keep compiled programs nor use kept ones.")
    ] = False

    def __post_init__(self):
        self.budget()
        self.devices()

    def budget(self) -> Budget:
        """`memory_budget` as AutoChunk takes it.

        Raises:
          UserError: if it is neither `auto`, `min`, nor a positive number.
        """
        if self.memory_budget in ("auto", "min"):
            return "device" if self.memory_budget == "auto" else "min"
        return from_gib("--memory-budget", self.memory_budget, "auto", "min")

    def devices(self) -> int | None:
        """`dap` as a number, None for `auto`.

        Raises:
          UserError: if it is anything else.
        """
        if self.dap == "auto":
            return None
        if not self.dap.isdigit() or int(self.dap) < 1:
            raise UserError(f"--dap {self.dap}: accepted are auto and numbers from 1")
        return int(self.dap)

    @property
    def cache_directory(self) -> Path | None:
        """Where compiled programs are kept, or None for nowhere."""
        return cache_directory("compiled", self.compile_cache, off=self.no_compile_cache)


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobOptions:
    """What an input means, and which of its jobs are run."""

    complex: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        option(
            "Take every INPUT as one job: all records of a FASTA file, and all sub-directories, are chains of one "
            "complex."
        ),
    ] = False
    stoichiometry: Annotated[
        str | None,
        option(
            "Copies of each chain, in order, joined by colons: 2 makes a dimer of a chain, 2:1 has the first of two "
            "chains twice.",
            metavar="N[:N...]",
            default="the input's",
        ),
    ] = None
    redo: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        option("Predict again what the output directory holds already, whole and of the same input and options."),
    ] = False
    dry_run: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        option("Say what would be run, with estimates of memory and time, and run nothing."),
    ] = False
    cluster: Annotated[
        str | None,
        option(
            "Spread the jobs over the nodes of a Ray cluster (extra `ray`): its address, `auto` for the one this node "
            "belongs to, or `local`. All nodes need parameters, databases and --out at the same paths.",
            metavar="ADDRESS|auto|local",
            default="none: the devices of this node",
        ),
    ] = None
    cluster_gpus: Annotated[int, option("GPUs of a node that each job on a cluster gets.", metavar="N")] = 1

    def __post_init__(self):
        self.copies()
        at_least(0, cluster_gpus=self.cluster_gpus)

    def copies(self) -> tuple[int, ...] | None:
        """`stoichiometry` as numbers.

        Raises:
          UserError: if it is anything else.
        """
        if self.stoichiometry is None:
            return None
        return parse_stoichiometry(self.stoichiometry.strip(), place="--stoichiometry")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """What is written beside structures and scores."""

    plots: Annotated[
        bool,
        option("Draw coverage, pLDDT, aligned errors and contacts as PNG files (needs the extra `plots`)."),
    ] = True
    report: Annotated[bool, option("Write report.html, which opens in any browser without a network.")] = True
    report_models: Annotated[int, option("How many of the best predictions the report shows in 3D.", metavar="N")] = 5

    def __post_init__(self):
        at_least(1, report_models=self.report_models)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """Predict the structure of proteins and complexes with AlphaFold 2.

    Writes ranked_0.pdb and ranked_0.cif (the best), ranked_1 and so on, the same by model and seed with confidence and
    aligned errors as JSON, plots, and report.html: into the output directory, or, if there are several jobs, into one
    of each job's name there. A run that was stopped goes on where it was when it is started again.
    """

    input: Annotated[
        tyro.conf.Positional[tuple[Path, ...]],
        option(
            "What to predict: FASTA (each record a job, ':' between the chains of a complex), CSV or TSV (columns id "
            "and sequence), an alignment (A3M, Stockholm), AlphaFold 3's JSON, AlphaFold's own features (.npz, "
            "features.pkl), or directories of these.",
            metavar="INPUT [INPUT ...]",
            default="none; at least one is needed",
        ),
    ]
    out: Annotated[Path, option("Output directory, made if need be.", metavar="DIR")]
    model: Annotated[
        tuple[str, ...],
        option(
            "One or more of model_1 to model_5, model_1_ptm to model_5_ptm, model_1_multimer_v3 to "
            "model_5_multimer_v3 (and _multimer, _multimer_v2 for the older releases); `all` for the five _ptm models, "
            "for complexes the five _multimer_v3 ones; `demo`, the toy network of `--params demo`.",
            metavar="NAME [NAME ...]",
            default="the one that --params names, else model_1_ptm, for a complex model_1_multimer_v3",
        ),
    ] = ()
    params: Annotated[
        str | None,
        option(
            "DeepMind's parameters: the directory that holds the params_*.npz files, or one such file. `random` draws "
            "parameters instead, to try the program; the structure then means nothing. `demo` is a toy network that "
            "comes with the program and knows a handful of small proteins, such as examples/crambin.",
            metavar="DIR|FILE|demo|random",
            default="the directory params, here",
        ),
    ] = None
    jobs: tyro.conf.OmitArgPrefixes[JobOptions] = dataclasses.field(default_factory=JobOptions)
    search: tyro.conf.OmitArgPrefixes[SearchOptions] = dataclasses.field(default_factory=SearchOptions)
    templates: tyro.conf.OmitArgPrefixes[TemplateOptions] = dataclasses.field(default_factory=TemplateOptions)
    sampling: tyro.conf.OmitArgPrefixes[SamplingOptions] = dataclasses.field(default_factory=SamplingOptions)
    recycling: tyro.conf.OmitArgPrefixes[RecyclingOptions] = dataclasses.field(default_factory=RecyclingOptions)
    relaxation: tyro.conf.OmitArgPrefixes[RelaxOptions] = dataclasses.field(default_factory=RelaxOptions)
    answer: tyro.conf.OmitArgPrefixes[AnswerOptions] = dataclasses.field(default_factory=AnswerOptions)
    execution: tyro.conf.OmitArgPrefixes[ExecutionOptions] = dataclasses.field(default_factory=ExecutionOptions)
    verbose: Annotated[
        bool, tyro.conf.FlagCreatePairsOff, option("Log details, and show the traceback of an error.")
    ] = False
