"""How a model runs, as opposed to what it is: devices, kernels, precision, what it returns."""

import dataclasses
from typing import Literal, get_args

import jax.numpy as jnp

from fastfold_jax.backend.implementations import Implementation
from parallel.axis import Axis

Kernels = Implementation
Precision = Literal["bf16", "float32"]
OutputDetail = Literal["compact", "full"]
Remat = bool | Literal["offload"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution:
    """Choices that change speed and memory but not the function computed. Hashable; every block holds one.

    Attributes:
      axis: The device axis activations are split along (Dynamic Axial Parallelism); a null object on one device.
      kernels: Which implementation `pallas_kernels` uses; `auto` resolves from the platform lowered for;
        `triton_atomic` gives up that gradients are the same bit for bit from run to run, for speed.
      precision: Type of the MSA and pair activations and of matmul operands. Parameters, softmax, layer norm
        statistics, structure module, logits and losses are float32 in either case.
      remat: Recompute each block's activations in the backward pass; with `offload` what it begins with waits in the
        host's memory meanwhile.
      outputs: `compact` reduces heads inside the graph; `full` also returns logits and representations.
    """

    axis: Axis = Axis()
    kernels: Kernels = "auto"
    precision: Precision = "bf16"
    remat: Remat = False
    outputs: OutputDetail = "compact"

    def __post_init__(self):
        for field, choices in (("kernels", Kernels), ("precision", Precision), ("outputs", OutputDetail)):
            value = getattr(self, field)
            if value not in get_args(choices):
                raise ValueError(f"{field}={value!r}: accepted are {', '.join(get_args(choices))}")

    @property
    def dtype(self):
        """Type of activations."""
        return jnp.bfloat16 if self.precision == "bf16" else jnp.float32
