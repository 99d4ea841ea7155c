"""How long a prediction will take, reckoned from sizes."""

import time

import jax
import jax.numpy as jnp

from fastfold_jax.config.execution import Execution
from fastfold_jax.config.model import ModelConfig
from fastfold_jax.data.buckets import Shape

# Shares of a plain matmul's rate that a whole pass reaches: the rest is attention's exponentials and memory traffic.
_EFFICIENCY = {"cpu": 0.5, "gpu": 0.3, "tpu": 0.3}
_PROBE = {"cpu": 1024, "gpu": 8192, "tpu": 4096}  # size of the matmul that is timed


def pass_flops(config: ModelConfig, shape: Shape) -> float:
    """Floating-point operations of one pass of a network."""
    n, s, e = shape.num_res, shape.num_msa + shape.num_templates, shape.num_extra_msa
    main = config.evoformer_blocks * _block_flops(n, s, channels=config.c_m)
    # Attention over extra rows' columns is global, and needs next to nothing.
    extra = config.extra_msa_blocks * _block_flops(n, e, channels=config.c_e, column_attention=False)
    templates = config.template_blocks * shape.num_templates * _pair_flops(n, channels=config.c_t)
    return (main + extra + templates) * max(config.num_ensemble, 1)


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
