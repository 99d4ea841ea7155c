"""Triangle multiplication on Hopper: its Mosaic GPU kernels launched from JAX."""

import functools

import jax
import jax.numpy as jnp

from pallas_kernels import tuning
from pallas_kernels.layer_norm.reference import EPSILON

CHANNELS = (64, 128)


def unfit_producer(z, mask, norm, projection, gate, **static):
    """Why the kernel cannot take these arrays, or None."""
    del mask, norm, gate, static
    return _unfit(z, z.shape[-1:], projection[0].shape[-1] // 2)


def unfit_consumer(product, z, norms, output, gate, **static):
    """Why the kernel cannot take these arrays, or None."""
    del norms, gate, static
    if product.dtype != z.dtype:
        return f"the product is {product.dtype} and pairs are {z.dtype}; they must be the same"
    return _unfit(z, (product.shape[0], z.shape[-1]), output[0].shape[-1])


def _unfit(z, channels, out):
    from pallas_kernels.triangle_multiplication.mosaic_kernels import PAIRS

    pairs = z.shape[0] * z.shape[1]
    if z.dtype != jnp.bfloat16:
        return f"pairs are {z.dtype}; the tensor cores' products it is made of are bfloat16"
    if set(channels) - set(CHANNELS):
        return f"there are {' and '.join(map(str, channels))} channels; accepted are {', '.join(map(str, CHANNELS))}"
    if out not in CHANNELS:
        return f"results have {out} channels; accepted are {', '.join(map(str, CHANNELS))}"
    if pairs % PAIRS or not 0 < pairs < 2**31:
        return f"there are {pairs} pairs; accepted are multiples of {PAIRS} below 2^31"
    return None


def producer(z, mask, norm, projection, gate):
    """See `api.triangle_producer`."""
    from pallas_kernels.triangle_multiplication import mosaic_kernels as kernels

    channels, out = projection[0].shape
    parts = (2, out // (2 * kernels.CHUNK), kernels.CHUNK)

    def affine(weights, bias):
        return weights.astype(z.dtype).T.reshape(*parts, channels), _float32(bias).reshape(parts)

    pairs = kernels.Pairs(z.reshape(-1, channels), _float32(mask).reshape(-1))
    parameters = kernels.ProducerParameters(*map(_float32, norm), *affine(*projection), *affine(*gate))
    operand = jax.ShapeDtypeStruct((out // 2, len(pairs.z)), z.dtype)
    stage = functools.partial(kernels.Producer, chunks=parts[1])
    operands = _run("producer", stage, kernels.Arrays(pairs, parameters), [operand, operand])
    return tuple(operand.reshape(-1, *z.shape[:2]) for operand in operands)


def consumer(product, z, norms, output, gate):
    """See `api.triangle_consumer`."""
    from pallas_kernels.triangle_multiplication import mosaic_kernels as kernels

    (inputs, out), channels = output[0].shape, z.shape[-1]

    def affine(weights, bias):
        return weights.astype(z.dtype), _float32(bias)

    pairs = kernels.Pairs(z.reshape(-1, channels), product.reshape(inputs, -1))
    vectors = map(_float32, (*norms[0], *norms[1]))
    parameters = kernels.ConsumerParameters(*vectors, *affine(*output), *affine(*gate))
    stage = functools.partial(kernels.Consumer, product_channels=inputs, out=out)
    result = jax.ShapeDtypeStruct((len(pairs.z), out), z.dtype)
    (update,) = _run("consumer", stage, kernels.Arrays(pairs, parameters), [result])
    return update.reshape(*z.shape[:2], out)


def _float32(x):
    return x.astype(jnp.float32)


def _run(name, stage, arrays, outputs):
    from pallas_kernels import warpgroup
    from pallas_kernels.triangle_multiplication.mosaic_kernels import COMPUTING, PAIRS

    pairs, channels = arrays.pairs.z.shape
    share = tuning.config(f"triangle_{name}_mosaic", channels=channels).blocks["TILES"]
    kernel = stage(tiles=pairs // PAIRS, share=share, channels=channels, epsilon=EPSILON)
    return warpgroup.run(
        kernel,
        arrays,
        outputs,
        grid={"program": -(-kernel.tiles // (COMPUTING * share))},
        scratch=kernel.scratch(),
        computing=COMPUTING,
    )
