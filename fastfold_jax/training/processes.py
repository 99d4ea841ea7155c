"""What the processes of one run do together: agree, begin or fail as one, share out the data, stop at the same step."""

import contextlib
import dataclasses
import functools
import logging
import os
import secrets
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

from fastfold_jax.backend.compile_cache import use_compile_cache
from fastfold_jax.errors import UserError
from fastfold_jax.training.options import TrainConfig
from parallel.hosts import HostError

logger = logging.getLogger(__name__)

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


def keep_programs_where_all_see_them() -> None:
    """Keeps no compiled programs where the processes have no directory in common; every process must call it.

    Process 0 alone writes, and what it finds must be found by all: XLA shares out the tuning of a program among the
    processes that compile it, and those that compile what another has found would wait for its part.
    """
    if jax.process_count() == 1:
        return
    kept = jax.config.values["jax_compilation_cache_dir"]
    use_compile_cache(None)  # what follows is compiled too
    directory = None if kept is None else Path(kept)
    number = secrets.randbits(31)
    mark = None if directory is None else directory / _mark(number)
    if jax.process_index() == 0 and mark is not None:
        with contextlib.suppress(OSError):
            mark.touch()
    told = _mark(int(multihost_utils.broadcast_one_to_all(np.uint32(number))))
    mine = np.array([[directory is not None, directory is not None and (directory / told).exists()]])
    given, found = np.asarray(multihost_utils.process_allgather(mine, tiled=True)).T
    if jax.process_index() == 0 and mark is not None:
        with contextlib.suppress(OSError):
            mark.unlink()
    if all(found):
        use_compile_cache(directory)
    elif any(given):
        logger.warning(
            "compiled programs are not kept: not all processes can read what the first writes to %s; give a directory "
            "that all see as --compile-cache",
            directory,
        )


def _mark(number: int) -> str:
    return f".{number:08x}.seen-by-all"


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
    """Whether the run has been asked to end, which all of its processes must hear of at the same step."""

    def __init__(self):
        self._asked = False

    def ask(self, number: int, _frame: Any) -> None:
        """A signal's handler."""
        logger.warning("%s: saving after this step or the next, then leaving", signal.Signals(number).name)
        self._asked = True

    def poll(self, mesh: Mesh) -> Callable[[], bool]:
        """Asks all processes, each of which must call it, and returns at once: whether one has been asked to end.

        The answer comes from the devices, behind what they were given before, so reading it waits for that. Read it
        when they have been given more.

        Args:
          mesh: The devices of all processes.
        """
        if jax.process_count() == 1:
            return lambda: self._asked
        split, any_of = _any_over(mesh)
        shape = mesh.devices.shape
        mine = np.full([1] * len(shape), self._asked)
        found = any_of(jax.make_array_from_callback(shape, split, lambda _: mine))
        return lambda: bool(found)

    @contextmanager
    def listening(self, *numbers: signal.Signals) -> Iterator["Stop"]:
        """Hears these signals meanwhile. From connecting on, JAX would take SIGTERM and let several processes go on."""
        before = {number: signal.signal(number, self.ask) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@functools.cache
def _any_over(mesh: Mesh) -> tuple[NamedSharding, Callable[[jax.Array], jax.Array]]:
    """How flags are spread over a mesh, one a device, and the function to whether one of them is set."""
    any_of = jax.jit(jnp.any, out_shardings=NamedSharding(mesh, PartitionSpec()))
    return NamedSharding(mesh, PartitionSpec(*mesh.axis_names)), any_of
