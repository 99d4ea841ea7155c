"""Runs started again: what is finished is kept, what is not, or is of other input, is made; killed at any file."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from several_jobs import REPOSITORY, configuration, content, no_prediction

from fastfold_jax.inference import answer, dry_run, engine, job_run
from fastfold_jax.inference.compiled_pass import PredictionError
from fastfold_jax.inference.config import (
    AnswerOptions,
    ExecutionOptions,
    JobOptions,
    RecyclingOptions,
    SamplingOptions,
)
from fastfold_jax.inference.engine import Parameters
from fastfold_jax.inference.files import OutputError
from fastfold_jax.inference.manifest import Manifest
from fastfold_jax.inference.models import NetworkTable
from fastfold_jax.inference.relax import RelaxOptions
from fastfold_jax.inference.run import run
from fastfold_jax.inference.sources import job_sources
from fastfold_jax.model.alphafold import init_state
from fastfold_jax.params.store import save
from fastfold_jax.search.config import SearchOptions, TemplateOptions


def test_finished_work_is_kept(whole, copy, source, small_network, monkeypatch):
    monkeypatch.setattr(engine.Engine, "predict", no_prediction)
    before = {
        path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file() and path.name != "summary.csv"
    }
    outcomes = run(configuration(copy, source), networks=[small_network])
    assert {outcome.status for outcome in outcomes} == {"kept"} and len(outcomes[0].ranked) == 2
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_another_report_is_made_of_what_is_finished(copy, source, small_network, monkeypatch):
    monkeypatch.setattr(engine.Engine, "predict", no_prediction)
    for number in (1, 2):
        options = AnswerOptions(plots=False, report_models=number)
        run(configuration(copy, source, answer=options), networks=[small_network])
        assert (copy / "one" / "report.html").read_text().count('"xyz":') == number


@pytest.mark.parametrize(
    ("damage", "again"),
    [
        (lambda out: (out / "one" / "one_model_1_ptm_seed1.cif").write_text("data_"), {"one model_1_ptm_seed1"}),
        (lambda out: (out / "two" / "two_model_1_ptm_seed0_arrays.npz").unlink(), {"two model_1_ptm_seed0"}),
        (lambda out: (out / "three" / "manifest.json").write_text("{"), {f"three model_1_ptm_seed{i}" for i in (0, 1)}),
        (lambda out: (out / "one" / "report.html").write_text("half"), set()),
        (lambda out: (out / "one" / "ranked_0.pdb").unlink(), set()),
        (lambda out: (out / "one" / ".x.json.999999999.partial").write_text("half"), set()),
    ],
)  # fmt: skip
def test_what_is_damaged_is_made_again_and_no_more(whole, copy, source, small_network, monkeypatch, damage, again):
    made = set()
    predict = engine.Engine.predict

    def watched(self, target, task, on_pass):
        made.add(f"{target.job.name} {task.name}")
        return predict(self, target, task, on_pass)

    monkeypatch.setattr(engine.Engine, "predict", watched)
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    damage(copy)
    run(configuration(copy, source), networks=[small_network])
    assert made == again
    assert content(copy) == content(whole[0]) | {
        name: data for name, data in content(copy).items() if name.endswith("report.html")
    }


@pytest.fixture
def elsewhere(monkeypatch):
    """Predictions as other hardware makes them: atoms are a little off."""
    predict = engine.Engine.predict

    def other(self, *args):
        prediction, timing = predict(self, *args)
        return dataclasses.replace(prediction, atom_positions=prediction.atom_positions + 0.01), timing

    monkeypatch.setattr(engine.Engine, "predict", other)
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])


@pytest.mark.parametrize("how", ["redo", "damage"])
def test_what_is_made_again_is_published_again(copy, source, small_network, elsewhere, how):
    directory = copy / "one"
    best = json.loads((directory / "ranking.json").read_text())["order"][0]
    before = (directory / "ranked_0.cif").read_bytes()
    if how == "damage":
        (directory / f"one_{best}.cif").unlink()
    run(configuration(copy, source, jobs=JobOptions(redo=how == "redo")), networks=[small_network])
    after = (directory / "ranked_0.cif").read_bytes()
    assert after == (directory / f"one_{best}.cif").read_bytes() != before


def test_what_is_made_again_is_relaxed_again(copy, source, small_network, elsewhere, monkeypatch):
    relaxed = []

    def relax(prediction, directory, job, options):
        relaxed.append(prediction.name)
        return (), {"problem": "none of these can be"}

    monkeypatch.setattr(answer, "relax_prediction", relax)
    monkeypatch.setattr("fastfold_jax.inference.relax.check", lambda options: None)
    changes = {"relaxation": RelaxOptions(relax="best")}
    for jobs, number in ((JobOptions(), 3), (JobOptions(), 3), (JobOptions(redo=True), 6)):
        run(configuration(copy, source, jobs=jobs, **changes), networks=[small_network])
        assert len(relaxed) == number
    best = json.loads((copy / "one" / "ranking.json").read_text())["order"][0]
    (copy / "one" / f"one_{best}.pdb").unlink()
    run(configuration(copy, source, **changes), networks=[small_network])
    assert len(relaxed) == 6  # the same again: what was relaxed still is its relaxed structure


def digests(config, network) -> frozenset[str]:
    """Of all that decides the predictions of the first job."""
    context = job_run.Context(config=config, table=NetworkTable(config, [network]), parameters=Parameters())
    return frozenset(job_run.survey(context, job_sources(config)[0], config.out).tasks.values())


def test_another_template_or_database_makes_other_predictions(source, small_network, tmp_path):
    template, databases = tmp_path / "t.pdb", tmp_path / "databases"
    databases.mkdir()
    for path in (template, databases / "uniref90.fasta"):
        path.write_text(">a\nGA\n")
    options = {
        "templates": TemplateOptions(custom_templates=(str(template),)),
        "search": SearchOptions(databases=(databases,)),
    }
    config = configuration(tmp_path / "out", source, **options)
    first = digests(config, small_network)
    assert digests(config, small_network) == first
    template.write_text("another")
    second = digests(config, small_network)
    (databases / "mgnify.fasta").write_text(">a\nGA\n")
    assert first.isdisjoint(second) and digests(config, small_network).isdisjoint(first | second)


@pytest.fixture
def drawn(small_network, tmp_path) -> list[Path]:
    """Directories with parameter files of one name and different content."""
    directories = [tmp_path / "first", tmp_path / "second"]
    for seed, directory in enumerate(directories):
        directory.mkdir()
        save(init_state(small_network, seed), small_network, directory / f"params_{small_network.name}.npz")
    return directories


def test_other_input_parameters_or_programs_make_other_predictions(drawn, small_network, tmp_path, monkeypatch):
    job = tmp_path / "job"
    job.mkdir()
    files = {
        "uniref90_hits.a3m": ">q\nGAMK\n>one\nGA-K\n>two\nGAwMK\n",
        "uniprot_hits.a3m": ">q\nGAMK\n>tr|A0A001|A0A001_HUMAN/1-4\nGARK\n",
    }
    config = configuration(tmp_path / "out", job, params=str(drawn[0]))
    found = []
    # A residue, an alignment's row, a number of deletions, a row to be paired, and all as it was.
    for old, new in (("GAMK", "GAVK"), ("GA-K", "GAWK"), ("GAw", "GAww"), ("GARK", "GAVK"), ("", "")):
        for name, text in files.items():
            (job / name).write_text(text.replace(old, new))
        found.append(digests(config, small_network))
    assert digests(config, small_network) == found[-1]
    found.append(digests(dataclasses.replace(config, params=str(drawn[1])), small_network))
    precision = ExecutionOptions(precision="bf16", no_compile_cache=True)
    found.append(digests(dataclasses.replace(config, execution=precision), small_network))
    found.append(digests(config, dataclasses.replace(small_network, num_extra_msa=8)))
    monkeypatch.setattr(job_run, "program", lambda: "FastFold-JAX 99")
    found.append(digests(config, small_network))
    assert len(frozenset.union(*found)) == sum(map(len, found)) == 2 * len(found)


def test_another_jobs_answer_is_not_replaced(copy, small_network, tmp_path, monkeypatch):
    monkeypatch.setattr(engine.Engine, "predict", no_prediction)
    (tmp_path / "b.fasta").write_text(">b\nGAMK\n")
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    config = configuration(copy / "one", tmp_path / "b.fasta", jobs=JobOptions(redo=True))
    for start in (run, dry_run.plan):
        with pytest.raises(OutputError, match=r"holds what was predicted for another job, one, .* such as .*one/b"):
            start(config, networks=[small_network])
    assert before == {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}


def test_a_job_that_was_alone_before_is_told_of(copy, source, small_network, monkeypatch, caplog):
    """The directory of a single job, into which several go now: what is there stays, beside theirs."""
    monkeypatch.setattr(engine.Engine, "predict", no_prediction)
    alone = copy / "one"
    before = {path: path.read_bytes() for path in alone.iterdir() if path.is_file()}
    planned = dry_run.plan(configuration(alone, source), networks=[small_network])
    assert {item.finished for item in planned} == {0}
    assert "holds what was predicted for one when that was the only job" in caplog.text
    assert f"one is made again unless you move those files to {alone / 'one'} first" in caplog.text
    assert before == {path: path.read_bytes() for path in alone.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    "change",
    [
        {"sampling": SamplingOptions(seed=5, num_seeds=1)},
        {"recycling": RecyclingOptions(recycles=1)},
        {"jobs": JobOptions(redo=True)},
    ],
)
def test_other_options_make_other_predictions(copy, source, small_network, monkeypatch, change):
    made = []
    monkeypatch.setattr(engine.Engine, "predict", lambda *args: made.append(args) or stop())

    def stop():
        raise PredictionError("enough")

    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    outcomes = run(configuration(copy, source, **change), networks=[small_network])
    assert len(made) == 3 and all("enough" in str(outcome.error) for outcome in outcomes)


def test_a_manifest_is_not_trusted(tmp_path):
    (tmp_path / "secret").write_text("x")
    directory = tmp_path / "out"
    directory.mkdir()
    manifest = Manifest(directory, "job")
    (directory / "a").write_text("a")
    manifest.add("work", "print", ["a"], {"score": 1})
    assert Manifest(directory, "job").finished("work", "print").content == {"score": 1}
    assert (
        Manifest(directory, "job").finished("work", "other") is None
        and Manifest(directory, "job").finished("more", "print") is None
    )
    text = (directory / "manifest.json").read_text()
    for broken in (
        "",
        "[]",
        '{"format": 2}',
        text.replace('"a"', '"../secret"'),
        text.replace('"format": 2', '"format": 9'),
    ):
        (directory / "manifest.json").write_text(broken)
        assert Manifest(directory, "job").finished("work", "print") is None


KILLED = """
import os, sys
from pathlib import Path
from fastfold_jax.config.presets import preset
from fastfold_jax.inference.config import *
from fastfold_jax.inference.run import run

source, out, cache, network, after = sys.argv[1:]
left = [int(after)]
replace = os.replace

def dying(*paths):  # dies like a process that is killed, before or after a file appears
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), 9)
    replace(*paths)

os.replace = dying
from fastfold_jax.backend.compile_cache import use_compile_cache
use_compile_cache(Path(cache))
config = InferenceConfig(
    input=(Path(source),), out=Path(out), params="random", sampling=SamplingOptions(num_seeds=2),
    recycling=RecyclingOptions(recycles=0), answer=AnswerOptions(plots=False),
    execution=ExecutionOptions(precision="float32"),
)
run(config, networks=[preset("model_1_ptm", **eval(network))])
"""
NETWORK = {
    "evoformer_blocks": 1, "extra_msa_blocks": 1, "template_blocks": 1, "structure_layers": 1, "num_msa": 8,
    "num_extra_msa": 8, "c_m": 32, "c_z": 16, "c_s": 32, "c_e": 16, "c_t": 16, "c_outer": 8, "c_template_attention": 16,
}  # fmt: skip


@pytest.mark.slow
def test_killed_at_any_file_and_restarted_gives_the_same_files(source, tmp_path):
    """kill -9 before each file that a run writes, then started again: the files of an undisturbed run."""

    def start(out: Path, after: int) -> int:
        words = [str(source), str(out), str(tmp_path / "cache"), repr(NETWORK), str(after)]
        env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
        done = subprocess.run(
            [sys.executable, "-c", KILLED, *words], cwd=REPOSITORY, env=env, capture_output=True, check=False
        )
        return done.returncode

    assert start(tmp_path / "whole", 10**9) == 0
    undisturbed = content(tmp_path / "whole")
    for after in range(1, 60, 4):
        out = tmp_path / f"killed{after}"
        code = start(out, after)
        assert code in (-signal.SIGKILL, 0)
        if code == 0:
            break
        assert content(out) != undisturbed
        assert start(out, 10**9) == 0
        assert content(out) == undisturbed, f"killed at file {after}"
        assert not list(out.rglob(".*"))
    assert after > 30


def test_killed_in_the_midst_and_restarted(whole, source, small_network, tmp_path, monkeypatch):
    """The same for one point, in this process: an exception that nothing catches, in place of a kill."""
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    writes = []
    write = job_run.write_prediction

    def dying(*args):
        writes.append(args)
        if len(writes) == 3:
            raise SystemExit("killed")
        return write(*args)

    with monkeypatch.context() as patch:
        patch.setattr(job_run, "write_prediction", dying)
        run(configuration(tmp_path, source), networks=[small_network])
    assert content(tmp_path) != content(whole[0])
    run(configuration(tmp_path, source), networks=[small_network])
    assert content(tmp_path) == content(whole[0])
