"""The stream of batches: resumable anywhere, the same with any number of processes, through grain and orbax."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import cif
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from fastfold_jax.config.presets import preset
from fastfold_jax.data.training.augment import Augmentation
from fastfold_jax.errors import UserError
from fastfold_jax.training import loader
from fastfold_jax.training.dataset import DataConfig, Dataset
from fastfold_jax.training.loader import BatchIterator

MODEL = preset("model_1_ptm", num_msa=8, num_extra_msa=8, num_recycles=1)


@pytest.fixture
def index(tmp_path):
    rng = np.random.default_rng(6)
    return cif.write_dataset(tmp_path, {f"1aa{i}": {"A": cif.random_letters(rng, 20)} for i in range(3)}, rows=4)


def dataset(index, *, seed=0, workers=0, **options) -> Dataset:
    config = DataConfig(index=index, augmentation=Augmentation(crop_size=16), workers=workers, **options)
    return Dataset(config, MODEL, seed=seed, batch_size=2)


def assert_equal(one, other) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_it_goes_on_exactly_where_it_was_saved(index, taken):
    data = dataset(index)
    batches = [data.batch(step)[0] for step in range(6)]
    first = BatchIterator(data)
    for step in range(taken):
        assert_equal(next(first), batches[step])
    state = json.loads(json.dumps(first.get_state()))
    next(first)  # what was made ahead or taken after the save is made again
    first.close()
    second = BatchIterator(dataset(index))
    second.set_state(state)
    assert second.step == taken
    for step in range(taken, 6):
        assert_equal(next(second), batches[step])
    second.close()


def test_going_back_in_the_same_iterator(index):
    stream = BatchIterator(dataset(index))
    state = stream.get_state()
    first = next(stream)
    stream.set_state(state)
    assert_equal(next(stream), first)
    stream.close()


def test_processes_change_nothing(index):
    data = dataset(index, workers=2)
    stream = BatchIterator(data, step=5)
    batches = [next(stream) for _ in range(4)]
    stream.close()
    for step, batch in enumerate(batches, start=5):
        assert_equal(batch, data.batch(step)[0])
    assert all(type(leaf) is np.ndarray or np.isscalar(leaf) for leaf in jax.tree.leaves(batches))


def test_skipped_records_of_processes_are_named_once(index, caplog):
    (index.parent / "structures" / "1aa1.cif").write_text("data_x\n")
    stream = BatchIterator(dataset(index, workers=1))
    for _ in range(8):
        next(stream)
    stream.close()
    assert list(stream.skipped) == ["1aa1_A"] and "no atoms" in stream.skipped["1aa1_A"]
    assert caplog.text.count("skipped 1aa1_A (1 so far): ") == 1


def test_too_little_shared_memory_is_told_beforehand(index, monkeypatch, caplog):
    data = dataset(index, workers=3)
    assert data.batch_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(data.batch(0)[0])) - 4  # the recycles
    monkeypatch.setattr(loader.shutil, "disk_usage", lambda path: SimpleNamespace(free=9 * data.batch_bytes))
    loader._check_shared_memory(data)
    assert "workers may need" not in caplog.text
    monkeypatch.setattr(loader.shutil, "disk_usage", lambda path: SimpleNamespace(free=9 * data.batch_bytes - 1))
    loader._check_shared_memory(data)
    assert "batches made ahead by 3 workers may need" in caplog.text


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_process_reaches_the_user(index, workers):
    data = dataset(index, workers=workers)
    for path in (index.parent / "structures").iterdir():
        path.unlink()
    stream = BatchIterator(data)
    with pytest.raises(UserError, match=r"step 0: 100 records in a row cannot be used.*no such file"):
        next(stream)
    stream.close()


RUN = """
import sys, time
from pathlib import Path
from fastfold_jax.config.presets import preset
from fastfold_jax.training.dataset import DataConfig, Dataset
from fastfold_jax.training.loader import BatchIterator

if __name__ == "__main__":
    model = preset("model_1_ptm", num_msa=8, num_extra_msa=8, num_recycles=1)
    batches = BatchIterator(Dataset(DataConfig(index=Path(sys.argv[1]), workers=1), model, seed=0, batch_size=1))
    next(batches)
    print("ready", flush=True)
    while True:
        time.sleep(0.05)
        next(batches)
        print("batch", flush=True)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")
def test_workers_survive_signals_and_end_with_their_parent(index, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(RUN)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with subprocess.Popen([sys.executable, script, index], stdout=subprocess.PIPE, env=environment, text=True) as run:
        assert run.stdout.readline() == "ready\n"
        children = [
            pid for task in Path(f"/proc/{run.pid}/task").glob("*/children") for pid in task.read_text().split()
        ]
        # One of them is the worker, another looks after shared memory.
        workers = [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert len(workers) == 1
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(workers[0], number)
        assert [run.stdout.readline() for _ in range(8)] == ["batch\n"] * 8
        run.kill()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{workers[0]}/stat").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{workers[0]}/stat").exists()


def test_states_of_other_runs(index, caplog):
    state = BatchIterator(dataset(index, seed=1)).get_state()
    stream = BatchIterator(dataset(index, seed=2))
    with pytest.raises(UserError, match="begun with seed 1, and cannot go on with seed 2"):
        stream.set_state(state)
    with pytest.raises(UserError, match="no position in the training data"):
        stream.set_state({"iterator": 3})
    stream.set_state({**state, "seed": 2, "records": "0" * 16})
    assert "are not those that the run was begun with" in caplog.text


def test_a_checkpoint_holds_it(index, tmp_path):
    stream = BatchIterator(dataset(index), step=3)
    next(stream)
    with ocp.CheckpointManager(tmp_path / "checkpoints") as manager:
        manager.save(4, args=ocp.args.Composite(data=ocp.args.JsonSave(stream.get_state())))
        manager.wait_until_finished()
        restored = manager.restore(4, args=ocp.args.Composite(data=ocp.args.JsonRestore()))
    with stream, BatchIterator(dataset(index)) as other:
        other.set_state(restored["data"])
        assert other.step == 4
        assert_equal(next(stream), next(other))
