"""The transition layer, a block of residual updates by itself."""

import jax
from flax import nnx
from jaxtyping import Array, Float

import pallas_kernels
from fastfold_jax.config.execution import Execution
from fastfold_jax.model.layers import LayerNorm, Linear


class Transition(nnx.Module):
    """Two-layer perceptron on each position by itself (AlphaFold 2 supplement, Algorithms 9 and 15).

    DISCREPANCY: the supplement masks nothing here and neither does the released model; masked positions are ignored
    by every later sum.
    """

    def __init__(self, channels: int, factor: int, execution: Execution):
        self.input_layer_norm = LayerNorm(channels)
        self.transition1 = Linear(channels, factor * channels, init="relu")
        self.transition2 = Linear(factor * channels, channels, init="zeros")
        self.kernels = execution.kernels

    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
        """`x` with its update added."""
        with jax.named_scope("op.transition"):
            return pallas_kernels.transition(
                x,
                (self.input_layer_norm.scale[...], self.input_layer_norm.offset[...]),
                (self.transition1.weights[...], self.transition1.bias[...]),
                (self.transition2.weights[...], self.transition2.bias[...]),
                implementation=self.kernels,
            )
