"""Pallas Mosaic GPU kernels run by JAX's interpreter on the CPU, which also looks for races."""

import jax
import jax.experimental.pallas.mosaic_gpu as plgpu
import jax.numpy as jnp
from jax._src.pallas.mosaic_gpu import core
from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams
from jax.interpreters import mlir

from pallas_kernels import warpgroup

# Before this it is ten times slower, does not write a tile of which a part is outside, and sees races where none are.
COMPLETE = jax.__version_info__ >= (0, 12)

if not COMPLETE:  # a layout is nothing to the interpreter, but older ones do not know so
    mlir.register_lowering(core.layout_cast_p, lambda ctx, x, **_: [x], platform="cpu")


def _product(a, b, *, b_transposed):
    """It has products of matrices in shared memory only, and not of transposed ones."""
    a, b = a if isinstance(a, jax.Array) else a[...], b[...]
    return jnp.dot(a, b.T if b_transposed else b, preferred_element_type=jnp.float32)


def _kernel(body, *, out_type, **options):
    """Interpreted in a program of its own: its effects are ordered, and the operation that runs it has none."""
    params = InterpretGPUParams(detect_races=COMPLETE, out_of_bounds_reads="uninitialized", uninitialized_memory="zero")
    alone = jax.jit(plgpu.kernel(body, out_type=out_type, interpret=params, **options))
    return lambda *arrays: jax.pure_callback(alone, out_type, *arrays)


INTERPRETER = warpgroup.Runner(kernel=_kernel, product=_product, transposed=lambda ref: ref[...].T)
