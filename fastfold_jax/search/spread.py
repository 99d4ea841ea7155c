"""Work spread over the nodes of a cluster by Ray, for proteomes."""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from fastfold_jax.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

_RETRIES = 3  # of an item whose node is lost


@dataclasses.dataclass(frozen=True, kw_only=True)
class Share:
    """What one item needs of a node: processor cores and GPUs."""

    cpus: int = 1
    gpus: int = 0

    def __post_init__(self):
        if self.cpus < 0 or self.gpus < 0:
            raise ValueError(f"cpus={self.cpus}, gpus={self.gpus}, but neither may be below 0")


def spread(
    work: Callable[[Item], Result], items: Iterable[Item], share: Share, *, address: str | None = None
) -> Iterator[tuple[int, Result | Exception]]:
    """Does the same work on many items, on whichever node is free; results come as they are ready.

    An item that fails does not end the others; one whose node is lost is done again on another.

    Args:
      work: A function of a module that every node has, or a partial of one. As many processes as the nodes have shares
        for do one item after another, so it may keep for the next what it has read or compiled.
      items: Taken a few at a time, so there may be more than memory holds.
      share: What each item needs.
      address: Address of a running Ray cluster, or `auto`; None uses this machine. A connection that the caller
        has made is used, and left open.

    Yields:
      Which item, from 0, and the result or the error that it ended with.

    Raises:
      UserError: if Ray is not installed or can't be reached, or no node has so much.
    """
    ray = _ray()
    own = not ray.is_initialized()
    if own:
        try:
            ray.init(address=address, log_to_driver=False, include_dashboard=False if address is None else None)
        except Exception as error:
            raise UserError(f"Ray at {address or 'this machine'} cannot be used ({error})") from None
    try:
        yield from _results(ray, work, items, share)
    finally:
        if own:
            ray.shutdown()


def _results(
    ray: Any, work: Callable[[Item], Result], items: Iterable[Item], share: Share
) -> Iterator[tuple[int, Result | Exception]]:
    # Lost with its node, or killed, a worker is started anew, and does again what it was busy with.
    kind = ray.remote(
        num_cpus=share.cpus, num_gpus=share.gpus, max_restarts=-1, max_task_retries=_RETRIES
    )(_Worker)  # fmt: skip
    numbered = enumerate(items)
    waiting: collections.deque[tuple[int, Item]] = collections.deque()
    busy: dict[Any, tuple[Any, int | None]] = {}  # what each worker is to return, and of which item; None as it starts
    for entry in itertools.islice(numbered, _capacity(ray, share)):
        waiting.append(entry)
        worker = kind.remote(work)
        busy[worker.start.remote()] = worker, None
        del worker
    while waiting or any(number is not None for _, number in busy.values()):
        (ready,), _ = ray.wait(list(busy), num_returns=1)
        worker, done = busy.pop(ready)
        if waiting:
            number, item = waiting.popleft()
            busy[worker.do.remote(item)] = worker, number
            waiting.extend(itertools.islice(numbered, 1))  # so that no node waits for it to be read
        del worker  # one without work ends, and leaves its share to those that are started anew
        if done is not None:
            yield done, _result(ray, ready)


class _Worker:
    """A process on some node: what the work keeps there, parameters and programs, serves all items that it is given.

    A task of Ray's would have a process of its own for each item, where it uses a GPU.
    """

    def __init__(self, work: Callable[[Any], Any]):
        self._work = work

    def start(self) -> None:
        """Returns as soon as there is a process."""

    def do(self, item: Any) -> Any:
        return self._work(item)


def _result(ray: Any, ready: Any) -> Any:
    try:
        return ray.get(ready)
    except ray.exceptions.RayTaskError as error:
        return error.cause if isinstance(error.cause, Exception) else error
    except ray.exceptions.RayError as error:
        return error


def _capacity(ray: Any, share: Share) -> int:
    """How many items run at once.

    Raises:
      UserError: if none can; Ray itself would wait forever.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    needs = [(kind, need) for kind, need in (("CPU", share.cpus), ("GPU", share.gpus)) if need]
    fits = [min((int(node.get(kind, 0) // need) for kind, need in needs), default=1) for node in nodes]
    if not any(fits):
        have = "; ".join(f"{node.get('CPU', 0):g} and {node.get('GPU', 0):g}" for node in nodes)
        raise UserError(
            f"an item needs {share.cpus} cores and {share.gpus} GPUs of one node, but no node has so many (they have "
            f"{have})"
        )
    return sum(fits)


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise UserError("spreading work over a cluster needs Ray: pip install 'fastfold-jax[ray]'") from None
    return ray
