"""Modules with drawn parameters, for tests of one module by itself."""

from typing import TypeVar

from flax import nnx

from fastfold_jax.model.initial import draw

Module = TypeVar("Module", bound=nnx.Module)


def untrained(module: Module, *, zero_final: bool = False) -> Module:
    """`module`, built without values, with values."""
    graphdef, state = nnx.split(module)
    return nnx.merge(graphdef, draw(state, 0, zero_final=zero_final))
