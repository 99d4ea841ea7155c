"""Where each of the model's parameters lies in DeepMind's files, and in what arrangement.

The model's state has one canonical form; DeepMind's files differ by release. Scopes mostly agree, and the table below
is everything that does not. Each transform rearranges numbers and changes none, so that a file read and written
back is the same bit for bit.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from fastfold_jax.config.model import ModelConfig, MonomerConfig

Leaf = tuple[str, ...]
"""Attribute names that lead to one parameter of the model's state."""
Shape = tuple[int, ...]

PREFIX = ("alphafold", "alphafold_iteration")


@dataclasses.dataclass(frozen=True)
class Transform:
    """A rearrangement and its exact inverse.

    Attributes:
      to_state: A file's arrays and the shapes of the leaves wanted -> those leaves.
      to_file: The leaves -> the file's arrays.
    """

    to_state: Callable[[Sequence[np.ndarray], Sequence[Shape]], Sequence[np.ndarray]]
    to_file: Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]


def _heads(blocks: int) -> Transform:
    """One projection for all heads and for keys with values -> one each, [..., heads, blocks * size].

    The file's last axis runs over (block, head, part, size): parts are what is projected together (keys, then values);
    blocks are the x, y and z of points, or 1 for scalars.
    """

    def to_state(arrays: Sequence[np.ndarray], shapes: Sequence[Shape]) -> Sequence[np.ndarray]:
        (array,), heads = arrays, shapes[0][-2]
        sizes = [shape[-1] // blocks for shape in shapes]
        apart = array.reshape(*array.shape[:-1], blocks, heads, sum(sizes)).swapaxes(-3, -2)
        parts = np.split(apart, list(itertools.accumulate(sizes[:-1])), axis=-1)
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    def to_file(leaves: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        parts = [leaf.reshape(*leaf.shape[:-1], blocks, -1) for leaf in leaves]
        together = np.concatenate(parts, axis=-1).swapaxes(-3, -2)
        return [together.reshape(*together.shape[:-3], -1)]

    return Transform(to_state, to_file)


SAME = Transform(lambda arrays, shapes: arrays, lambda leaves: leaves)
SIDE_BY_SIDE = Transform(
    lambda arrays, shapes: [np.concatenate(arrays, axis=-1)], lambda leaves: np.split(leaves[0], 2, axis=-1)
)
SCALARS = _heads(1)
POINTS = _heads(3)


@dataclasses.dataclass(frozen=True)
class Rule:
    """Sub-scopes of a module that a file names or arranges differently.

    Attributes:
      within: Regular expression that the module's own name matches.
      ours: Sub-scopes in the state, taken together.
      theirs: Sub-scopes in the file that hold the same numbers.
      transform: How they are rearranged.
    """

    within: str
    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    transform: Transform = SAME


# Scopes whose content a file has under another name, or, where None, directly in the scope around them.
_GROUPS: Mapping[str, str | None] = {
    "input_embedder": None,
    "extra_msa_embedder": None,
    "template_embedder": None,
    "recycling_embedder": None,
    "template_pair_stack": "template_pair_stack/__layer_stack_no_state",
}
_MONOMER_GROUPS = {"relative_encoding": None}
_MULTIMER_GROUPS = {"relative_encoding": "~_relative_encoding"}

_TRIANGLE = "triangle_multiplication_(outgoing|incoming)"
_SPLIT_TRIANGLES = (
    Rule(_TRIANGLE, ("left_norm_input",), ("layer_norm_input",)),
    Rule(_TRIANGLE, ("center_norm",), ("center_layer_norm",)),
    Rule(_TRIANGLE, ("projection",), ("left_projection", "right_projection"), SIDE_BY_SIDE),
    Rule(_TRIANGLE, ("gate",), ("left_gate", "right_gate"), SIDE_BY_SIDE),
)
_ATTENTION = "invariant_point_attention"
_K_POINTS, _V_POINTS = "k_point_projection/point_projection", "v_point_projection/point_projection"
_MONOMER_STRUCTURE = (
    Rule(_ATTENTION, ("q_scalar_projection",), ("q_scalar",), SCALARS),
    Rule(_ATTENTION, ("k_scalar_projection", "v_scalar_projection"), ("kv_scalar",), SCALARS),
    Rule(_ATTENTION, ("q_point_projection/point_projection",), ("q_point_local",), POINTS),
    Rule(_ATTENTION, (_K_POINTS, _V_POINTS), ("kv_point_local",), POINTS),
    Rule("fold_iteration", ("quat_rigid/rigid",), ("affine_update",)),
)


def _rules(config: ModelConfig) -> tuple[Rule, ...]:
    triangles = _SPLIT_TRIANGLES if config.triangle_layout == "split" else ()
    return triangles + (_MONOMER_STRUCTURE if isinstance(config, MonomerConfig) else ())


def _groups(config: ModelConfig) -> dict[str, str | None]:
    return {**_GROUPS, **(_MONOMER_GROUPS if isinstance(config, MonomerConfig) else _MULTIMER_GROUPS)}


@dataclasses.dataclass(frozen=True)
class Entry:
    """Leaves of the state and arrays of the file that hold the same numbers.

    Attributes:
      leaves: Paths in the state.
      keys: Keys in the file, `scope//name`.
      transform: How one becomes the other.
    """

    leaves: tuple[Leaf, ...]
    keys: tuple[str, ...]
    transform: Transform

    def file_shapes(self, shapes: Mapping[Leaf, Shape]) -> dict[str, Shape]:
        """Shapes of the file's arrays, given those of the leaves; takes almost no memory."""
        stand_ins = [np.broadcast_to(np.float32(0), shapes[leaf]) for leaf in self.leaves]
        arrays = self.transform.to_file(stand_ins)
        return {key: array.shape for key, array in zip(self.keys, arrays, strict=True)}


def entries(leaves: Iterable[Leaf], config: ModelConfig) -> tuple[Entry, ...]:
    """How the state made of `leaves` is stored in a file, in the order of the file's keys."""
    rules, groups, todo, found = _rules(config), _groups(config), dict.fromkeys(leaves), []
    while todo:
        leaf = next(iter(todo))
        ours, theirs, transform = next(filter(None, (_match(rule, leaf) for rule in rules)), ((leaf,), (leaf,), SAME))
        found.append(Entry(ours, tuple(_key(path, groups) for path in theirs), transform))
        for used in ours:
            del todo[used]
    return tuple(sorted(found, key=lambda entry: entry.keys))


def _match(rule: Rule, leaf: Leaf) -> tuple[tuple[Leaf, ...], tuple[Leaf, ...], Transform] | None:
    """Our leaves (`leaf` and what is stored with it) and theirs, if the rule is about them."""
    *scope, name = leaf
    for sub_scope in rule.ours:
        inner = sub_scope.split("/")
        outer = scope[: -len(inner)]
        if scope[-len(inner) :] == inner and outer and re.fullmatch(rule.within, outer[-1]):
            ours = tuple((*outer, *sibling.split("/"), name) for sibling in rule.ours)
            return ours, tuple((*outer, theirs, name) for theirs in rule.theirs), rule.transform
    return None


def _key(leaf: Leaf, groups: Mapping[str, str | None]) -> str:
    """A file's key: scopes joined by slashes, then the name."""
    *scope, name = leaf
    return "/".join((*PREFIX, *filter(None, (groups.get(part, part) for part in scope)))) + "//" + name
