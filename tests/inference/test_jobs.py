"""Runs of many jobs: side by side, on several devices, with failures, on a cluster."""

import csv
import dataclasses
import functools
import json
import os
import threading
import time

import jax
import numpy as np
import pytest
from several_jobs import REPOSITORY, atoms, configuration, content, no_prediction

from fastfold_jax.errors import UserError
from fastfold_jax.inference import cli, cluster, dry_run, engine, job_run
from fastfold_jax.inference.compiled_pass import PredictionError
from fastfold_jax.inference.config import (
    ExecutionOptions,
    JobOptions,
    SamplingOptions,
)
from fastfold_jax.inference.run import run


def test_each_job_has_its_directory(whole):
    out, outcomes = whole
    assert [outcome.name for outcome in outcomes] == ["one", "two", "three"]
    assert {outcome.status for outcome in outcomes} == {"done"}
    assert sorted(path.name for path in out.iterdir()) == ["one", "summary.csv", "three", "two"]
    for outcome in outcomes:
        assert (outcome.directory / "ranked_1.cif").exists() and (outcome.directory / "report.html").exists()
    rows = (out / "summary.csv").read_text().splitlines()
    assert rows[0].startswith("job,status,residues") and rows[1].startswith("one,done,7,2,model_1_ptm_seed")


def test_the_summary_has_the_scores_of_the_best_prediction(whole):
    out, outcomes = whole
    with (out / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row, outcome in zip(rows, outcomes, strict=True):
        ranking = json.loads((outcome.directory / "ranking.json").read_text())
        best = ranking["order"][0]
        assert row["best"] == best and int(row["predictions"]) == len(ranking["order"])
        for column, score in (("ranking_confidence", ranking["plddts"][best]), ("ptm", outcome.ranked[0].ptm)):
            assert float(row[column]) == pytest.approx(score, abs=1e-4)


def test_jobs_of_one_size_share_a_program(whole):
    out, _ = whole
    timings = [json.loads((out / name / "timings.json").read_text())["predictions"] for name in ("one", "two")]
    first, second = (job["model_1_ptm_seed0"] for job in timings)
    assert first["compile"] > 0
    assert second["compile"] == 0 and second["compiled_before"]


def test_several_devices_share_the_jobs(whole, source, small_network, tmp_path, monkeypatch):
    out, _ = whole
    used = set()
    predict = engine.Engine.predict

    def watched(self, *args):
        used.update(self.devices)
        return predict(self, *args)

    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:2])
    monkeypatch.setattr(engine.Engine, "predict", watched)
    outcomes = run(configuration(tmp_path, source), networks=[small_network])
    assert used == set(jax.devices()[:2])
    assert [outcome.name for outcome in outcomes] == ["one", "two", "three"]
    assert content(tmp_path) == content(out)


def test_devices_share_a_protein(whole, source, small_network, tmp_path, monkeypatch):
    """Groups of two, sizes padded to multiples of two: the same structures and scores but for rounding."""
    out, _ = whole
    used = []
    predict = engine.Engine.predict

    def watched(self, *args):
        used.append(self.devices)
        return predict(self, *args)

    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:4])
    monkeypatch.setattr(engine.Engine, "predict", watched)
    options = ExecutionOptions(precision="float32", no_compile_cache=True, dap="2")
    run(configuration(tmp_path, source, execution=options), networks=[small_network])
    assert set(used) == {tuple(jax.devices()[:2]), tuple(jax.devices()[2:4])}
    for name in ("one", "two", "three"):
        order, wanted = (json.loads((d / name / "ranking.json").read_text())["order"] for d in (tmp_path, out))
        assert order == wanted
        np.testing.assert_allclose(atoms(tmp_path / name), atoms(out / name), atol=2e-2)


def test_devices_wait_where_writing_falls_behind(source, small_network, tmp_path, monkeypatch):
    made, ahead = [], []

    def predict(self, *args, predict=engine.Engine.predict):
        made.append(predict(self, *args))
        return made[-1]

    def write(*args, write=job_run.write_prediction):
        time.sleep(0.1)  # far longer than a pass takes
        ahead.append(len(made) - len(ahead))
        return write(*args)

    monkeypatch.setattr(engine.Engine, "predict", predict)
    monkeypatch.setattr(job_run, "write_prediction", write)
    monkeypatch.setattr(job_run, "_UNWRITTEN", 2)
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    sampling = SamplingOptions(num_seeds=4)
    outcomes = run(configuration(tmp_path, source, sampling=sampling), networks=[small_network])
    assert [outcome.made for outcome in outcomes] == [4] * 3
    assert max(ahead) == 3  # two that wait to be written, and one in the device's hand


@pytest.fixture
def begin(monkeypatch, tmp_path, small_network):
    """A function from a number of devices to the jobs in the order in which they are begun, with their devices."""
    sizes = {"middle": 5, "long": 6, "short": 4}
    (tmp_path / "x.fasta").write_text("".join(f">{name}\n{'G' * size}\n" for name, size in sizes.items()))

    def begin(number):
        begun, together = [], threading.Barrier(number)

        def predict(self, target, task, on_pass):
            begun.append((target.job.name, len(self.devices)))
            if len(begun) <= number:  # else one device might take all jobs before the other has begun
                together.wait(timeout=60)
            raise PredictionError("enough")

        monkeypatch.setattr(engine.Engine, "predict", predict)
        monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:number])
        run(configuration(tmp_path / "out", tmp_path / "x.fasta"), networks=[small_network])
        return begun

    return begin


def test_one_device_takes_the_shortest_job_first_and_several_the_longest(begin):
    assert begin(1) == [("short", 1), ("middle", 1), ("long", 1)]
    *first, last = begin(2)
    assert sorted(first) == [("long", 1), ("middle", 1)] and last == ("short", 1)


def test_what_fits_on_no_device_comes_last_on_all_of_them(begin, monkeypatch):
    monkeypatch.setattr("fastfold_jax.inference.run.fits", lambda num_res, device: num_res < 6)
    *first, last = begin(2)
    assert sorted(first) == [("middle", 1), ("short", 1)] and last == ("long", 2)


def test_a_failed_job_does_not_stop_the_others(small_network, tmp_path, monkeypatch):
    for name, text in (("bad", ">q\nGAMK\n>h\nGA\n"), ("good", ">q\nGAMK\n"), ("ugly", ">q\nMKWDEGAMK\n")):
        (tmp_path / f"{name}.a3m").write_text(text)
    predict = engine.Engine.predict

    def fails(self, target, task, on_pass):
        if target.job.name == "ugly":
            raise RuntimeError("a defect")
        return predict(self, target, task, on_pass)

    monkeypatch.setattr(engine.Engine, "predict", fails)
    sources = [tmp_path / f"{name}.a3m" for name in ("bad", "good", "ugly")]
    config = configuration(tmp_path / "out", *sources, sampling=SamplingOptions())
    bad, good, ugly = run(config, networks=[small_network])
    assert "bad.a3m, line 3" in str(bad.error) and "a defect" in str(ugly.error)
    assert good.status == "done" and (good.directory / "ranked_0.pdb").exists()
    rows = (tmp_path / "out" / "summary.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows[1:]] == ["failed", "done", "failed"]


def test_failures_show_in_the_exit_code(tmp_path, monkeypatch, capsys):
    import fastfold_jax.inference.run as run_module

    outcome = job_run.JobOutcome(name="x", directory=tmp_path, num_res=1, ranked=(), made=0)
    failed = dataclasses.replace(outcome, error=PredictionError("out of memory"))
    monkeypatch.setattr(cli, "use_compile_cache", lambda directory: None)
    monkeypatch.setattr(cli, "_set_up_logging", lambda *_, **__: None)
    monkeypatch.setattr(run_module, "run", lambda config, report: (outcome, failed))
    assert cli.main(["x.fasta", "--out", str(tmp_path)]) == cli.SOME_FAILED
    assert "1 of 2 jobs failed" in capsys.readouterr().err


def test_a_defect_in_the_only_job_is_not_hidden(small_network, tmp_path, monkeypatch):
    (tmp_path / "x.fasta").write_text(">x\nGAMK\n")
    monkeypatch.setattr(engine.Engine, "predict", no_prediction)
    with pytest.raises(AssertionError, match="predicted again"):
        run(configuration(tmp_path / "out", tmp_path / "x.fasta"), networks=[small_network])


def test_names_from_headers_stay_in_the_output_directory(small_network, tmp_path, monkeypatch):
    headers = ["../../evil", "/etc/passwd", "..", "a\\b", "-rf", "summary.csv", "nul", "x" * 300, "\u202eabc"]
    (tmp_path / "x.fasta").write_text("".join(f">{header}\nGA\n" for header in headers))
    monkeypatch.setattr(engine.Engine, "predict", no_prediction)
    outcomes = run(configuration(tmp_path / "out", tmp_path / "x.fasta"), networks=[small_network])
    assert len({outcome.directory for outcome in outcomes}) == len(headers)
    assert {outcome.directory.resolve().parent for outcome in outcomes} == {(tmp_path / "out").resolve()}
    assert {path.name for path in tmp_path.iterdir()} == {"x.fasta", "out"}


def test_dry_run_runs_nothing_and_writes_nothing(source, small_network, tmp_path, monkeypatch):
    monkeypatch.setattr(engine.Engine, "predict", no_prediction)
    (tmp_path / "bad.a3m").write_text("nonsense")
    config = configuration(tmp_path / "out", source, tmp_path / "bad.a3m")
    planned = {item.name: item for item in dry_run.plan(config, networks=[small_network])}
    assert not (tmp_path / "out").exists()
    assert (planned["one"].chains, planned["one"].predictions, planned["one"].finished) == ((7,), 2, 0)
    assert planned["one"].seconds > planned["three"].seconds > 0
    assert planned["one"].whole >= planned["one"].bytes > planned["three"].bytes > 0
    assert "not an A3M file" in planned["bad"].error
    assert list(planned) == ["bad", "three", "one", "two"]


@pytest.mark.parametrize(("dap", "count"), [("auto", 4), ("2", 2)])
def test_a_process_on_a_cluster_claims_all_that_it_is_given_before_it_uses_any(
    source, small_network, tmp_path, monkeypatch, dap, count
):
    done = []
    monkeypatch.setattr(cluster, "claim_memory", lambda: done.append("memory"))
    monkeypatch.setattr(cluster, "use_compile_cache", lambda directory: done.append(directory))
    monkeypatch.setattr(jax, "local_devices", lambda: done.append("devices") or jax.devices()[:4])
    execution = ExecutionOptions(compile_cache=tmp_path, dap=dap)
    config = configuration(tmp_path / "out", source, execution=execution)
    context, engine = cluster._worker(config, (small_network,))
    assert engine.devices == tuple(jax.devices()[:count])
    assert done == ["memory", tmp_path, "devices"]
    assert cluster._worker(config, (small_network,))[0] is context


def test_a_protein_is_not_split_over_more_gpus_than_a_job_on_a_cluster_gets(source, small_network, tmp_path):
    jobs, execution = JobOptions(cluster="local", cluster_gpus=2), ExecutionOptions(dap="4")
    with pytest.raises(UserError, match="--dap 4: with --cluster-gpus 2, accepted are auto and numbers up to 2"):
        run(configuration(tmp_path / "out", source, jobs=jobs, execution=execution), networks=[small_network])


@pytest.mark.slow
def test_a_cluster_gives_the_same_files(whole, source, small_network, tmp_path, monkeypatch):
    """A Ray cluster of one core of this machine, on whose nodes the package is found where it is here.

    One process does all the jobs, with all the devices that it has, and compiles no program twice.
    """
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "init", functools.partial(ray.init, num_cpus=1))
    paths = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", paths)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # as here: rounding differs
    (tmp_path / "bad.a3m").write_text("nonsense")
    jobs = JobOptions(cluster="local", cluster_gpus=0)
    execution = ExecutionOptions(precision="float32", compile_cache=tmp_path / "cache")
    config = configuration(tmp_path / "out", source, tmp_path / "bad.a3m", jobs=jobs, execution=execution)
    *good, bad = run(config, networks=[small_network])
    assert [outcome.status for outcome in good] == ["done"] * 3 and "not an A3M file" in str(bad.error)
    made, expected = content(tmp_path / "out"), content(whole[0])
    assert made.keys() == expected.keys()
    for name in made:  # the settings and the summary differ
        assert name.endswith(("report.html", "summary.csv")) or made[name] == expected[name]
    assert _programs(tmp_path / "out") == _programs(whole[0])


def _programs(out):
    """How many were compiled by a run's jobs."""
    predictions = [json.loads(path.read_text())["predictions"] for path in out.glob("*/timings.json")]
    return sum(timing["compile"] > 0 for job in predictions for timing in job.values())
