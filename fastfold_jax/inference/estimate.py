"""What a prediction will take, reckoned from sizes: floating-point operations, memory, time."""

import dataclasses
import time

import jax
import jax.numpy as jnp

from fastfold_jax.config.execution import Execution
from fastfold_jax.config.model import ModelConfig
from fastfold_jax.data.buckets import Shape

_PARAMETER_BYTES = 4 * 93.2e6  # the released networks; nearly the same for all of them
# Shares of a plain matmul's rate that a whole pass reaches: the rest is attention's exponentials and memory traffic.
_EFFICIENCY = {"cpu": 0.5, "gpu": 0.3, "tpu": 0.3}
_PROBE = {"cpu": 1024, "gpu": 8192, "tpu": 4096}  # size of the matmul that is timed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """Of one prediction.

    Attributes:
      bytes: Memory of a pass without chunking or fused kernels, parameters included.
      flops: Of one pass.
      passes: Most passes.
    """

    bytes: float
    flops: float
    passes: int

    def seconds(self, rate: float) -> float:
        """Of all passes at `rate` operations a second; compiling is not in it."""
        return self.flops * self.passes / rate


def estimate(config: ModelConfig, shape: Shape, execution: Execution, passes: int) -> Estimate:
    """What a network takes at a shape, as if every pass were made."""
    n, s, e = shape.num_res, shape.num_msa + shape.num_templates, shape.num_extra_msa
    main = config.evoformer_blocks * _block_flops(n, s, channels=config.c_m)
    # Attention over extra rows' columns is global, and needs next to nothing.
    extra = config.extra_msa_blocks * _block_flops(n, e, channels=config.c_e, column_attention=False)
    templates = config.template_blocks * shape.num_templates * _pair_flops(n, channels=config.c_t)
    flops = (main + extra + templates) * max(config.num_ensemble, 1)
    width = 2 if execution.precision == "bf16" else 4
    pair, msa = width * config.c_z * n**2, width * (config.c_m * s + config.c_e * e) * n
    # The largest array of attention weights there is: pairs of residues for each residue or each row.
    rows = max(4 * n, 8 * s, 8 * e)
    attention = rows * n**2 * (4 + width if width == 4 else 4)
    return Estimate(bytes=_PARAMETER_BYTES + 3 * pair + 2 * msa + attention, flops=flops, passes=passes)


def _block_flops(n: int, s: int, *, channels: int, column_attention: bool = True) -> float:
    """Matmuls of one Evoformer block, forward; `channels` of the MSA in place of 256."""
    c = channels / 256
    projections = (655_360 * (2 if column_attention else 1) + 1_048_576 * c) * c * s * n
    attention = 1_024 * s * n**2 * c + (1_024 * s**2 * n if column_attention else 0)
    outer = 32_768 * s * n * c + 2_048 * s * n**2 + 262_144 * n**2
    return projections + attention + outer + _pair_flops(n, channels=128)


def _pair_flops(n: int, *, channels: int) -> float:
    """Triangle multiplications, triangle attentions and the transition; `channels` in place of 128."""
    c = channels / 128
    return (393_216 + 329_728 + 262_144) * c**2 * n**2 + (512 + 1_024) * c * n**3


def device_rate(execution: Execution, device: jax.Device | None = None) -> float:
    """Operations a second to reckon with: a matmul is timed on the device, for about a second at most."""
    device = device or jax.devices()[0]
    size = _PROBE.get(device.platform, 1024)
    matrix = jax.device_put(jnp.ones((size, size), execution.dtype), device)
    multiply = jax.jit(jnp.matmul)
    multiply(matrix, matrix).block_until_ready()
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        multiply(matrix, matrix).block_until_ready()
        times.append(time.perf_counter() - begun)
    return 2 * size**3 / min(times) * _EFFICIENCY.get(device.platform, 0.3)
