"""The command as a user meets it: bad input of every kind, exit codes, and the compile cache of a second process."""

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fastfold_jax.config.presets import preset
from fastfold_jax.data.job import Chain, Job
from fastfold_jax.data.raw import Templates
from fastfold_jax.inference import cli, dry_run, job_run
from fastfold_jax.inference.config import InferenceConfig
from fastfold_jax.inference.models import locate
from fastfold_jax.params.fit import storage
from fastfold_jax.params.store import save
from fastfold_jax.search import hmmer
from fastfold_jax.search.report import silent

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """A function that runs the command on an input and returns exit code and standard error, which has no traceback."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cli, "use_compile_cache", lambda directory: None)  # the other tests want none
    monkeypatch.setattr(cli, "_set_up_logging", lambda *_, **__: None)

    def run(*args: str) -> tuple[int, str]:
        try:
            code = cli.main([*args, *(() if "--out" in args else ("--out", str(tmp_path / "out")))])
        except SystemExit as exit_:
            code = exit_.code
        text = capsys.readouterr().err
        assert "Traceback" not in text
        return code, text

    return run


class Malicious:
    def __init__(self, victim: Path):
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


def bad_inputs(directory: Path) -> dict[str, tuple[bytes, tuple[str, ...]]]:
    return {
        "empty.fasta": (b"", ("empty",)),
        "blank.fasta": (b"\n \n", ("blank.fasta",)),
        "prose.fasta": (b"Dear reader,\nthis is no sequence.\n", ("prose.fasta",)),
        "letters.fasta": (b">one\nGAMK\nWD3E\n", ("line 3, column 3", "'3'")),
        "unequal.a3m": (b">query\nGAMK\n>one\nGAMKW\n", ("line 3", "5 aligned columns", "4")),
        "unequal.sto": (b"# STOCKHOLM 1.0\nquery GAMK\none GAMKW\n//\n", ("unequal.sto", "5", "4")),
        "binary.fasta": (bytes(range(256)) * 4, ("binary.fasta",)),
        "binary.a3m": (b"\x00\xff\xfe" * 100, ("binary.a3m",)),
        "truncated.npz": (b"PK\x03\x04" + b"\x00" * 50, ("truncated.npz",)),
        "malicious.pkl": (pickle.dumps({"aatype": Malicious(directory / "pwned")}), ("malicious.pkl", "mkdir")),
        "unknown.xyz": (b"GAMK", ("unknown.xyz", ".fasta")),
    }


@pytest.mark.parametrize("name", sorted(bad_inputs(Path())))
def test_bad_input(command, tmp_path, name):
    content, parts = bad_inputs(tmp_path)[name]
    (tmp_path / name).write_bytes(content)
    code, text = command(str(tmp_path / name), "--params", "random")
    assert code == 2
    assert text.startswith("fastfold-infer: error: ") and name in text
    assert len(text.splitlines()) == 1
    for part in parts:
        assert part in text
    assert not (tmp_path / "pwned").exists()


def test_first_row_must_be_the_query(command, tmp_path):
    job = tmp_path / "job"
    job.mkdir()
    (job / "query.fasta").write_text(">query\nGAMKW\n")
    (job / "hits.a3m").write_text(">hit\nGAMKY\n>query\nGAMKW\n")
    code, text = command(str(job), "--params", "random")
    assert code == 2 and "hits.a3m" in text and "first row" in text


@pytest.mark.parametrize("option", ["--databases", "--template-mmcif"])
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_what_is_to_be_searched_is_looked_for_once_before_the_first_job(command, tmp_path, option, dry):
    (tmp_path / "two.fasta").write_text(">a\nGAMKW\n>b\nGAMKWY\n")
    missing = tmp_path / "nowhere"
    code, text = command(str(tmp_path / "two.fasta"), "--params", "random", option, str(missing), *dry)
    assert code == 2 and text.count(f"{option} {missing}: no such") == 1


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--custom-templates", "nowhere.pdb"), "--custom-templates nowhere.pdb: no such file"),
        (("--template-sequences", "nowhere.fa"), "--template-sequences nowhere.fa: no such file"),
        (("--relax", "best"), "relaxation needs OpenMM and PDBFixer"),
        (("--databases", "good.fasta", "--no-search-cache"), "searching FASTA databases needs pyhmmer"),
    ],
)
def test_what_is_missing_is_told_before_anything_is_computed(command, fasta, monkeypatch, dry, options, message):
    def absent(name):
        raise hmmer.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(hmmer.metadata, "version", absent)
    monkeypatch.setitem(sys.modules, "openmm", None)
    monkeypatch.setattr(job_run, "complete", lambda *_: pytest.fail("searched"))
    code, text = command(fasta, "--params", "demo", *options, *dry)
    assert code == 2 and message in text and len(text.splitlines()) == 1


def test_what_no_model_may_find_is_told_once(command, tmp_path):
    (tmp_path / "two.fasta").write_text(">a\nGAMKW\n>b\nGAMKW:GAMKW\n")
    code, text = command(str(tmp_path / "two.fasta"), "--params", str(tmp_path / "nowhere"))
    assert code == 2 and text.count("nowhere does not exist") == 1


def errors(caplog) -> list[str]:
    return [record.message for record in caplog.records if record.levelname == "ERROR"]


def test_what_several_jobs_lack_is_told_once(command, tmp_path, caplog):
    (tmp_path / "params").mkdir()
    empty_parameters(tmp_path / "params" / "params_model_1_ptm.npz", "model_1_ptm")
    (tmp_path / "complexes.fasta").write_text("".join(f">{name}\nGAMKW:GAMKW\n" for name in "abcdefg"))
    options = ("--params", str(tmp_path / "params"))
    code, text = command(str(tmp_path / "complexes.fasta"), *options)
    assert code == 3 and "7 of 7 jobs failed" in text
    (error,) = errors(caplog)
    assert error.startswith("a, b, c, d, e and 2 more: ") and "holds no params_model_1_multimer_v3.npz" in error
    config = InferenceConfig(input=(tmp_path / "complexes.fasta",), out=tmp_path, params=str(tmp_path / "params"))
    console = Console(file=io.StringIO(), width=1000)
    dry_run.show(dry_run.plan(config), tmp_path, console)
    assert console.file.getvalue().count("a, b, c, d, e and 2 more would fail: ") == 1
    assert console.file.getvalue().count("holds no params_model_1_multimer_v3.npz") == 1
    caplog.clear()
    (tmp_path / "one.fasta").write_text(">a\nGAMKW:GAMKW\n")
    code, text = command(str(tmp_path / "one.fasta"), *options)  # a job by itself: the command's last line says it
    assert code == 2 and text.count("holds no params_model_1_multimer_v3.npz") == 1 and errors(caplog) == []


def test_a_dry_run_ends_with_the_code_of_the_run(command, tmp_path):
    (tmp_path / "bad.a3m").write_text("nonsense")
    (tmp_path / "good.fasta").write_text(">good\nGAMKW\n")
    options = ("--params", "demo", "--dry-run")
    code, text = command(str(tmp_path / "bad.a3m"), *options)
    assert code == 2 and "not an A3M file" in text
    assert command(str(tmp_path / "bad.a3m"), str(tmp_path / "good.fasta"), *options)[0] == 3
    assert command(str(tmp_path / "good.fasta"), *options)[0] == 0
    (tmp_path / "two.fasta").write_text(">good\nGAMKW\n>bad\nGA1\n")
    assert command(str(tmp_path / "two.fasta"), *options)[0] == 3


def test_templates_that_no_network_reads_are_told_of(caplog):
    config = InferenceConfig(input=(Path("x"),), out=Path("out"), params="demo")
    networks = locate([preset("demo")], "demo", seed=0)
    templates = Templates.none(5)
    for given, told in ((None, 0), (templates, 0), (templates.resize(1), 1)):
        chain = Chain(id="A", description="", sequence="GAMKW", templates=given)
        job_run.complete(Job(name="x", chains=(chain,)), networks, config, silent)
        assert caplog.text.count("x: templates are left out, since demo uses none") == told


def test_no_input(command, fasta, tmp_path):
    for dry in (), ("--dry-run",):
        assert command("--params", "random", *dry) == (
            2,
            "fastfold-infer: error: no INPUT: accepted are one or more files or directories\n",
        )
        for option in ("--model", "--databases"):
            code, text = command("--params", "demo", option, "demo", fasta, *dry)
            assert code == 2 and len(text.splitlines()) == 1
            assert f"no INPUT: {option} takes all that follows it, {fasta} too" in text


def test_missing_input(command, tmp_path):
    code, text = command(str(tmp_path / "nothing.fasta"), "--params", "random")
    assert code == 2 and "nothing.fasta" in text


def test_unknown_model(command, fasta):
    code, text = command(fasta, "--params", "random", "--model", "model_6")
    assert code == 2 and "model_6" in text and "model_1_ptm" in text


@pytest.fixture
def fasta(tmp_path) -> str:
    (tmp_path / "good.fasta").write_text(">good\nGAMKW\n")
    return str(tmp_path / "good.fasta")


def test_no_parameters_names_the_download(command, fasta):
    code, text = command(fasta)
    assert code == 2 and "python -m fastfold_jax.params download" in text


def test_missing_parameter_file(command, fasta, tmp_path):
    code, text = command(fasta, "--params", str(tmp_path / "params_model_1_ptm.npz"))
    assert code == 2 and "params_model_1_ptm.npz" in text and "does not exist" in text


def empty_parameters(path: Path, model: str) -> Path:
    """A file with a model's keys and shapes, all zero, which compress to little."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for key, shape in storage(preset(model)).arrays.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.broadcast_to(np.float32(0), shape))
    return path


def test_parameters_of_another_preset(command, fasta, tmp_path):
    file = empty_parameters(tmp_path / "mine.npz", "model_3_ptm")
    code, text = command(fasta, "--params", str(file), "--model", "model_1_ptm")
    assert code == 2 and "does not fit model_1_ptm" in text and "it fits model_3_ptm" in text
    named = file.rename(tmp_path / "params_model_3_ptm.npz")
    code, text = command(fasta, "--params", str(named), "--model", "model_1_ptm")
    assert code == 2 and "params_model_3_ptm.npz" in text and "model_1_ptm" in text


def test_truncated_parameters(command, fasta, tmp_path):
    file = empty_parameters(tmp_path / "params_model_3_ptm.npz", "model_3_ptm")
    for size in (file.stat().st_size - 10, 1000, 3, 0):
        os.truncate(file, size)
        code, text = command(fasta, "--params", str(file))
        assert code == 2 and "params_model_3_ptm.npz" in text and len(text.splitlines()) == 1


def test_malicious_parameters(command, fasta, tmp_path):
    file = tmp_path / "params_model_1_ptm.npz"
    np.savez(file, **{"alphafold/alphafold_iteration//x": np.array([Malicious(tmp_path / "pwned")], object)})
    code, text = command(fasta, "--params", str(file))
    assert code == 2 and "pickled" in text and not (tmp_path / "pwned").exists()


def test_unwritable_output_directory_is_told_before_reading(command, tmp_path):
    (tmp_path / "file").write_text("")
    code, text = command(str(tmp_path / "absent.fasta"), "--params", "random", "--out", str(tmp_path / "file" / "out"))
    assert code == 2 and "cannot write to the output directory" in text


def test_interrupt(command, fasta, monkeypatch):
    import fastfold_jax.inference.run as run_module

    def interrupted(config, report):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "run", interrupted)
    monkeypatch.setattr(cli, "_leave", lambda code: code)  # would end the tests too
    code, text = command(fasta, "--params", "random")
    assert code == 130 and "interrupted" in text


def test_defects_are_not_hidden(command, fasta, monkeypatch):
    import fastfold_jax.inference.run as run_module

    def defective(config, report):
        raise RuntimeError("a defect")

    monkeypatch.setattr(run_module, "run", defective)
    with pytest.raises(RuntimeError, match="a defect"):
        command(fasta, "--params", "random")


def test_script_is_the_command(tmp_path):
    """`python infer.py` in its own process: exit code 2, one line, nothing on standard output."""
    done = subprocess.run(
        [
            sys.executable,
            str(REPOSITORY / "infer.py"),
            str(tmp_path / "absent.fasta"),
            "--params",
            "random",
            "--out",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path)},
    )
    assert done.returncode == 2 and done.stdout == ""
    # Where JAX's CUDA plug-in is installed and no GPU is there, importing JAX says so before anything of ours runs.
    (line,) = [line for line in done.stderr.splitlines() if "absl::" not in line and "cudart_stub" not in line]
    assert line.startswith("fastfold-infer: error:")


NETWORK = {"evoformer_blocks": 1, "extra_msa_blocks": 1, "structure_layers": 1, "c_m": 32, "c_z": 16, "c_s": 32}
OWN_PROCESS = f"""
import sys
from pathlib import Path
from fastfold_jax.config.presets import preset
from fastfold_jax.backend.compile_cache import use_compile_cache
from fastfold_jax.inference.config import InferenceConfig, RecyclingOptions
from fastfold_jax.inference.run import run

source, out, params, cache = map(Path, sys.argv[1:])
config = InferenceConfig(input=(source,), out=out, params=str(params), recycling=RecyclingOptions(recycles=0))
use_compile_cache(cache)
run(config, networks=[preset("model_3_ptm", **{NETWORK})])
"""


def test_second_process_finds_the_program_compiled(tmp_path):
    """Another protein of like size, in a new process, compiles nothing."""
    network = preset("model_3_ptm", **NETWORK)
    (drawn,) = locate([network], "random", seed=0)
    save(drawn.state(), network, tmp_path / "params_model_3_ptm.npz")
    found = []
    for name, sequence in (("first", "GAMKWDE"), ("second", "WWDEKKG")):
        (tmp_path / f"{name}.fasta").write_text(f">{name}\n{sequence}\n")
        paths = [tmp_path / part for part in (f"{name}.fasta", name, "params_model_3_ptm.npz", "cache")]
        subprocess.run(
            [sys.executable, "-c", OWN_PROCESS, *map(str, paths)],
            check=True,
            capture_output=True,
            cwd=REPOSITORY,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )
        timings = json.loads((tmp_path / name / "timings.json").read_text())
        found.append(timings["predictions"]["model_3_ptm_seed0"]["compiled_before"])
    assert found == [False, True]
