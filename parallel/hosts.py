"""Several processes as one run: how they find each other, that they agree, what happens when one is lost.

JAX itself reads who takes part from SLURM and Open MPI. Everywhere else, such as in an indexed job of Kubernetes, a
coordinator's address, the number of processes and this process's index are given. Which of its node's GPUs a process
takes, `local_devices.py` says.
"""

import dataclasses
import logging
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from fastfold_jax.errors import UserError
from parallel.local_devices import local_devices, place

logger = logging.getLogger(__name__)

# What launchers set in every process's environment: number of processes, index of this one. Inside a batch script of
# SLURM's, `mpirun` passes that on too, with the index of the script: it comes first, as in JAX.
_LAUNCHERS = {
    "Open MPI": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    "SLURM": ("SLURM_NTASKS", "SLURM_PROCID"),
}
_OPEN_MPI_BEFORE_5 = "OMPI_MCA_orte_hnp_uri"  # where JAX finds the first process's node
_KUBERNETES_INDEX = "JOB_COMPLETION_INDEX"


class HostError(UserError):
    """The processes of a run could not start together, disagree, or have lost one of them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hosts:
    """Who takes part. All None: what the launcher says, and a single process where there is none.

    Attributes:
      coordinator: `host:port` that process 0 listens on and all others can reach.
      num_processes: How many there are; by default what the launcher says.
      process_id: Which this is, from 0; by default what the launcher says, in an indexed job of Kubernetes its
        completion index.
      local_device_ids: GPUs that this process takes, as indices among those that CUDA shows it; by default its part.
      start_seconds: How long to wait for the others at the start.
      lost_seconds: How long a process may be silent before the others give it up and end.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    local_device_ids: tuple[int, ...] | None = None
    start_seconds: int = 300
    lost_seconds: int = 60

    def __post_init__(self):
        ids = self.local_device_ids
        if ids is not None and (not ids or min(ids) < 0 or len(set(ids)) < len(ids)):
            raise HostError(f"local device ids {list(ids)}: accepted are different numbers from 0, at least one")
        if self.coordinator is None:
            if self.num_processes is not None or self.process_id is not None:
                raise HostError("a number of processes or an index without the coordinator's address, host:port")
            return
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdigit():
            raise HostError(f"coordinator {self.coordinator}: accepted is host:port, such as node1:8476")
        if self.size() is None or (self.num_processes is not None and self.num_processes < 1):
            raise HostError(f"coordinator {self.coordinator} needs the number of processes, 1 or more")

    def size(self, environment: Mapping[str, str] = os.environ) -> int | None:
        """How many processes the coordinator waits for; None if neither given nor the launcher's to say."""
        name = launcher(environment)
        if self.num_processes is not None or name is None:
            return self.num_processes
        return int(environment[_LAUNCHERS[name][0]])

    def index(self, environment: Mapping[str, str] = os.environ) -> int:
        """This process's index among those that the coordinator waits for.

        Raises:
          HostError: if neither given nor found, or none of theirs.
        """
        name = launcher(environment)
        said = _KUBERNETES_INDEX if name is None else _LAUNCHERS[name][1]
        found = environment.get(said) if self.process_id is None else self.process_id
        last = (self.size(environment) or 1) - 1
        if found is None:
            raise HostError(
                f"coordinator {self.coordinator} needs this process's index (0 to {last}): it was not given, and "
                f"{said} is not set"
            )
        if not str(found).isdigit() or int(found) > last:
            raise HostError(f"process index {found}: accepted are 0 to {last}")
        return int(found)


def launcher(environment: Mapping[str, str] = os.environ) -> str | None:
    """Which launcher started this process as one of several; None if it is alone."""
    for name, (count, index) in _LAUNCHERS.items():
        if environment.get(count, "").isdigit() and int(environment[count]) > 1 and index in environment:
            return name
    return None


def connect(hosts: Hosts = Hosts()) -> None:
    """Joins the other processes; does nothing where there are none. Must come before any use of a device.

    Raises:
      HostError: if they do not all come.
    """
    name = launcher()
    if hosts.coordinator is None and name is None:
        if hosts.local_device_ids is not None:
            raise HostError("local device ids are for one of several processes; CUDA_VISIBLE_DEVICES chooses for one")
        return
    arguments = _arguments(hosts, name)
    try:
        jax.distributed.initialize(
            **arguments, initialization_timeout=hosts.start_seconds, heartbeat_timeout_seconds=hosts.lost_seconds
        )
    except (RuntimeError, ValueError) as error:
        who = hosts.coordinator or name
        raise HostError(f"the processes did not start together ({who}): {_first_line(error)}") from error
    logger.info(
        "process %d of %d, with %d of %d devices (%s)",
        jax.process_index(),
        jax.process_count(),
        jax.local_device_count(),
        jax.device_count(),
        jax.local_devices()[0].device_kind,
    )


def _arguments(hosts: Hosts, name: str | None, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """What JAX is told of who takes part and with which devices.

    Raises:
      HostError: if it could not find the others.
    """
    ids = hosts.local_device_ids
    if ids is None and name is not None:
        ids = local_devices(place(name, environment), environment)
    arguments: dict[str, Any] = {"local_device_ids": ids}
    if hosts.coordinator is not None:
        arguments["coordinator_address"] = hosts.coordinator
        arguments["num_processes"] = hosts.size(environment)
        arguments["process_id"] = hosts.index(environment)
        arguments["cluster_detection_method"] = "deactivate"  # it would take one device, of the launcher's index
    elif name == "Open MPI" and _OPEN_MPI_BEFORE_5 not in environment:
        if find_spec("mpi4py") is None:
            raise HostError(
                "Open MPI 5 or newer does not tell where its first process is: give --coordinator HOST:PORT, a free "
                "port of that process's host (who takes part is known), or install mpi4py"
            )
        arguments["cluster_detection_method"] = "mpi4py"
    return arguments


def agree(**facts: Any) -> None:
    """Checks that something is the same in all processes, such as configurations, versions, numbers of devices.

    Every process must call it, with facts of the same names.

    Raises:
      HostError: in every process if they disagree; it names the fact, its value here, and where it is another.
    """
    if jax.process_count() == 1:
        return
    names = sorted(facts)
    texts = {name: repr(facts[name]) for name in names}
    # Which facts there are is a fact itself, and keeps arrays of one size everywhere.
    digests = np.array([[zlib.crc32(repr(names).encode()), _digest(texts)]], np.uint32)
    rows = np.asarray(multihost_utils.process_allgather(digests, tiled=True))
    if len(set(rows[:, 0].tolist())) > 1:
        raise HostError(f"processes compare different things; process {jax.process_index()} compares {names}")
    if len(set(rows[:, 1].tolist())) == 1:
        return
    each = np.array([[zlib.crc32(texts[name].encode()) for name in names]], np.uint32)
    table = np.asarray(multihost_utils.process_allgather(each, tiled=True))
    mine, messages = jax.process_index(), []
    for column, name in enumerate(names):
        others = [index for index, value in enumerate(table[:, column]) if value != table[mine, column]]
        if others:
            messages.append(f"{name} is {texts[name]} in process {mine}, but not in {', '.join(map(str, others))}")
    raise HostError("the processes disagree: " + "; ".join(messages or ["in others of what they compare"]))


@contextmanager
def watched() -> Iterator[None]:
    """Turns the failure of a collective, which is what the loss of another process looks like, into a message.

    Raises:
      HostError: if another process was lost.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1 or not any(sign in str(error) for sign in _SIGNS_OF_LOSS):
            raise
        raise HostError(
            f"process {jax.process_index()} of {jax.process_count()} lost the connection to another, which has ended "
            f"or is out of reach; its own output says why ({_first_line(error)})"
        ) from error


_SIGNS_OF_LOSS = ("Gloo", "gloo", "NCCL", "UNAVAILABLE", "Connection", "heartbeat", "coordination service")


def fetch(tree: Any) -> Any:
    """Arrays as NumPy arrays, whole; in several processes every one must call it, and gets them."""
    leaves, treedef = jax.tree.flatten(tree)
    spread = [isinstance(leaf, jax.Array) and not leaf.is_fully_addressable for leaf in leaves]
    parts = [leaf for leaf, apart in zip(leaves, spread, strict=True) if apart]
    gathered = iter(multihost_utils.process_allgather(parts, tiled=True) if parts else ())
    whole = [next(gathered) if apart else jax.device_get(leaf) for leaf, apart in zip(leaves, spread, strict=True)]
    return jax.tree.unflatten(treedef, whole)


def _digest(texts: Mapping[str, str]) -> int:
    return zlib.crc32(repr(sorted(texts.items())).encode())


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
