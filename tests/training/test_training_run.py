"""Whole runs: interrupted, killed, resumed bit for bit; full disks, damaged checkpoints, data that lead nowhere."""

import copy
import dataclasses
import errno
import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest
from tiny_stage import STAGE, STRUCTURES

from fastfold_jax.config import training as table
from fastfold_jax.errors import UserError
from fastfold_jax.model.alphafold import init_state
from fastfold_jax.params import store
from fastfold_jax.training import options, run
from fastfold_jax.training.checkpoint import CheckpointError, Checkpoints
from fastfold_jax.training.cli import main
from fastfold_jax.training.processes import Stop
from fastfold_jax.training.recorder import Recorder
from fastfold_jax.training.run import TrainingError
from fastfold_jax.training.step import start_state
from fastfold_jax.training.validation import Validation


@pytest.fixture(autouse=True)
def tiny(monkeypatch, compiled_once):
    """The preset `demo` stands for a tiny stage, on one device."""
    monkeypatch.setattr(options, "stage", lambda name: STAGE)
    monkeypatch.setattr(run, "make_mesh", lambda **_: _mesh())


def _mesh():
    from parallel import make_mesh

    return make_mesh(devices=jax.devices()[:1])


def config(index, out, **changes) -> options.TrainConfig:
    chains = options.ChainOptions(index=index, allow_no_alignment=True, deleted_blocks=0, loader_workers=0)
    return options.TrainConfig(
        out=out,
        chains=chains,
        preset="demo",
        machine=options.MachineOptions(precision="float32", no_remat=True),
        **{"checkpoint_every": 1, "log_every": 1, **changes},
    )


def parameters(out) -> dict[str, np.ndarray]:
    with np.load(out / "params_demo.npz", allow_pickle=False) as archive:
        return dict(archive)


def lines(out) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def assert_equal_runs(one, other):
    first, second = parameters(one), parameters(other)
    assert set(first) == set(second)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    figures = [[(entry["step"], entry["loss"], entry["gradient_norm"]) for entry in lines(out)] for out in (one, other)]
    assert figures[0] == figures[1] and [entry[0] for entry in figures[0]] == list(range(STAGE.steps))


@pytest.fixture(scope="module")
def uninterrupted(index, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        import tiny_stage

        patch.setattr(options, "stage", lambda name: STAGE)
        patch.setattr(run, "make_mesh", lambda **_: _mesh())
        patch.setattr(run, "make_step", tiny_stage.shared_step)
        out = tmp_path_factory.mktemp("uninterrupted")
        run.run(config(index, out))
    return out


def at_step(monkeypatch, number: int, action):
    """Does something while step `number` is recorded."""
    record = Recorder.step

    def step(self, done, metrics, residues):
        record(self, done, metrics, residues)
        if done == number:
            action()

    monkeypatch.setattr(Recorder, "step", step)


def test_a_run_leaves_parameters_metrics_and_options(uninterrupted):
    entries = lines(uninterrupted)
    assert [entry["step"] for entry in entries] == list(range(STAGE.steps))
    assert all(np.isfinite(entry["loss"]) and entry["skipped"] == 0 for entry in entries)
    assert {"step_seconds", "residues_per_second", "lddt_ca", "loss/backbone_fape"} <= set(entries[0])
    assert json.loads((uninterrupted / "config.json").read_text())["preset"] == "demo"
    assert any((uninterrupted / "tensorboard").iterdir())
    assert all(array.dtype == np.float32 for array in parameters(uninterrupted).values())


def test_sigterm_saves_and_the_next_run_goes_on_bit_for_bit(index, tmp_path, monkeypatch, uninterrupted):
    with monkeypatch.context() as patch:
        at_step(patch, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
        run.run(config(index, tmp_path, checkpoint_every=100))  # only SIGTERM makes it save
    assert not (tmp_path / "params_demo.npz").exists()
    run.run(config(index, tmp_path, checkpoint_every=100))
    assert_equal_runs(tmp_path, uninterrupted)


def test_whether_to_stop_is_read_behind_the_next_step(index, tmp_path, monkeypatch, uninterrupted):
    """So devices of several processes, whose answer comes behind the step before, never wait for it."""
    import tiny_stage

    events, poll, make_step = [], Stop.poll, tiny_stage.shared_step

    def noted(event, call):
        return lambda *arguments: (events.append(event), call(*arguments))[1]

    monkeypatch.setattr(Stop, "poll", noted("poll", lambda self, mesh: noted("read", poll(self, mesh))))
    monkeypatch.setattr(run, "make_step", lambda *arguments, **_: noted("step", make_step(*arguments)))
    run.run(config(index, tmp_path))
    assert events == ["poll", "read"] + ["poll", "step", "read"] * STAGE.steps


def test_saving_copies_nothing_and_outlives_the_state(tmp_path):
    """The state is donated to the next step while it is still being written."""
    state = start_state(STAGE, 0)
    checkpoints = Checkpoints(tmp_path, facts={})
    want = [np.array(leaf) for leaf in jax.tree.leaves(state.parameters)]
    copied, deepcopy = [], copy.deepcopy
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copy, "deepcopy", lambda x, *memo: (copied.append(x), deepcopy(x, *memo))[1])
        checkpoints.save(1, state, {})
    assert not any(isinstance(x, jax.Array) for x in copied)
    state = jax.jit(lambda old: jax.tree.map(lambda x: x * 0 + 7, old), donate_argnums=0)(state)
    jax.block_until_ready(state)
    checkpoints.wait()
    found = checkpoints.restore(state).state
    checkpoints.close()
    for got, expected in zip(jax.tree.leaves(found.parameters), want, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_an_exception_anywhere_costs_no_more_than_the_steps_since_the_checkpoint(
    index, tmp_path, monkeypatch, uninterrupted
):
    with monkeypatch.context() as patch:
        at_step(patch, 2, lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run.run(config(index, tmp_path))
    run.run(config(index, tmp_path))
    assert_equal_runs(tmp_path, uninterrupted)


def test_a_damaged_checkpoint_is_left_out(index, tmp_path, monkeypatch, uninterrupted, caplog):
    with monkeypatch.context() as patch:
        at_step(patch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        run.run(config(index, tmp_path))
    steps = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit())
    assert len(steps) >= 2
    for path in (tmp_path / "checkpoints" / str(steps[-1])).rglob("*"):
        if path.is_file() and path.stat().st_size > 8:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    # What a kill in the midst of saving leaves has a name of its own, and is nothing to begin with.
    (tmp_path / "checkpoints" / f"{steps[-1] + 1}.orbax-checkpoint-tmp-0").mkdir()
    run.run(config(index, tmp_path))
    assert f"checkpoint {steps[-1]} is damaged" in caplog.text
    assert_equal_runs(tmp_path, uninterrupted)
    # The same step has been saved again in its place.
    caplog.clear()
    run.run(config(index, tmp_path))
    assert "is damaged" not in caplog.text


def test_nothing_but_damaged_checkpoints_is_an_error(index, tmp_path):
    run.run(config(index, tmp_path))
    for path in (tmp_path / "checkpoints").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"none of its checkpoints .* the latest because of: .*another --out"):
        run.run(config(index, tmp_path))


def test_checkpoints_of_another_run_are_not_gone_on_with(index, tmp_path, uninterrupted):
    with pytest.raises(CheckpointError, match="seed 0 instead of 5"):
        run.run(config(index, uninterrupted, seed=5))


def test_a_full_disk_stops_no_training_and_costs_no_earlier_checkpoint(index, tmp_path, monkeypatch, caplog):
    save, calls = Checkpoints.save, []

    def full(self, step, *arguments):
        calls.append(step)
        if step == STAGE.steps:  # the last does not fit any more
            error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            monkeypatch.setattr(self._manager, "save", lambda *_, **__: (_ for _ in ()).throw(error))
        save(self, step, *arguments)

    monkeypatch.setattr(Checkpoints, "save", full)
    with pytest.raises(CheckpointError, match=rf"No space left on device.*the last is of step {STAGE.steps - 1}"):
        run.run(config(index, tmp_path))
    assert len(lines(tmp_path)) == STAGE.steps
    assert calls[-1] == STAGE.steps
    assert parameters(tmp_path)  # all steps were made


def test_steps_without_finite_gradient_end_the_run_with_a_diagnosis(index, tmp_path, monkeypatch):
    import tiny_stage

    inner = tiny_stage.shared_step

    def broken(stage, execution, mesh, **_):
        step = inner(stage, execution, mesh)

        def on_nan(state, batch):
            positions = jax.tree.map(lambda leaf: leaf * np.nan, batch.labels.atom_positions)
            return step(
                state, dataclasses.replace(batch, labels=dataclasses.replace(batch.labels, atom_positions=positions))
            )

        return on_nan

    monkeypatch.setattr(run, "make_step", broken)
    with pytest.raises(TrainingError, match=r"3 steps in a row.*not finite are .*No step succeeded since the start"):
        run.run(config(index, tmp_path))
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()  # which JSON has no word for
    assert lines(tmp_path)[0]["loss"] is None and lines(tmp_path)[0]["skipped"] == 1


def test_too_little_memory_is_an_error_with_advice(index, tmp_path, monkeypatch):
    def full(state, batch):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes")

    monkeypatch.setattr(run, "make_step", lambda *_, **__: full)
    with pytest.raises(TrainingError, match=r"out of memory at 16 residues, 4 MSA rows and 4 extra .*--memory-budget"):
        run.run(config(index, tmp_path))


def test_validation_keeps_to_the_memory_budget(index, tmp_path, monkeypatch, uninterrupted):
    """The step is one compiled before; what is chunked here are validation's passes, before the last and it."""
    budgets, chunked = [], run.autochunk
    monkeypatch.setattr(
        run, "autochunk", lambda apply, memory_budget: budgets.append(memory_budget) or chunked(apply, memory_budget)
    )
    machine = options.MachineOptions(precision="float32", no_remat=True, memory_budget="2")
    validation = options.ValidationOptions(validation_index=index, validation_limit=1)
    run.run(dataclasses.replace(config(index, tmp_path), machine=machine, validation=validation))
    assert budgets == [2 * 2**30] * 2
    scores = lines(tmp_path)[-1]
    assert (scores["kind"], scores["step"], scores["chains"]) == ("validation", STAGE.steps, 1)


def test_validations_and_checkpoints_are_as_many_as_asked_for(index, tmp_path, monkeypatch, uninterrupted):
    """And what is validated, at the end too, is the average."""
    validated = []

    def note(self, average):
        validated.append(jax.tree.map(np.array, average))
        return {"chains": float(len(validated))}

    monkeypatch.setattr(Validation, "run", note)
    validation = options.ValidationOptions(validation_index=index, validate_every=3)
    run.run(config(index, tmp_path, validation=validation, keep_checkpoints=2))
    scores = [(entry["step"], entry["chains"]) for entry in lines(tmp_path) if entry["kind"] == "validation"]
    assert scores == [(3, 1.0), (STAGE.steps, 2.0)]
    average = store.load(uninterrupted / "params_demo.npz", STAGE.model)
    jax.tree.map(np.testing.assert_array_equal, validated[-1], average)
    kept = {int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()}
    assert kept == {STAGE.steps - 1, STAGE.steps}


def test_a_stage_that_adds_a_head_goes_on_with_the_one_before(index, tmp_path):
    """As `ptm` does with `fine-tuning`."""
    before = dataclasses.replace(STAGE.model, ptm_head=False)
    store.save(init_state(before, 1), before, tmp_path / "before.npz")
    state = run._initial(config(index, tmp_path, init=tmp_path / "before.npz"), STAGE)
    assert jax.tree.structure(state) == jax.tree.structure(init_state(STAGE.model, 0))


def test_unusable_data_is_an_error_before_the_first_step(tmp_path):
    from fastfold_jax.training.index import IndexConfig, build_index

    structures = tmp_path / "structures"
    structures.mkdir()
    shutil.copy(STRUCTURES / "1l2y.pdb", structures)
    build_index(IndexConfig(structures=structures, out=tmp_path / "index.jsonl", workers=1))
    (structures / "1l2y.pdb").write_text("HEADER    no atoms any more\nEND\n")
    with pytest.raises(UserError, match="nothing in it can be used"):
        run.run(config(tmp_path / "index.jsonl", tmp_path / "out"))
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--preset", "nonesuch"], "accepted are initial, fine-tuning, ptm, multimer, multimer-fine-tuning, demo"),
        (["--checkpoint-every", "0"], "--checkpoint-every 0: accepted are numbers from 1"),
        (["--staps", "3"], "--staps: no such option, perhaps --steps; see --help"),
        (["--preset", "demo"], "nonesuch.jsonl"),
    ],
)
def test_errors_of_users_take_one_line(arguments, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(options, "stage", table.stage)
    paths = ["--index", str(tmp_path / "nonesuch.jsonl"), "--out", str(tmp_path / "out")]
    assert main([*paths, "--no-compile-cache", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fastfold-train: error: ") and said in line
