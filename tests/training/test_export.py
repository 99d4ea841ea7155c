"""`python -m fastfold_jax.training.export`: averaged parameters of a run that goes on, or ended early, as a file."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_stage import STAGE

from fastfold_jax.params import store
from fastfold_jax.training import export, run
from fastfold_jax.training.checkpoint import Checkpoints
from fastfold_jax.training.step import TrainState, start_state

FACTS = {"preset": "demo", "network": STAGE.model.name, "seed": 0, "batch_size": STAGE.batch_size}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """The preset `demo` stands for a tiny stage."""
    found = export.stage
    monkeypatch.setattr(export, "stage", lambda name: STAGE if name == "demo" else found(name))


@pytest.fixture(scope="module")
def state_after():
    """What a run might hold after so many steps: an average that no other step has, and that no parameters are."""
    start = start_state(STAGE, 0)

    def state(step: int) -> TrainState:
        average = jax.tree.map(lambda leaf: leaf + step, start.parameters)
        return dataclasses.replace(start, average=average, step=jnp.int32(step))

    return state


def exported(directory, path, preset: str = "demo") -> int:
    return export.main([str(directory), "--preset", preset, "--out", str(path)])


def test_the_latest_checkpoint_of_a_run_that_goes_on_is_exported(tmp_path, capsys, state_after):
    """Which is not disturbed, not even in the midst of saving the next."""
    checkpoints, path = Checkpoints(tmp_path / "run" / "checkpoints", facts=FACTS, keep=2), tmp_path / "params.npz"
    for step in (1, 2):
        checkpoints.save(step, state_after(step), {})
        checkpoints.wait()
        begun = checkpoints.directory / f"{step + 1}.orbax-checkpoint-tmp-0"
        begun.mkdir()
        assert exported(tmp_path / "run", path) == 0
        assert f"wrote {path} of step {step}" in capsys.readouterr().err
        found = store.load(path, STAGE.model)
        jax.tree.map(np.testing.assert_array_equal, found, state_after(step).average)
        assert begun.is_dir()
        begun.rmdir()
    checkpoints.close()


def test_after_the_last_step_it_is_the_file_that_the_run_writes(tmp_path, state_after):
    state = state_after(STAGE.steps)
    checkpoints = Checkpoints(tmp_path / "checkpoints", facts=FACTS)
    checkpoints.save(STAGE.steps, state, {})
    checkpoints.close()
    path = run.export(state, STAGE, tmp_path)
    assert exported(tmp_path, tmp_path / "exported.npz") == 0
    with np.load(path) as expected, np.load(tmp_path / "exported.npz") as found:
        assert found.files == expected.files
        for name in found.files:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_what_cannot_be_exported_is_an_error_of_one_line(tmp_path, capsys, state_after):
    (tmp_path / "begun" / "checkpoints").mkdir(parents=True)
    other = Checkpoints(tmp_path / "other" / "checkpoints", facts=FACTS | {"network": "model_1"})
    other.save(1, state_after(1), {})
    other.close()
    for directory, preset, said in (
        ("nowhere", "demo", "nowhere: holds no checkpoints; accepted is an output directory of train.py"),
        ("begun", "demo", "holds no checkpoint yet"),
        ("other", "demo", "holds checkpoints of another run (network 'model_1' instead of 'demo')"),
        ("begun", "nonesuch", "no training preset is called 'nonesuch'; accepted are initial, "),
    ):
        assert exported(tmp_path / directory, tmp_path / "params.npz", preset) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("python -m fastfold_jax.training.export: error: ") and said in line
    assert not (tmp_path / "params.npz").exists()
