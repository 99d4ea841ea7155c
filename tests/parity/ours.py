"""Our modules as pure functions of (state, inputs), with states made from DeepMind's flat parameters and back."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from reference_modules import Inputs

from fastfold_jax.config.execution import Execution
from fastfold_jax.config.model import ModelConfig
from fastfold_jax.config.presets import preset
from fastfold_jax.model import evoformer
from fastfold_jax.params import layout

State = dict[layout.Leaf, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Module:
    """One of our modules with the way between its state and DeepMind's parameters.

    Attributes:
      apply: `(state, inputs) -> output`, pure.
      shapes: leaf -> shape; leaves are paths from the whole model's root.
      config: decides how leaves are stored in files.
      layer: index into the stack the module belongs to, None if it is not stacked.
    """

    apply: Callable[[State, Any], Any]
    shapes: Mapping[layout.Leaf, tuple[int, ...]]
    config: ModelConfig
    layer: int | None

    @functools.cached_property
    def entries(self) -> tuple[layout.Entry, ...]:
        return layout.entries(self.shapes, self.config)

    def state(self, flat: Mapping[str, np.ndarray]) -> State:
        """The module's parameters out of a whole network's."""
        state: State = {}
        for entry in self.entries:
            arrays = [flat[key] if self.layer is None else flat[key][self.layer] for key in entry.keys]
            leaves = entry.transform.to_state(arrays, [self.shapes[leaf] for leaf in entry.leaves])
            for leaf, array in zip(entry.leaves, leaves, strict=True):
                assert array.shape == self.shapes[leaf], (leaf, array.shape, self.shapes[leaf])
                state[leaf] = jnp.asarray(array)
        return state

    def flat(self, state: State) -> dict[str, np.ndarray]:
        """The inverse of `state`; it maps gradients too, as it only rearranges."""
        out: dict[str, np.ndarray] = {}
        for entry in self.entries:
            arrays = entry.transform.to_file([np.asarray(state[leaf]) for leaf in entry.leaves])
            out |= dict(zip(entry.keys, arrays, strict=True))
        return out


def module(
    make: Callable[[], nnx.Module],
    call: Callable[[Any, Any], Any],
    scope: tuple[str, ...],
    config: ModelConfig,
    layer: int | None,
) -> Module:
    """Wraps a module that lies at `scope` of the whole model; `call(module, inputs)` runs it."""
    graphdef, state = nnx.split(make())
    flat_state = nnx.to_flat_state(state)
    paths = [scope + tuple(str(part) for part in path) for path, _ in flat_state]
    shapes = {path: tuple(leaf.shape) for path, (_, leaf) in zip(paths, flat_state, strict=True)}

    def apply(values: State, inputs):
        pairs = [(path, leaf.replace(values[full])) for full, (path, leaf) in zip(paths, flat_state, strict=True)]
        return call(nnx.merge(graphdef, nnx.from_flat_state(pairs)), inputs)

    return Module(apply=apply, shapes=shapes, config=config, layer=layer)


def execution(precision: str = "float32", **options) -> Execution:
    """One device, XLA, full outputs unless told otherwise."""
    return Execution(**({"precision": precision, "outputs": "full"} | options))


def _seq_mask(x: Inputs):
    return jnp.max(x.pair_mask, axis=1)


_CALLS: dict[str, Callable[[Any, Inputs], Any]] = {
    "msa_row_attention_with_pair_bias": lambda m, x: m(x.msa, m.bias(x.pair, sharded=0), x.msa_mask),
    "msa_column_attention": lambda m, x: m(x.msa, x.msa_mask),
    "msa_column_global_attention": lambda m, x: m(x.msa, x.msa_mask),
    "msa_transition": lambda m, x: m(x.msa),
    "outer_product_mean": lambda m, x: m(x.msa, x.msa_mask),
    "triangle_multiplication_outgoing": lambda m, x: m(x.pair, _seq_mask(x)),
    "triangle_multiplication_incoming": lambda m, x: m(x.pair, _seq_mask(x)),
    "triangle_attention_starting_node": lambda m, x: m(x.pair, m.bias([x.pair]), _seq_mask(x)),
    "triangle_attention_ending_node": lambda m, x: m(x.pair, m.bias([x.pair]), _seq_mask(x)),
    "pair_transition": lambda m, x: m(x.pair),
    "evoformer_iteration": lambda m, x: m(x.msa, x.pair, x.msa_mask, _seq_mask(x), None),
    "extra_msa_stack": lambda m, x: m(x.msa, x.pair, x.msa_mask, _seq_mask(x), None),
}
_EXTRA = ("msa_column_global_attention", "extra_msa_stack")


def of_block(name: str, preset_name: str, run: Execution, layer: int = 0) -> Module:
    """The module called `name` in `reference_modules.MODULES`, of one layer of a preset's stack."""
    config = preset(preset_name)
    extra = name in _EXTRA
    stack = "extra_msa_stack" if extra else "evoformer_iteration"
    channels = config.c_e if extra else config.c_m
    column = evoformer.MSAColumnGlobalAttention if extra else evoformer.MSAColumnAttention
    block = evoformer.block_type(config)

    def make():
        whole = block(channels, column, config, run)
        return whole if name == stack else getattr(whole, name)

    scope = ("evoformer", stack) if name == stack else ("evoformer", stack, name)
    return module(make, _CALLS[name], scope, config, layer)
