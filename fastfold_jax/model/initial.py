"""How parameters are drawn. Modules are built without values, so that building one costs nothing at any size."""

import dataclasses
import math
import zlib
from typing import Literal

import jax
import numpy as np
from flax import nnx

# `zeros` is DeepMind's choice for gates and for the last map of every residual branch, so that training starts from the
# identity. A number fills the parameter with it.
Init = Literal["linear", "relu", "glorot", "zeros"] | float

# A normal cut at two standard deviations has this standard deviation.
_CUT = 2.0
_CUT_STDDEV = 0.87962566103423978


@dataclasses.dataclass(frozen=True)
class Initial:
    """One layer's share of a parameter, which may be stacked: how to draw it, its inputs and its size."""

    init: Init
    fan_in: int
    size: int


def draw(state: nnx.State, seed: int, *, zero_final: bool = True) -> nnx.State:
    """`state` with a value for every parameter (AlphaFold 2 supplement, 1.11.4), the same on every machine.

    NumPy draws, from the seed and the parameter's name: XLA would compile for half a minute to draw as many shapes.

    Args:
      zero_final: Leave at zero what should be; if False draw it too, so that an untrained network computes
        something everywhere.
    """
    values = [
        (path, variable.replace(jax.device_put(_value(path, variable, seed, zero_final))))
        for path, variable in nnx.to_flat_state(state)
    ]
    return nnx.from_flat_state(values)


def _value(path: tuple, variable: nnx.Variable, seed: int, zero_final: bool) -> np.ndarray:
    initial, shape = variable.get_metadata()["initial"], variable.get_value().shape
    if isinstance(initial.init, float):
        return np.full(shape, initial.init, np.float32)
    if initial.init == "zeros" and zero_final:
        return np.zeros(shape, np.float32)
    rng = np.random.default_rng([seed, zlib.crc32("/".join(map(str, path)).encode())])
    if initial.init == "glorot":
        # DeepMind's code draws weights [channels, heads, size] as Haiku does those of a convolution: both fans are
        # those of the last two axes times what is before.
        inputs, outputs = shape[-2:]
        window = initial.size // (inputs * outputs)
        limit = math.sqrt(6.0 / (window * (inputs + outputs)))
        return (rng.random(shape, np.float32) * 2.0 - 1.0) * np.float32(limit)
    values = rng.standard_normal(shape, np.float32)
    while (outside := np.abs(values) > _CUT).any():
        values[outside] = rng.standard_normal(int(outside.sum()), np.float32)
    gain = 2.0 if initial.init == "relu" else 1.0
    return values * np.float32(math.sqrt(gain / initial.fan_in) / _CUT_STDDEV)
