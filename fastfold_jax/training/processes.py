"""What the processes of one run do together: agree, begin or fail as one, share out the data, stop at the same step."""

import dataclasses
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fastfold_jax.errors import UserError
from fastfold_jax.training.options import TrainConfig
from parallel.hosts import HostError

_LOG = logging.getLogger(__name__)

_OWN = ("verbose", "coordinator", "num_processes", "process_id", "local_device_ids")
"""Options that may differ."""

_LAST_WORDS_SECONDS = 3.0


def shared_options(config: TrainConfig) -> dict[str, Any]:
    """The options that all processes of a run must have in common, by name.

    Of files and directories only whether they are given: hosts may have them in different places.
    """
    groups = [config, *(value for value in vars(config).values() if dataclasses.is_dataclass(value))]
    options = {name: value for group in groups for name, value in vars(group).items() if name not in _OWN}
    return {
        f"--{name.replace('_', '-')}": "given" if isinstance(value, Path) else value
        for name, value in options.items()
        if not dataclasses.is_dataclass(value)
    }


@contextmanager
def all_or_none() -> Iterator[None]:
    """For what may fail in one process alone, such as reading its disk: the others are told instead of left waiting.

    Raises:
      UserError: what this process failed at; in those that did not fail, which others did.
    """
    failure: UserError | None = None
    try:
        yield
    except UserError as error:
        failure = error
    failed = [failure is not None]
    if jax.process_count() > 1:
        failed = np.ravel(multihost_utils.process_allgather(np.array(failed))).tolist()
    if failure is not None:
        raise failure
    if any(failed):
        which = ", ".join(str(process) for process, has_failed in enumerate(failed) if has_failed)
        raise HostError(f"process {which} of {len(failed)} could not begin; its own output says why")


def leave(code: int) -> int:
    """The exit code of a run that failed; one of several processes ends here, since it cannot wait for the others."""
    if not jax.distributed.is_initialized():
        return code
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_index() == 0:
        time.sleep(_LAST_WORDS_SECONDS)  # it runs the service without which the others end before they can say why
    os._exit(code)


def data_share(mesh: Mesh) -> tuple[int, int]:
    """Which share of each batch this process makes, and of how many: processes that share examples make the same."""
    rows = [tuple(sorted({device.process_index for device in row})) for row in mesh.devices]
    groups = list(dict.fromkeys(rows))
    mine = next(index for index, group in enumerate(groups) if jax.process_index() in group)
    return mine, len(groups)


class Stop:
    """Whether the run has been asked to end, which all of its processes must hear of at the same step.

    Args:
      mesh: The devices of all processes.
    """

    def __init__(self, mesh: Mesh):
        self._asked, self._shape = False, mesh.devices.shape
        self._split = NamedSharding(mesh, PartitionSpec(*mesh.axis_names))
        self._any = jax.jit(jnp.any, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def ask(self, number: int, _frame: Any) -> None:
        """A signal's handler."""
        _LOG.warning("%s: saving after this step or the next, then leaving", signal.Signals(number).name)
        self._asked = True

    def poll(self) -> Callable[[], bool]:
        """Asks all processes, each of which must call it, and returns at once: whether one has been asked to end.

        The answer comes from the devices, behind what they were given before, so reading it waits for that. Read it
        when they have been given more.
        """
        if jax.process_count() == 1:
            return lambda: self._asked
        mine = np.full([1] * len(self._shape), self._asked)
        found = self._any(jax.make_array_from_callback(self._shape, self._split, lambda _: mine))
        return lambda: bool(found)

    @contextmanager
    def listening(self) -> Iterator["Stop"]:
        """Hears SIGTERM and Ctrl-C meanwhile."""
        before = {number: signal.signal(number, self.ask) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
