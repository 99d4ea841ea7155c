"""The command line as it is typed."""

from pathlib import Path

import pytest
import tyro

from fastfold_jax.errors import UserError
from fastfold_jax.inference.config import ExecutionOptions, InferenceConfig, RecyclingOptions, SamplingOptions


def parse(*args: str) -> InferenceConfig:
    return tyro.cli(InferenceConfig, args=list(args))


def test_command_of_the_manual():
    command = """
        in.fasta --params random --model model_1_ptm model_2_ptm --recycles 1 --max-msa 32:64 --precision bf16
        --seed 7 --num-seeds 2 --out results --recycle-stop colabfold --no-compile-cache
    """
    config = parse(*command.split())
    assert config == InferenceConfig(
        input=(Path("in.fasta"),),
        params="random",
        model=("model_1_ptm", "model_2_ptm"),
        out=Path("results"),
        sampling=SamplingOptions(max_msa="32:64", seed=7, num_seeds=2),
        recycling=RecyclingOptions(recycles=1, recycle_stop="colabfold"),
        execution=ExecutionOptions(precision="bf16", no_compile_cache=True),
    )
    assert config.sampling.rows() == (32, 64)
    assert list(config.sampling.seeds) == [7, 8]
    assert config.execution.cache_directory is None


def test_defaults(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = parse("in", "--out", "out")
    assert config.params is None and config.model == () and config.sampling.rows() is None
    assert config.execution.cache_directory == tmp_path / "fastfold-jax" / "compiled"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_msa": "512"}, "M:E"),
        ({"max_msa": "0:5"}, "M:E"),
        ({"max_msa": "-3:5"}, "M:E"),
        ({"seed": -1}, "--seed -1"),
        ({"num_seeds": 0}, "--num-seeds 0"),
        ({"num_ensemble": 0}, "--num-ensemble 0"),
    ],
)
def test_bad_sampling(options, message):
    with pytest.raises(UserError, match=message):
        SamplingOptions(**options)


@pytest.mark.parametrize(
    "options", [{"recycles": -1}, {"recycle_tolerance": -0.5}, {"recycle_tolerance": float("nan")}]
)
def test_bad_recycling(options):
    with pytest.raises(UserError, match="accepted are numbers from 0"):
        RecyclingOptions(**options)


@pytest.mark.parametrize(
    "args",
    [
        "in",
        "in --out o --stoichiometry 2:",
        "in --out o --report-models 0",
        "in --out o --precision fp8",
        "in --out o --max-msa 5",
        "in --out o --kernels cuda",
        "in --out o --x",
    ],
)
def test_bad_options_exit_with_2(args, capsys):
    with pytest.raises(SystemExit) as exit_:
        parse(*args.split())
    assert exit_.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_help_states_groups_defaults_and_units(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    text = capsys.readouterr().out
    for part in (
        "jobs options",
        "search options",
        "templates options",
        "relaxation options",
        "answer options",
        "sampling options",
        "recycling options",
        "execution options",
        "M:E",
        "Å",
        "bf16|float32",
        "(default: 0)",
    ):
        assert part in text
