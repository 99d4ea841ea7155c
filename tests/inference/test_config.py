"""The command line as it is typed."""

import re
from pathlib import Path

import pytest
import tyro

from fastfold_jax.config import command_line
from fastfold_jax.errors import UserError
from fastfold_jax.inference.config import (
    PROGRAM,
    ExecutionOptions,
    InferenceConfig,
    RecyclingOptions,
    SamplingOptions,
)
from fastfold_jax.inference.elsewhere import ELSEWHERE


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
    assert list(config.sampling.seeds()) == [7, 8]
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
    ("args", "message"),
    [
        ("in", "--out DIR"),
        ("in --out", "Missing value for argument '--out'"),
        ("in --out o --stoichiometry 2:", "--stoichiometry: the stoichiometry '2:'"),
        ("in --out o --report-models 0", "--report-models 0: accepted are numbers from 1"),
        ("in --out o --precision fp8", "'fp8'"),
        ("in --out o --max-msa 5", "--max-msa 5: accepted are two numbers M:E"),
        ("in --out o --kernels cuda", "invalid choice 'cuda' for argument '--kernels'. Expected one of ('auto',"),
        ("in --out o --seed x", "--seed: invalid literal"),
        ("in --out o --recycle-tolerance x", "--recycle-tolerance: could not convert string to float: 'x'"),
        ("in --out o --msa local", "--msa local: needs --databases"),
        ("in --out o --x", "--x: no such option; see --help"),
        ("in --out o --num-sed=3", "--num-sed: no such option, perhaps --num-seeds; see --help"),
        ("in --out o --num-recycle 3 --zip", "--num-recycle: ColabFold's option, here --recycles; --zip: ColabFold's"),
        ("--fasta_paths=x --output_dir=o", "--fasta_paths: AlphaFold's option, here INPUT; --output_dir: AlphaFold's"),
    ],
)
def test_bad_options_are_told_in_one_line(args, message, capsys):
    with pytest.raises(UserError) as error:
        command_line.parse(InferenceConfig, PROGRAM, args.split(), ELSEWHERE)
    assert message in str(error.value) and "\n" not in str(error.value) and "│" not in str(error.value)
    assert capsys.readouterr().err == ""


MIGRATION = (Path(__file__).parents[2] / "docs" / "migration.md").read_text(encoding="utf-8")
OWN = set(command_line.option_names(InferenceConfig))
ROWS = re.findall(r"^\| (`--.*?)(?<!\\)\|(.*?)(?<!\\)\|", MIGRATION, flags=re.MULTILINE)


def options_in(text: str) -> set[str]:
    return {name.replace("_", "-") for name in re.findall(r"--([a-z][\w-]+)", text)}


def test_options_of_other_programs_are_told_as_the_manual_tells_them():
    told: dict[str, set[str]] = {}
    for theirs, ours in ROWS:
        for name in options_in(theirs) - OWN:
            told.setdefault(name, set()).update(options_in(ours))
    assert told.keys() == ELSEWHERE.keys()
    for name, said in ELSEWHERE.items():
        assert options_in(said) <= told[name] & OWN, name


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
        "(default: 1)",
    ):
        assert part in text
    assert "default: )" not in text and "default: None" not in text
