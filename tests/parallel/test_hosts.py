"""Runs of several processes: who takes part, agreement, the same numbers as one process, an end when one is lost."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parallel.hosts import HostError, Hosts, agree, connect, fetch, launcher

WORKER = Path(__file__).with_name("two_processes.py")


def _start(mode, count, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    out = tmp_path / f"{mode}{count}.npz"
    return out, [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(port), str(count), str(index), str(out), mode],
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]


def _finish(processes, seconds=280):
    """Exit codes and what was said; no process outlives the test."""
    ends = time.monotonic() + seconds
    try:
        said = [process.communicate(timeout=max(1, ends - time.monotonic()))[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], said


@pytest.mark.slow
def test_two_processes_compute_what_one_does(tmp_path):
    """Prediction and a step down the gradient, four devices in two processes or in one."""
    results = {}
    for count in (1, 2):
        out, processes = _start("step", count, tmp_path)
        codes, said = _finish(processes, 900)
        assert codes == [0] * count, said
        results[count] = np.load(out)
    assert set(results[1]) == set(results[2]) and len(results[1]) > 200
    # Some parameters' steps vanish but for rounding, hence one scale for all.
    longest = max(np.abs(value).max() for name, value in results[1].items() if name.startswith("step_"))
    for name, want in results[1].items():
        scale = longest if name.startswith("step_") else np.abs(want).max()
        np.testing.assert_allclose(results[2][name], want, rtol=1e-5, atol=1e-5 * scale, err_msg=name)


def test_losing_a_process_ends_the_other(tmp_path):
    _, processes = _start("lose", 2, tmp_path)
    codes, said = _finish(processes)
    assert codes[1] == 9
    assert codes[0] not in (0, None)
    assert "lost the connection to another" in said[0] or "coordination service" in said[0].lower(), said[0]


def test_processes_that_disagree_end_with_the_reason(tmp_path):
    _, processes = _start("disagree", 2, tmp_path)
    codes, said = _finish(processes)
    assert codes == [2, 2]
    for index in range(2):
        assert f"seed is {index} in process {index}, but not in {1 - index}" in said[index]
        assert "crop" not in said[index]


def test_one_process_has_nobody_to_ask():
    connect()
    agree(anything=1)
    tree = {"x": jnp.arange(3), "y": 2.0}
    assert fetch(tree)["x"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({}, None),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "2"}, "SLURM"),
        ({"SLURM_NTASKS": "4"}, None),  # a batch script, not a step's process
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, "Open MPI"),
        (  # mpirun in a batch script, whose own index each process inherits
            {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"},
            "Open MPI",
        ),
    ],
)
def test_launchers_are_known_by_their_environment(environment, name):
    assert launcher(environment) == name


SLURM = {
    "SLURM_NTASKS": "16",
    "SLURM_PROCID": "11",
    "SLURM_LOCALID": "3",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "2",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
}
BEFORE_5 = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911"}


@pytest.fixture
def told(monkeypatch):
    """A function from options and an environment to what JAX is told; nobody is waited for."""

    def connected(environment, **options):
        for name in (*SLURM, *OPEN_MPI, *BEFORE_5, "CUDA_VISIBLE_DEVICES", "JOB_COMPLETION_INDEX"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        said = {}
        monkeypatch.setattr(jax.distributed, "initialize", lambda **arguments: said.update(arguments))
        connect(Hosts(**options))
        return {name: value for name, value in said.items() if not name.endswith(("timeout", "seconds"))}

    return connected


def test_jax_is_told_which_gpus_are_the_process_s(told, caplog):
    caplog.set_level("INFO", "parallel.hosts")
    assert told(SLURM | {"CUDA_VISIBLE_DEVICES": "0"}) == {"local_device_ids": (0,)}
    assert told(SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}) == {"local_device_ids": (3,)}
    assert told(OPEN_MPI | BEFORE_5 | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}) == {"local_device_ids": (2,)}
    assert told(SLURM | {"CUDA_VISIBLE_DEVICES": ""}) == {"local_device_ids": None}
    assert told(SLURM | {"CUDA_VISIBLE_DEVICES": "0,1"}, local_device_ids=(1,)) == {"local_device_ids": (1,)}
    assert "with 8 of 8 devices (cpu)" in caplog.text


def test_under_a_launcher_only_the_coordinator_need_be_given(told):
    expected = {
        "coordinator_address": "a:1",
        "num_processes": 4,
        "process_id": 2,
        "local_device_ids": (2,),
        "cluster_detection_method": "deactivate",
    }
    environment = OPEN_MPI | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    assert told(environment, coordinator="a:1") == expected
    assert told(environment, coordinator="a:1", num_processes=3, process_id=1, local_device_ids=(0, 1)) == {
        **expected,
        "num_processes": 3,
        "process_id": 1,
        "local_device_ids": (0, 1),
    }
    # A launcher that started one shell says nothing of processes that are started by hand in it.
    alone = {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "CUDA_VISIBLE_DEVICES": "0,1"}
    by_hand = told(alone, coordinator="a:1", num_processes=2, process_id=1)
    assert by_hand["local_device_ids"] is None and by_hand["cluster_detection_method"] == "deactivate"


@pytest.mark.parametrize("has_mpi4py", [False, True])
def test_open_mpi_5_needs_a_coordinator_or_mpi4py(told, monkeypatch, has_mpi4py):
    monkeypatch.setattr("parallel.hosts.find_spec", lambda name: has_mpi4py or None)
    if has_mpi4py:
        assert told(OPEN_MPI)["cluster_detection_method"] == "mpi4py"
    else:
        with pytest.raises(HostError, match=r"Open MPI 5 or newer .*--coordinator HOST:PORT.*mpi4py"):
            told(OPEN_MPI)
    assert "cluster_detection_method" not in told(OPEN_MPI | BEFORE_5)


def test_a_process_alone_has_no_devices_to_choose(told):
    assert told({}) == {}
    with pytest.raises(HostError, match="CUDA_VISIBLE_DEVICES"):
        told({}, local_device_ids=(1,))


def test_the_index_is_given_the_launcher_s_or_kubernetes():
    hosts = Hosts(coordinator="job-0.svc:8476", num_processes=4)
    assert hosts.index({"JOB_COMPLETION_INDEX": "3"}) == 3
    assert Hosts(coordinator="a:1", num_processes=4, process_id=1).index({"JOB_COMPLETION_INDEX": "3"}) == 1
    assert hosts.index(OPEN_MPI) == 2
    with pytest.raises(HostError, match=r"index \(0 to 3\)"):
        hosts.index({})
    with pytest.raises(HostError, match="accepted are 0 to 3"):
        hosts.index({"JOB_COMPLETION_INDEX": "4"})


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_processes": 2},
        {"process_id": 0},
        {"coordinator": "node1", "num_processes": 2},
        {"coordinator": "node1:http", "num_processes": 2},
        {"coordinator": "node1:8476"},
        {"coordinator": "node1:8476", "num_processes": 0},
    ],
)
def test_incomplete_addresses_are_refused(wrong):
    with pytest.raises(HostError, match="coordinator"):
        Hosts(**wrong)


@pytest.mark.parametrize("wrong", [(), (0, 0), (-1,)])
def test_devices_are_different_numbers(wrong):
    with pytest.raises(HostError, match="local device ids"):
        Hosts(local_device_ids=wrong)
