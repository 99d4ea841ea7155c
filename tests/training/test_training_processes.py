"""Runs of one and of two processes: killed and resumed bit for bit, ended together when one cannot go on."""

import json
import resource
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from tiny_stage import STRUCTURES

from fastfold_jax.training.processes import Stop
from parallel import make_mesh

STEPS = 12

# What a process runs: the tiny stage, from the command line.
_SCRIPT = f"""
import sys
sys.path[:0] = {[str(STRUCTURES.parents[2]), str(STRUCTURES.parents[1] / "training")]!r}
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_disable_most_optimizations", True)
import tiny_stage
from fastfold_jax.training import options
options.stage = lambda name: tiny_stage.dataclasses.replace(tiny_stage.STAGE, steps={STEPS})
from fastfold_jax.training.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def start(
    index, out, cache, *extra: str, largest_file: int = resource.RLIM_INFINITY, script: str = _SCRIPT
) -> subprocess.Popen:
    command = [sys.executable, "-c", script, "--compile-cache", str(cache)]
    command += ["--index", str(index), "--out", str(out), "--preset", "demo"]
    command += ["--allow-no-alignment", "--deleted-blocks", "0", "--loader-workers", "0", "--precision", "float32"]
    command += ["--no-remat", "--checkpoint-every", "2", *extra]
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY)),
    )


def start_two(indices, out, cache, *extra: tuple[str, ...]) -> list[subprocess.Popen]:
    """Two processes with a device each, which exchange gradients; `extra` are options of the first and the second."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    group = ["--coordinator", f"localhost:{port}", "--num-processes", "2", "--data", "2"]
    each = extra or ((), ())
    return [
        start(index, out, cache, *group, "--process-id", str(number), *own)
        for number, (index, own) in enumerate(zip(indices, each, strict=True))
    ]


def finish(processes, seconds=900) -> tuple[list[int], list[str]]:
    """Exit codes, and what was said; no process outlives the test."""
    ends = time.monotonic() + seconds
    try:
        said = [process.communicate(timeout=max(1, ends - time.monotonic()))[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], said


def succeed(processes) -> None:
    codes, said = finish(processes)
    assert codes == [0] * len(processes), [text[-2000:] for text in said]


def wait_for_step(processes, out, number: int) -> None:
    path = out / "metrics.jsonl"
    while not path.exists() or path.read_text().count("\n") <= number:
        assert all(process.poll() is None for process in processes), processes[0].stderr.read()[-2000:]
        time.sleep(0.01)


def parameters(out) -> dict[str, np.ndarray]:
    with np.load(out / "params_demo.npz", allow_pickle=False) as archive:
        return dict(archive)


def losses(out) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_killed_and_resumed_runs_equal_uninterrupted_ones(index, tmp_path, cache, count):
    """`kill -9` at a random step, on one process and on two with a collective between them."""

    def processes(out):
        return [start(index, out, cache)] if count == 1 else start_two([index] * 2, out, cache)

    succeed(processes(tmp_path / "whole"))
    killed = processes(tmp_path / "killed")
    wait_for_step(killed, tmp_path / "killed", int(np.random.default_rng().integers(1, STEPS - 2)))
    for process in killed:
        process.kill()
        process.communicate()
    succeed(processes(tmp_path / "killed"))
    first, second = parameters(tmp_path / "whole"), parameters(tmp_path / "killed")
    assert set(first) == set(second)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    assert losses(tmp_path / "whole") == losses(tmp_path / "killed") and len(losses(tmp_path / "whole")) == STEPS


def test_a_signal_to_one_process_is_heard_by_all(monkeypatch):
    """On devices of this process, as if they were several's."""
    stop, mesh = Stop(), make_mesh(data=2, dap=4)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    before = stop.poll(mesh)
    stop.ask(signal.SIGTERM, None)
    assert stop.poll(mesh)() and not before()


_ASKED_EARLY = _SCRIPT.replace(
    "sys.exit(",
    """
import os, signal
from fastfold_jax.training import run
begin = run._initial
run._initial = lambda *arguments: (os.kill(os.getpid(), signal.SIGTERM), begin(*arguments))[1]
sys.exit(""",
)


def test_a_signal_before_the_first_step_is_heard(index, tmp_path, cache):
    """When JAX has connected and would let it pass."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    alone = ["--coordinator", address, "--num-processes", "1", "--process-id", "0"]
    codes, said = finish([start(index, tmp_path, cache, *alone, script=_ASKED_EARLY)], 150)
    assert codes == [0] and "SIGTERM: saving" in said[0], said[0][-2000:]
    assert not (tmp_path / "metrics.jsonl").exists() or not losses(tmp_path)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()} == {"0"}


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_at_the_same_step(index, tmp_path, cache):
    """Which both have saved then: the run that goes on equals one that was never stopped."""
    succeed(start_two([index] * 2, tmp_path / "whole", cache))
    stopped = start_two([index] * 2, tmp_path / "stopped", cache)
    wait_for_step(stopped, tmp_path / "stopped", 1)
    stopped[1].send_signal(signal.SIGTERM)
    succeed(stopped)
    assert 1 < len(losses(tmp_path / "stopped")) < STEPS
    succeed(start_two([index] * 2, tmp_path / "stopped", cache))
    assert losses(tmp_path / "whole") == losses(tmp_path / "stopped")


@pytest.mark.slow
def test_checkpoints_that_do_not_fit_on_the_disk(index, tmp_path, cache):
    """Files that may not grow are what a full disk is to the threads and the C++ that write checkpoints."""
    succeed([start(index, tmp_path / "whole", cache)])
    codes, said = finish([start(index, tmp_path / "full", cache, largest_file=100_000)])
    assert codes == [2] and "a checkpoint could not be written" in said[0], said[0][-2000:]
    assert len(losses(tmp_path / "full")) == STEPS
    assert not any(path.name.isdigit() for path in (tmp_path / "full" / "checkpoints").iterdir())
    succeed([start(index, tmp_path / "full", cache)])
    assert losses(tmp_path / "whole") == losses(tmp_path / "full")


@pytest.mark.slow
def test_a_lost_process_ends_the_other_with_a_message(index, tmp_path, cache):
    processes = start_two([index] * 2, tmp_path, cache, *[("--steps", "100000")] * 2)
    wait_for_step(processes, tmp_path, 1)
    processes[1].kill()
    codes, said = finish(processes, 150)
    assert codes[0] not in (0, None)
    assert "lost the connection to another" in said[0] or "coordination service" in said[0].lower(), said[0][-2000:]


def test_processes_with_other_options_do_not_begin(index, tmp_path, cache):
    options = [("--seed", "1", "--max-chains", "4"), ("--seed", "2", "--max-chains", "4")]
    codes, said = finish(start_two([index] * 2, tmp_path, cache, *options), 150)
    assert codes == [2, 2], said
    for number in range(2):
        assert f"--seed is {number + 1} in process {number}, but not in {1 - number}" in said[number]
        assert "--max-chains" not in said[number]
    assert not (tmp_path / "metrics.jsonl").exists()


def test_what_one_process_fails_at_ends_both(index, tmp_path, cache):
    """An index that is damaged on one host alone."""
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_text("{}\n")
    codes, said = finish(start_two([index, damaged], tmp_path / "out", cache), 150)
    assert codes == [2, 2], said
    assert "process 1 of 2 could not begin; its own output says why" in said[0]
    assert "damaged.jsonl: not an index" in said[1]


def test_programs_are_kept_only_where_all_processes_see_them(index, tmp_path, cache):
    damaged = tmp_path / "damaged.jsonl"  # so that they end soon
    damaged.write_text("{}\n")
    other = tmp_path / "of another host"
    _, said = finish(start_two([damaged] * 2, tmp_path, cache, (), ("--compile-cache", str(other))), 150)
    assert all("compiled programs are not kept" in text for text in said), said
    _, said = finish(start_two([damaged] * 2, tmp_path, cache), 150)
    assert not any("compiled programs are not kept" in text for text in said), said
    assert not list(cache.glob(".*.seen-by-all"))


@pytest.mark.slow
def test_processes_with_other_data_do_not_begin(index, tmp_path, cache):
    """The same options, but on one host an index with less in it."""
    fewer = index.with_name("fewer.jsonl")
    fewer.write_text("".join(index.read_text().splitlines(keepends=True)[:-1]))
    codes, said = finish(start_two([index, fewer], tmp_path, cache), 150)
    assert codes == [2, 2], said
    assert all("training data is" in text for text in said)
