"""Block sizes of kernels: a table a GPU, in `tuned/*.json`, and the defaults that hold where no table says otherwise.

A GPU's tables are that of its name, of its compute capability and of the first of its family (8.0 of 8.9), in this
order.

A table maps kernels to entries `{"when": {...}, "blocks": {...}, "num_warps": n, "num_stages": n}`; the first whose
`when` agrees with what is asked for is taken.
"""

import contextlib
import functools
import json
import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from importlib import resources
from types import MappingProxyType
from typing import Any

from pallas_kernels import launch

_NONE: Mapping[str, launch.Config] = MappingProxyType({})
_OVERRIDES: ContextVar[Mapping[str, launch.Config]] = ContextVar("overrides", default=_NONE)


def config(kernel: str, **case: Any) -> launch.Config:
    """Block sizes of a kernel on the GPU that is compiled for.

    Args:
      case: What the choice may depend on, such as the type and the head dimension.
    """
    override = _OVERRIDES.get().get(kernel)
    if override is not None:
        return override
    target = launch.target()
    family = target.capability // 10 * 10
    for table in dict.fromkeys((slug(target.name), f"sm{target.capability}", f"sm{family}", "default")):
        for entry in _table(table).get(kernel, ()):
            if all(case.get(key) == value for key, value in entry["when"].items()):
                return launch.Config(
                    blocks=entry["blocks"], num_warps=entry["num_warps"], num_stages=entry["num_stages"]
                )
    raise LookupError(f"no block sizes for {kernel} with {case} in pallas_kernels/tuned/default.json")


@contextlib.contextmanager
def trying(configs: Mapping[str, launch.Config]) -> Iterator[None]:
    """Programs lowered inside take these block sizes, by kernel, whatever the tables say."""
    token = _OVERRIDES.set(configs)
    try:
        yield
    finally:
        _OVERRIDES.reset(token)


def slug(name: str) -> str:
    """File name of a device's table: `nvidia_h200` of "NVIDIA H200"."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


@functools.cache
def _table(name: str) -> dict[str, list[dict[str, Any]]]:
    path = resources.files("pallas_kernels") / "tuned" / f"{name}.json"
    return json.loads(path.read_text()) if name and path.is_file() else {}
