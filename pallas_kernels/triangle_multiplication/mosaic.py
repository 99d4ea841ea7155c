"""Triangle multiplication on Hopper: the Mosaic GPU kernel of its producer launched from JAX."""

import jax
import jax.numpy as jnp

from pallas_kernels import tuning

CHANNELS = (64, 128)
_EPSILON = 1e-5


def unfit_producer(z, mask, norm, projection, gate, **static):
    """Why the kernel cannot take these arrays, or None."""
    from pallas_kernels.triangle_multiplication.mosaic_kernels import CHUNK, PAIRS

    del mask, norm, gate, static
    channels, out = projection[0].shape
    pairs = z.shape[0] * z.shape[1]
    if z.dtype != jnp.bfloat16:
        return f"pairs are {z.dtype}; the tensor cores' products it is made of are bfloat16"
    if channels not in CHANNELS:
        return f"there are {channels} channels; accepted are {', '.join(map(str, CHANNELS))}"
    if out % (2 * CHUNK) or out > 2 * CHANNELS[-1]:
        return f"operands have {out // 2} channels; accepted are multiples of {CHUNK} up to {CHANNELS[-1]}"
    if pairs % PAIRS or not 0 < pairs < 2**31:
        return f"there are {pairs} pairs; accepted are multiples of {PAIRS} below 2^31"
    return None


def producer(z, mask, norm, projection, gate):
    """See `api.triangle_producer`."""
    from pallas_kernels import warpgroup
    from pallas_kernels.triangle_multiplication.mosaic_kernels import CHUNK, COMPUTING, PAIRS, Arrays, Producer

    channels, out = projection[0].shape
    pairs, chunks = z.shape[0] * z.shape[1], out // (2 * CHUNK)
    share = tuning.config("triangle_producer_mosaic", channels=channels).blocks["TILES"]
    kernel = Producer(tiles=pairs // PAIRS, share=share, channels=channels, chunks=chunks, epsilon=_EPSILON)

    def parameters(weights, bias):
        parts = (2, chunks, CHUNK)
        weights = weights.astype(z.dtype).T.reshape(*parts, channels)
        return weights, bias.astype(jnp.float32).reshape(parts)

    vectors = (vector.astype(jnp.float32) for vector in (mask.reshape(pairs), *norm))
    operand = jax.ShapeDtypeStruct((out // 2, pairs), z.dtype)
    operands = warpgroup.run(
        kernel,
        Arrays(z.reshape(pairs, channels), *vectors, *parameters(*projection), *parameters(*gate)),
        [operand, operand],
        grid={"program": -(-kernel.tiles // (COMPUTING * share))},
        scratch=kernel.scratch(),
        warpgroups=COMPUTING + 1,
    )
    return tuple(operand.reshape(-1, *z.shape[:2]) for operand in operands)
