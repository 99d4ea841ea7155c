"""Which GPUs of its node a process takes, by what SLURM, Open MPI and CUDA say."""

import pytest

from parallel import local_devices as module
from parallel.local_devices import Place, local_devices, place

EIGHT = ",".join(map(str, range(8)))
UUIDS = "GPU-8a56a4bc, GPU-fef8089b"


def slurm(local, tasks="8(x2)", node="1", **others):
    return {"SLURM_LOCALID": local, "SLURM_STEP_TASKS_PER_NODE": tasks, "SLURM_NODEID": node, **others}


def open_mpi(local, size):
    return {"OMPI_COMM_WORLD_LOCAL_RANK": local, "OMPI_COMM_WORLD_LOCAL_SIZE": size}


@pytest.mark.parametrize(
    ("launcher", "environment", "found"),
    [
        ("SLURM", slurm("3"), Place(index=3, processes=8)),
        ("SLURM", slurm("0", "1(x2)"), Place(index=0, processes=1)),
        ("SLURM", slurm("1", "8(x15),4,2", "15"), Place(index=1, processes=4)),
        ("SLURM", slurm("1", "8(x15),4,2", "16"), Place(index=1, processes=2)),
        ("SLURM", slurm("1", "2", "0", SLURM_GPUS_PER_TASK="a100:2"), Place(index=1, processes=2, own=2)),
        ("SLURM", slurm("1", "2", "0", SLURM_GPUS_PER_TASK="4"), Place(index=1, processes=2, own=4)),
        ("SLURM", {"SLURM_LOCALID": "1"}, Place(index=1, processes=None)),
        ("SLURM", {}, None),
        ("Open MPI", open_mpi("2", "4"), Place(index=2, processes=4)),
        ("Open MPI", {"OMPI_COMM_WORLD_LOCAL_RANK": "2"}, Place(index=2, processes=None)),
        ("Open MPI", {}, None),
    ],
)
def test_launchers_say_where_a_process_is(launcher, environment, found):
    assert place(launcher, environment) == found


@pytest.mark.parametrize(
    ("found", "listed", "taken"),
    [
        (Place(index=3, processes=8, own=1), "0", (0,)),  # --ntasks-per-node=8 --gpus-per-task=1
        (Place(index=3, processes=8, own=1), "3", (0,)),
        (Place(index=3, processes=8), EIGHT, (3,)),  # --ntasks-per-node=8 --gpus-per-node=8
        (Place(index=3, processes=8, own=1), EIGHT, (3,)),  # --gpus-per-task=1 --gpu-bind=none
        (Place(index=0, processes=1), EIGHT, tuple(range(8))),  # --ntasks-per-node=1 --gpus-per-node=8
        (Place(index=1, processes=2), EIGHT, (4, 5, 6, 7)),
        (Place(index=1, processes=2), UUIDS, (1,)),
        (Place(index=1, processes=2, own=2), UUIDS, (0, 1)),
        (Place(index=3, processes=4), "6,7", (0, 1)),  # a script beside mpirun gave each two
        (Place(index=2, processes=3), EIGHT, (4, 5)),  # two are left over
        (Place(index=2, processes=None), "5", (0,)),
        (Place(index=2, processes=None), EIGHT, None),
        (Place(index=0, processes=1), "", None),
        (Place(index=0, processes=1), "-1", None),
        (Place(index=0, processes=1), "2,3,-1,4", (0, 1)),  # CUDA reads no further
        (Place(index=0, processes=1), "NoDevFiles", None),
        (None, EIGHT, None),
    ],
)
def test_all_of_one_s_own_or_an_even_share(found, listed, taken):
    assert local_devices(found, {"CUDA_VISIBLE_DEVICES": listed}) == taken


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_without_a_list_the_node_s_gpus_are_counted(monkeypatch, tmp_path, processes):
    monkeypatch.setattr(module, "_DEVICE_FILES", tmp_path)
    assert local_devices(Place(index=0, processes=processes), {}) is None  # none: CPUs
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidia3", "nvidiactl", "nvidia-uvm", "nvidia-caps"):
        (tmp_path / name).touch()
    taken = [local_devices(Place(index=index, processes=processes), {}) for index in range(processes)]
    assert sorted(gpu for ids in taken for gpu in ids) == [0, 1, 2, 3]


def test_jax_s_own_variable_has_the_last_word():
    environment = {"CUDA_VISIBLE_DEVICES": EIGHT, "JAX_LOCAL_DEVICE_IDS": "5"}
    assert local_devices(Place(index=3, processes=8), environment) is None
