"""Which of a node's GPUs each of its processes takes, where a launcher started several."""

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path

_DEVICE_FILES = Path("/dev")
_NO_GPU = ("", "-1", "NoDevFiles")  # what ends the list of CUDA_VISIBLE_DEVICES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Where on its node a process is.

    Attributes:
      index: Among the node's processes, from 0.
      processes: How many of them there are; None where that is not known.
      own: GPUs that the launcher was asked to give each process, None if it was not.
    """

    index: int
    processes: int | None
    own: int | None = None


def place(launcher: str, environment: Mapping[str, str] = os.environ) -> Place | None:
    """What the launcher says of this process's place; None if nothing."""
    if launcher == "Open MPI":
        index, processes, own = environment.get("OMPI_COMM_WORLD_LOCAL_RANK"), _number("LOCAL_SIZE", environment), None
    else:
        index, processes = environment.get("SLURM_LOCALID"), _of_slurm_node(environment)
        own = re.search(r"\d+$", environment.get("SLURM_GPUS_PER_TASK", ""))  # 2, or a100:2
    if index is None or not index.isdigit():
        return None
    return Place(index=int(index), processes=processes, own=None if own is None else int(own[0]))


def local_devices(found: Place | None, environment: Mapping[str, str] = os.environ) -> tuple[int, ...] | None:
    """The GPUs to take, as indices among those that CUDA shows this process; None leaves the choice to JAX.

    All are taken where the process is alone on its node, and where the launcher shows each process its own: as many as
    it was asked for, or fewer than there are processes. Else the node's processes share them out evenly, in order.
    JAX by itself would take the one of the process's index on the node in every case.
    """
    shown = _shown(environment)
    if found is None or shown == 0 or environment.get("JAX_LOCAL_DEVICE_IDS"):
        return None
    if found.processes is None:
        return (0,) if shown == 1 else None
    if found.processes == 1 or shown < found.processes or shown == found.own:
        return tuple(range(shown))
    share = shown // found.processes
    return tuple(range(found.index * share, (found.index + 1) * share))


def _shown(environment: Mapping[str, str]) -> int:
    """How many GPUs CUDA shows this process: those listed, or where there is no list all of the node's."""
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return sum(path.name.removeprefix("nvidia").isdigit() for path in _DEVICE_FILES.glob("nvidia*"))
    names = [name.strip() for name in listed.split(",")]
    return next((place for place, name in enumerate(names) if name in _NO_GPU), len(names))


def _of_slurm_node(environment: Mapping[str, str]) -> int | None:
    """How many tasks of the step this node has: SLURM lists them by node, as in `8(x15),4`."""
    node, counts = environment.get("SLURM_NODEID", ""), environment.get("SLURM_STEP_TASKS_PER_NODE", "")
    each = [
        int(count)
        for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?(?:,|$)", counts)
        for _ in range(int(times or 1))
    ]
    return each[int(node)] if node.isdigit() and int(node) < len(each) else None


def _number(name: str, environment: Mapping[str, str]) -> int | None:
    text = environment.get(f"OMPI_COMM_WORLD_{name}", "")
    return int(text) if text.isdigit() else None
