"""Triangle multiplication on NVIDIA GPUs: its Triton kernels launched from JAX, and the contraction between them."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from pallas_kernels import launch, tuning
from pallas_kernels.layer_norm.reference import EPSILON

CHANNELS = (32, 64, 128)


def unfit_producer(z, mask, norm, projection, gate, **static):
    """Why the kernel cannot take these arrays, or None."""
    del mask, norm, gate, static
    return _unfit(z, z.shape[-1:], projection[0].shape[-1], multiple=64)


def unfit_consumer(product, z, norms, output, gate, **static):
    """Why the kernel cannot take these arrays, or None."""
    del norms, gate, static
    if product.dtype != z.dtype:
        return f"the product is {product.dtype} and pairs are {z.dtype}; they must be the same"
    return _unfit(z, (product.shape[0], z.shape[-1]), output[0].shape[-1], multiple=32)


def unfit_contraction(operands, **static):
    """The contraction is XLA's, and takes anything."""
    del operands, static


def _unfit(z, channels, out, multiple):
    if z.dtype not in (jnp.float32, jnp.bfloat16):
        return f"pairs are {z.dtype}; accepted are float32 and bfloat16"
    if set(channels) - set(CHANNELS):
        return f"there are {' and '.join(map(str, channels))} channels; accepted are {', '.join(map(str, CHANNELS))}"
    if out % multiple:
        return f"the result has {out} channels; accepted are multiples of {multiple}"
    return "there are no pairs" if z.size == 0 else None


def producer(z, mask, norm, projection, gate):
    """See `api.triangle_producer`."""
    channels, out = projection[0].shape
    arrays = (z, mask, *norm, *_affine(projection, z), *_affine(gate, z))
    operand = jax.ShapeDtypeStruct((out // 2, *z.shape[:2]), z.dtype)
    return tuple(_launch("producer", arrays, [operand, operand], CHANNELS=channels, OUT=out // 2))


def contraction(operands, direction):
    """See `api.triangle_contraction`.

    A batched product of plain matrices, 2 N³ operations a channel on 3 N² numbers: nothing can be fused that would
    save memory traffic worth having, and cuBLAS, which XLA calls, is nearer to the hardware's peak than Triton.
    """
    a, b = operands
    equation = "cik,cjk->cij" if direction == "outgoing" else "cki,ckj->cij"
    left, right = (a, b) if direction == "outgoing" else (b, a)
    # cuBLAS accumulates in float32 in any case; asked for float32, XLA would write it to memory first.
    return jnp.einsum(equation, left, right, preferred_element_type=a.dtype)


def consumer(product, z, norms, output, gate):
    """See `api.triangle_consumer`."""
    out = output[0].shape[-1]
    arrays = (product, z, *norms[0], *norms[1], *_affine(output, z), *_affine(gate, z))
    constants = {"PRODUCT_CHANNELS": product.shape[0], "CHANNELS": z.shape[-1], "OUT": out}
    (update,) = _launch("consumer", arrays, [jax.ShapeDtypeStruct((*z.shape[:2], out), z.dtype)], **constants)
    return update


def _affine(layer, z):
    return layer[0].astype(z.dtype), layer[1]


def _launch(name, arrays, outputs, **constants):
    from pallas_kernels.triangle_multiplication import kernels

    z = arrays[0]
    pairs = outputs[0].size // constants["OUT"]
    unit = math.gcd(pairs, 16)
    config = tuning.config(f"triangle_{name}", dtype=str(z.dtype), channels=constants["CHANNELS"])
    # A block of channels that do not exist would be written over the next pair's.
    blocks = {**config.blocks, "BLOCK_O": math.gcd(config.blocks["BLOCK_O"], constants["OUT"])}
    request = launch.Launch(
        kernel=getattr(kernels, name),
        arrays=arrays,
        sizes=(pairs // unit,),
        outputs=outputs,
        grid=(-(-pairs // config.blocks["BLOCK_R"]),),
        config=dataclasses.replace(config, blocks=blocks),
        constants={**constants, "EPSILON": EPSILON, "PAIR_UNIT": unit},
    )
    return launch.run(request)
