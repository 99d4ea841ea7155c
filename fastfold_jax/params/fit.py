"""Whether a parameter file belongs to a network, what differs if not, and which networks it does belong to."""

import dataclasses
import functools
from collections.abc import Container, Iterable, Mapping
from pathlib import Path

import jax
import numpy as np

from fastfold_jax.config.model import ModelConfig
from fastfold_jax.config.presets import PRESETS
from fastfold_jax.model.alphafold import abstract_state
from fastfold_jax.params.layout import PREFIX, Entry, Leaf, Shape, entries
from fastfold_jax.params.npz import ParamsError, Spec

_SHOWN = 3
_FLOAT32 = np.dtype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Storage:
    """How the state of one network is stored.

    Attributes:
      leaves: Path of every parameter in the order of the state's flattened leaves.
      shapes: Shape of each leaf.
      tree: Rebuilds the state from its leaves.
      entries: Where each leaf lies in the file.
      arrays: Shape of every array of the file, all float32.
    """

    leaves: tuple[Leaf, ...]
    shapes: Mapping[Leaf, Shape]
    tree: jax.tree_util.PyTreeDef
    entries: tuple[Entry, ...]
    arrays: Mapping[str, Shape]


def storage(config: ModelConfig) -> Storage:
    """How the state of `config` is stored; makes no arrays."""
    return _storage(_structural(config))


def _structural(config: ModelConfig) -> ModelConfig:
    """The same network under another name, with everything alike that decides no parameter."""
    return dataclasses.replace(
        config,
        name="any",
        num_msa=1 << 10,
        num_extra_msa=0,
        num_templates=min(config.num_templates, 1),
        num_recycles=0,
        recycle_tolerance=None,
        num_ensemble=1,
    )


@functools.lru_cache(maxsize=32)
def _storage(config: ModelConfig) -> Storage:
    flat, tree = jax.tree_util.tree_flatten_with_path(abstract_state(config))
    shapes = {_leaf(path): tuple(value.shape) for path, value in flat}
    stored = entries(shapes, config)
    arrays = {key: shape for entry in stored for key, shape in entry.file_shapes(shapes).items()}
    return Storage(leaves=tuple(shapes), shapes=shapes, tree=tree, entries=stored, arrays=arrays)


def _leaf(path: jax.tree_util.KeyPath) -> Leaf:
    """Attribute names only: NNX adds the box that a parameter's array lies in."""
    return tuple(str(step.key) for step in path if isinstance(step, jax.tree_util.DictKey))


def fitting(arrays: Mapping[str, Spec]) -> tuple[str, ...]:
    """Names of the presets that a file with these arrays belongs to."""
    return tuple(name for name, config in PRESETS.items() if not _Difference.of(arrays, config))


def head_of(key: str) -> str | None:
    """The head that an array of a file belongs to; None if to another part of the network."""
    name = key.removeprefix("/".join(PREFIX) + "/").split("/")[0]
    return name if name.endswith("_head") else None


def absent_heads(arrays: Mapping[str, Spec], config: ModelConfig) -> tuple[str, ...]:
    """The heads of a network of which a file has no array at all."""
    heads = dict.fromkeys(map(head_of, storage(config).arrays))
    present = set(map(head_of, arrays))
    return tuple(head for head in heads if head is not None and head not in present)


def require(path: Path, arrays: Mapping[str, Spec], config: ModelConfig, *, without: Container[str] = ()) -> None:
    """Checks that a file fits a network.

    Args:
      path: The file, for the message.
      arrays: The arrays that the file holds.
      config: The network that the file must fit.
      without: Heads that the file need not have.

    Raises:
      ParamsError: if it does not; names what is missing, unexpected or misshaped, and the presets that the file fits.
    """
    difference = _Difference.of(arrays, config)
    missing = tuple(key for key in difference.missing if head_of(key) not in without)
    difference = dataclasses.replace(difference, missing=missing)
    if difference:
        raise ParamsError(f"{path} does not fit {config.name}: {difference.describe()}; {presets_note(arrays)}")


def presets_note(arrays: Mapping[str, Spec]) -> str:
    """Which presets a file fits, or how it misses the nearest one."""
    names = fitting(arrays)
    if names:
        return f"it fits {', '.join(names)}"
    if not any(key.startswith("/".join(PREFIX)) for key in arrays):
        return f"it fits no preset: DeepMind's keys begin with {'/'.join(PREFIX)}"
    nearest = min(PRESETS, key=lambda name: _Difference.of(arrays, PRESETS[name]).count)
    return f"it fits no preset; nearest is {nearest}: {_Difference.of(arrays, PRESETS[nearest]).describe()}"


def require_finite(path: Path, key: str, array: np.ndarray) -> None:
    """Checks that all numbers are finite: a single one that is not would spoil every prediction without a word.

    Raises:
      ParamsError: if any is not; names the array.
    """
    finite = np.isfinite(array)
    if not finite.all():
        bad = array.size - np.count_nonzero(finite)
        raise ParamsError(f"{path}: {bad:,} of the {array.size:,} numbers of {key} are not finite")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Difference:
    """How a file differs from what a network needs; false if it does not."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: tuple[str, ...]
    mistyped: tuple[str, ...]

    @classmethod
    def of(cls, arrays: Mapping[str, Spec], config: ModelConfig) -> "_Difference":
        needed = storage(config).arrays
        shared = [key for key in needed if key in arrays]
        return cls(
            missing=tuple(key for key in needed if key not in arrays),
            unexpected=tuple(key for key in arrays if key not in needed),
            misshaped=tuple(
                f"{key} {arrays[key].shape} instead of {needed[key]}"
                for key in shared
                if arrays[key].shape != needed[key]
            ),
            mistyped=tuple(
                f"{key} {arrays[key].dtype} instead of float32" for key in shared if arrays[key].dtype != _FLOAT32
            ),
        )

    @property
    def count(self) -> int:
        return sum(map(len, dataclasses.astuple(self)))

    def __bool__(self) -> bool:
        return self.count > 0

    def describe(self) -> str:
        """Counts, and the first few of each."""
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "misshaped": self.misshaped}
        kinds["of another type"] = self.mistyped
        return "; ".join(f"{len(keys)} {kind} ({_some(keys)})" for kind, keys in kinds.items() if keys)


def _some(keys: Iterable[str]) -> str:
    keys = list(keys)
    return ", ".join(keys[:_SHOWN]) + (", …" if len(keys) > _SHOWN else "")
