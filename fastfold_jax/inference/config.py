"""The options of `infer.py`: one typed configuration, which is also the Python interface."""

import dataclasses
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fastfold_jax.config.execution import Kernels, Precision
from fastfold_jax.errors import UserError

StopRule = Literal["deepmind", "colabfold"]
RANDOM = "random"

_MAX_MSA = re.compile(r"(\d+):(\d+)")


def default_cache_directory() -> Path:
    """Where compiled programs are kept: the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fastfold-jax" / "compiled"


def _option(text: str, *, metavar: str | None = None, default: str | None = None) -> Any:
    """What the help says about an option; `default` in words where its value would not tell."""
    return tyro.conf.arg(help=text, metavar=metavar, help_behavior_hint=default and f"(default: {default})")


def _at_least(least: int, **values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} {value}: accepted are numbers from {least}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """What each pass sees of the alignment."""

    max_msa: Annotated[
        str | None,
        _option(
            "Most MSA clusters and most extra MSA rows a pass. Fewer is faster and smaller. Template rows, where a "
            "model counts them as clusters, are among the M.",
            metavar="M:E",
            default="the model's own, such as 512:5120",
        ),
    ] = None
    seed: Annotated[
        int,
        _option(
            "Seed of everything random, 0 or more. The same seed gives the same features on any machine.", metavar="N"
        ),
    ] = 0
    num_seeds: Annotated[
        int, _option("How many predictions each model makes, with seeds N, N+1, and so on.", metavar="K")
    ] = 1
    num_ensemble: Annotated[
        int,
        _option("Feature samples averaged in each pass (8 in CASP14); costs that many times as much.", metavar="N"),
    ] = 1

    def __post_init__(self):
        _at_least(0, seed=self.seed)
        _at_least(1, num_seeds=self.num_seeds, num_ensemble=self.num_ensemble)
        self.rows()

    @property
    def seeds(self) -> range:
        """All seeds of the run."""
        return range(self.seed, self.seed + self.num_seeds)

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
        int | None, _option("Most passes after the first.", metavar="N", default="the model's own: 3, multimers 20")
    ] = None
    recycle_tolerance: Annotated[
        float | None,
        _option(
            "Stop early when the Cα distances change by at most so many Å from one pass to the next (root mean "
            "square). 0 never stops early.",
            metavar="Å",
            default="the model's own: 0, multimers 0.5",
        ),
    ] = None
    recycle_stop: Annotated[
        StopRule,
        _option(
            "What to do when the tolerance is met: `deepmind` makes one more pass, as AlphaFold-Multimer does; "
            "`colabfold` stops at once."
        ),
    ] = "deepmind"

    def __post_init__(self):
        _at_least(0, recycles=self.recycles)
        if self.recycle_tolerance is not None and not 0 <= self.recycle_tolerance < float("inf"):
            raise UserError(f"--recycle-tolerance {self.recycle_tolerance}: accepted are numbers from 0, in Å")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExecutionOptions:
    """How the computation runs, which does not change what is computed."""

    precision: Annotated[
        Precision | None,
        _option(
            "Type of activations and of matmul operands. Parameters, norms and geometry are float32 in either case.",
            metavar="bf16|float32",
            default="bf16, on a CPU float32",
        ),
    ] = None
    kernels: Annotated[
        Kernels,
        _option(
            "Implementation of the fused operations. `auto` chooses by the device; one named here that cannot run "
            "is an error."
        ),
    ] = "auto"
    dap: Annotated[
        str,
        _option(
            "How many devices share a protein. `auto` gives each job one, and more of one node to a job that is alone "
            "and long, or does not fit.",
            metavar="N|auto",
        ),
    ] = "auto"
    compile_cache: Annotated[
        Path | None,
        _option(
            "Where compiled programs are kept, so that the next protein of like size starts at once.",
            metavar="DIR",
            default="fastfold-jax/compiled in the user's cache directory",
        ),
    ] = None
    no_compile_cache: Annotated[
        bool, tyro.conf.FlagCreatePairsOff, _option("Neither keep compiled programs nor use kept ones.")
    ] = False

    def __post_init__(self):
        self.devices()

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
        return None if self.no_compile_cache else self.compile_cache or default_cache_directory()


@dataclasses.dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """Predict the structure of a protein or a complex with AlphaFold 2.

    Writes into the output directory ranked_0.pdb and ranked_0.cif (the best), ranked_1 and so on, the same by model and
    seed with confidence and aligned errors as JSON, ranking.json and timings.json.
    """

    input: Annotated[
        tyro.conf.Positional[Path],
        _option(
            "What to predict: a FASTA file (one chain or a complex), an alignment (A3M, Stockholm), a directory with "
            "the files of one job, or AlphaFold's own features (.npz, features.pkl).",
            metavar="INPUT",
        ),
    ]
    out: Annotated[Path, _option("Output directory, made if need be.", metavar="DIR")]
    model: Annotated[
        tuple[str, ...],
        _option(
            "One or more of model_1 to model_5, model_1_ptm to model_5_ptm, model_1_multimer_v3 to "
            "model_5_multimer_v3 (and _multimer, _multimer_v2 for the older releases).",
            metavar="NAME [NAME ...]",
            default="model_1_ptm, for a complex model_1_multimer_v3",
        ),
    ] = ()
    params: Annotated[
        str | None,
        _option(
            "DeepMind's parameters: the directory that holds the params_*.npz files, or one such file. `random` draws "
            "parameters instead, to try the program; the structure then means nothing.",
            metavar="DIR|FILE|random",
            default="the directory params, here",
        ),
    ] = None
    sampling: tyro.conf.OmitArgPrefixes[SamplingOptions] = dataclasses.field(default_factory=SamplingOptions)
    recycling: tyro.conf.OmitArgPrefixes[RecyclingOptions] = dataclasses.field(default_factory=RecyclingOptions)
    execution: tyro.conf.OmitArgPrefixes[ExecutionOptions] = dataclasses.field(default_factory=ExecutionOptions)
    verbose: Annotated[
        bool, tyro.conf.FlagCreatePairsOff, _option("Log details, and show the traceback of an error.")
    ] = False
