"""Runs of several small jobs, and what of their directories can be compared."""

from pathlib import Path

import numpy as np

from fastfold_jax.inference.config import (
    AnswerOptions,
    ExecutionOptions,
    InferenceConfig,
    RecyclingOptions,
    SamplingOptions,
)

# Two of one size, which share a program, and a third.
FASTA = ">one\nGAMKWDE\n>two\nWDEGAMK\n>three\nGAMK\n"
UNSTABLE = {"timings.json"}  # seconds differ from run to run
REPOSITORY = Path(__file__).resolve().parents[2]


def configuration(out: Path, *sources: Path, **changes) -> InferenceConfig:
    fields = {
        "input": sources,
        "out": out,
        "params": "random",
        "sampling": SamplingOptions(num_seeds=2),
        "recycling": RecyclingOptions(recycles=0),
        "answer": AnswerOptions(plots=False),
        "execution": ExecutionOptions(precision="float32", no_compile_cache=True),
    }
    return InferenceConfig(**{**fields, **changes})


def content(out: Path) -> dict[str, bytes]:
    """Every file that two runs have in common; the command that a page states has the directory in it."""
    files = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    return {
        name: data.replace(str(out).encode(), b"OUT")
        for name, data in files.items()
        if Path(name).name not in UNSTABLE | {"manifest.json"}
    }


def atoms(directory: Path) -> np.ndarray:
    """Positions in the best structure."""
    lines = (directory / "ranked_0.pdb").read_text().splitlines()
    return np.array([line[30:54].split() for line in lines if line.startswith("ATOM")], float)


def no_prediction(*args):
    raise AssertionError("predicted again")
