"""Triangle multiplication's Mosaic GPU kernels: what comes before the contraction, and what comes after it.

A program keeps the weights in shared memory and goes through some tiles of pairs, each of its two computing warpgroups
through its own, so that one multiplies while the other norms or gates.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.experimental.pallas as pl
import jax.experimental.pallas.mosaic_gpu as plgpu
import jax.numpy as jnp
from jax import lax

from pallas_kernels.warpgroup import (
    COLUMNS,
    ROWS,
    columns,
    product,
    rows,
    tiles,
    transposed,
    vector,
)

CHUNK = 64  # channels of an operand made at a time: rows of a product
PAIRS = 64  # to a tile
COMPUTING = 2  # warpgroups


class Arrays(NamedTuple):
    """Inputs: what there is for each pair, and parameters; in shared memory, a tile of the first for each warpgroup."""

    pairs: Any
    parameters: Any


class Scratch(NamedTuple):
    """Inputs in shared memory, a normed tile (of the producer) and one of results for each warpgroup, and barriers."""

    arrays: Arrays
    normed: Any
    result: Any
    ready: Any
    loaded: Any
    used: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Stage:
    """A kernel of one of the two stages. Grid: (program).

    Attributes:
      tiles: Of pairs, in all.
      share: Of them, to a warpgroup.
      channels: Of z.
      epsilon: Of layer norms.
    """

    tiles: int
    share: int
    channels: int
    epsilon: float

    def _scratch(self, arrays: Arrays, normed: Any, result: Any) -> Scratch:
        """What a program has of shared memory, its inputs given."""
        return Scratch(
            arrays=arrays,
            normed=normed,
            result=result,
            ready=plgpu.Barrier(num_arrivals=sum(1 for _ in self._parts(arrays.parameters))),
            loaded=plgpu.Barrier(num_arrivals=2, num_barriers=COMPUTING),
            used=plgpu.Barrier(num_arrivals=1, num_barriers=COMPUTING),
        )

    def load(self, arrays: Arrays, scratch: Scratch) -> None:
        """The parameters, and tiles as their places get free."""
        for name, part in self._parts(arrays.parameters):
            source, target = (getattr(side, name) for side in (arrays.parameters, scratch.arrays.parameters))
            plgpu.copy_gmem_to_smem(source.at[part], target.at[part], scratch.ready)

        def step(index, _):
            for warpgroup in range(COMPUTING):

                @pl.when(index < self._count(warpgroup))
                def _fetch(warpgroup=warpgroup):
                    pl.when(index > 0)(lambda: plgpu.barrier_wait(scratch.used.at[warpgroup]))
                    for source, target in self._tiles_of(arrays.pairs, scratch.arrays.pairs, warpgroup, index):
                        plgpu.copy_gmem_to_smem(source, target, scratch.loaded.at[warpgroup])

        lax.fori_loop(0, self.share, step, None)
        for warpgroup in range(COMPUTING):
            last = scratch.used.at[warpgroup]
            pl.when(self._count(warpgroup) > 0)(functools.partial(plgpu.barrier_wait, last))

    def compute(self, arrays: Arrays, outputs: Any, scratch: Scratch, warpgroup: jax.Array) -> None:
        """All tiles of a warpgroup."""
        del arrays  # come by way of the shared memory
        plgpu.barrier_wait(scratch.ready)

        def step(index, _):
            plgpu.barrier_wait(scratch.loaded.at[warpgroup])
            self._step(index, outputs, scratch, warpgroup)

        lax.fori_loop(0, self._count(warpgroup), step, None)
        plgpu.wait_smem_to_gmem(0)

    def _parts(self, parameters: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names of parameters and what is loaded of each at a time: matrices and vectors."""
        for name, parameter in parameters._asdict().items():
            leading = parameter.shape[:-2] if name in ("weights", "gate") else ()
            yield from ((name, part) for part in _indices(leading))

    def _tiles_of(self, pairs, places, warpgroup, index):
        """References to a tile of each input, and to its place in shared memory."""
        raise NotImplementedError

    def _step(self, index, outputs, scratch, warpgroup):
        """A tile, which has been loaded."""
        raise NotImplementedError

    def _release(self, scratch, warpgroup):
        """Says that what was read is not needed in shared memory any more."""
        plgpu.commit_smem()  # what threads have read is read before TMA writes there again
        plgpu.barrier_arrive(scratch.used.at[warpgroup])

    def _norm(self, x: jax.Array, scale: Any, offset: Any) -> jax.Array:
        """Layer norm of each row of a tile, in bf16."""
        count = x.shape[1]
        centred = x - rows(x.sum(axis=1) / count, x.shape)
        variance = (centred * centred).sum(axis=1) / count
        # The scale first: the other way round some compilers run out of registers.
        scaled = centred * columns(vector(scale, COLUMNS), x.shape)
        scaled *= rows(lax.rsqrt(variance + self.epsilon), x.shape)
        return (scaled + columns(vector(offset, COLUMNS), x.shape)).astype(jnp.bfloat16)

    def _store(self, value, scratch, warpgroup, target):
        """Starts to write a tile of results, as soon as the one before has left."""
        plgpu.wait_smem_to_gmem(0)
        scratch.result[warpgroup] = value.astype(jnp.bfloat16)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(scratch.result.at[warpgroup], target)

    def _tile(self, warpgroup, index):
        return (lax.axis_index("program") * self.share + index) * COMPUTING + warpgroup

    def _pairs(self, warpgroup, index):
        return pl.ds(self._tile(warpgroup, index) * PAIRS, PAIRS)

    def _count(self, warpgroup):
        """Tiles that there are of a warpgroup's share."""
        left = self.tiles - self._tile(warpgroup, 0)
        return jnp.clip(lax.div(left + COMPUTING - 1, COMPUTING), 0, self.share)


def _indices(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [()] if not shape else [(i, *rest) for i in range(shape[0]) for rest in _indices(shape[1:])]


class Pairs(NamedTuple):
    """z [pairs, c]; the mask [pairs] of the producer or the product [channels, pairs] of the consumer."""

    z: Any
    other: Any


class ProducerParameters(NamedTuple):
    """Layer norm [c]; projection and gate: weights [operand, chunk, CHUNK, c], biases [operand, chunk, CHUNK]."""

    scale: Any
    offset: Any
    weights: Any
    bias: Any
    gate: Any
    gate_bias: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Producer(_Stage):
    """Layer norm, gated projections, mask. Products are channels by pairs, so that results leave channels first.

    Attributes:
      chunks: Of an operand.
    """

    chunks: int

    def scratch(self) -> Scratch:
        """What a program has of shared memory."""
        weights, z = tiles(2, self.chunks, CHUNK, self.channels), tiles(COMPUTING, PAIRS, self.channels)
        bias, norm = plgpu.SMEM((2, self.chunks, CHUNK), jnp.float32), plgpu.SMEM((self.channels,), jnp.float32)
        # Of two tiles: one is needed until the end, and z is not.
        mask = plgpu.SMEM((COMPUTING, 2, PAIRS), jnp.float32)
        arrays = Arrays(Pairs(z, mask), ProducerParameters(norm, norm, weights, bias, weights, bias))
        return self._scratch(arrays, z, tiles(COMPUTING, CHUNK, PAIRS))

    def _tiles_of(self, pairs, places, warpgroup, index):
        here = self._pairs(warpgroup, index)
        yield pairs.z.at[here], places.z.at[warpgroup]
        yield pairs.other.at[here], places.other.at[warpgroup, lax.rem(index, 2)]

    def _step(self, index, outputs, scratch, warpgroup):
        """Both operands of a tile."""
        z, parameters = scratch.arrays.pairs.z[warpgroup].astype(jnp.float32), scratch.arrays.parameters
        self._release(scratch, warpgroup)
        scratch.normed[warpgroup] = self._norm(z, parameters.scale, parameters.offset)
        plgpu.commit_smem()
        normed, mask = scratch.normed.at[warpgroup], scratch.arrays.pairs.other.at[warpgroup, lax.rem(index, 2)]

        def affine(weights, bias):
            values = product(weights, normed, b_transposed=True)
            return values + rows(vector(bias, ROWS), values.shape)

        for part in _indices((2, self.chunks)):
            opened = jax.nn.sigmoid(affine(parameters.gate.at[part], parameters.gate_bias.at[part]))
            values = affine(parameters.weights.at[part], parameters.bias.at[part]) * opened
            values *= columns(vector(mask, COLUMNS), values.shape)
            operand, chunk = part
            place = pl.ds(chunk * CHUNK, CHUNK), self._pairs(warpgroup, index)
            self._store(values, scratch, warpgroup, outputs[operand].at[place])


class ConsumerParameters(NamedTuple):
    """Layer norms of z and of the product; output and gate: weights [inputs, outputs], biases [outputs]."""

    scale: Any
    offset: Any
    product_scale: Any
    product_offset: Any
    weights: Any
    bias: Any
    gate: Any
    gate_bias: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Consumer(_Stage):
    """Layer norm of the product over its channels, projection, gate from the layer-normed z.

    Attributes:
      product_channels: Of the product.
      out: Channels of the result.
    """

    product_channels: int
    out: int

    def scratch(self) -> Scratch:
        """What a program has of shared memory."""
        norm, product_norm, bias = (
            plgpu.SMEM((size,), jnp.float32) for size in (self.channels, self.product_channels, self.out)
        )
        weights, gate = tiles(self.product_channels, self.out), tiles(self.channels, self.out)
        parameters = ConsumerParameters(norm, norm, product_norm, product_norm, weights, bias, gate, bias)
        pairs = Pairs(tiles(COMPUTING, PAIRS, self.channels), tiles(COMPUTING, self.product_channels, PAIRS))
        return self._scratch(Arrays(pairs, parameters), None, tiles(COMPUTING, PAIRS, self.out))

    def _tiles_of(self, pairs, places, warpgroup, index):
        here = self._pairs(warpgroup, index)
        yield pairs.z.at[here], places.z.at[warpgroup]
        yield pairs.other.at[pl.ds(0, self.product_channels), here], places.other.at[warpgroup]

    def _step(self, index, outputs, scratch, warpgroup):
        """The update of a tile."""
        parameters = scratch.arrays.parameters
        contracted = transposed(scratch.arrays.pairs.other.at[warpgroup]).astype(jnp.float32)
        contracted = self._norm(contracted, parameters.product_scale, parameters.product_offset)
        values = product(contracted, parameters.weights)
        z = scratch.arrays.pairs.z[warpgroup].astype(jnp.float32)
        self._release(scratch, warpgroup)
        gates = product(self._norm(z, parameters.scale, parameters.offset), parameters.gate)
        gates += columns(vector(parameters.gate_bias, COLUMNS), gates.shape)
        values += columns(vector(parameters.bias, COLUMNS), values.shape)
        values *= jax.nn.sigmoid(gates)
        self._store(values, scratch, warpgroup, outputs[0].at[self._pairs(warpgroup, index)])
