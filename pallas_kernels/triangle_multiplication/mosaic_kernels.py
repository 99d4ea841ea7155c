"""Triangle multiplication's Mosaic GPU kernel: what comes before the contraction, with the weights kept on the chip.

A program goes through some tiles of pairs, each of its two computing warpgroups through its own, so that one multiplies
while the other norms or gates. Products are of transposed matrices, channels by pairs: results leave channels first.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax.experimental.pallas as pl
import jax.experimental.pallas.mosaic_gpu as plgpu
import jax.numpy as jnp
from jax import lax

from pallas_kernels.warpgroup import COLUMNS, LOG2_E, ROWS, columns, product, rows, share_registers, tiles, vector

CHUNK = 64  # channels of an operand made at a time: rows of a product
PAIRS = 64  # to a tile
COMPUTING = 2  # warpgroups


class Arrays(NamedTuple):
    """References: z [pairs, c]; mask [pairs]; scale, offset [c]; projection and gate.

    Weights are [operand, chunk, CHUNK, c] and biases [operand, chunk, CHUNK].
    """

    z: Any
    mask: Any
    scale: Any
    offset: Any
    weights: Any
    bias: Any
    gate: Any
    gate_bias: Any


class Scratch(NamedTuple):
    """The same in shared memory, z and mask for each warpgroup; its normed tile, and a chunk of results; barriers."""

    arrays: Arrays
    normed: Any
    result: Any
    ready: Any
    loaded: Any
    used: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Producer:
    """The kernel. Grid: (program).

    Attributes:
      tiles: Of pairs, in all.
      share: Of them, to a warpgroup.
      channels: Of z.
      chunks: Of an operand.
      epsilon: Of the layer norm.
    """

    tiles: int
    share: int
    channels: int
    chunks: int
    epsilon: float

    def scratch(self) -> Scratch:
        """What a program has of shared memory."""
        weights, z = tiles(2, self.chunks, CHUNK, self.channels), tiles(COMPUTING, PAIRS, self.channels)
        bias, norm = plgpu.SMEM((2, self.chunks, CHUNK), jnp.float32), plgpu.SMEM((self.channels,), jnp.float32)
        # Of two tiles: one is needed until the end, and z is not.
        mask = plgpu.SMEM((COMPUTING, 2, PAIRS), jnp.float32)
        return Scratch(
            arrays=Arrays(z, mask, norm, norm, weights, bias, weights, bias),
            normed=z,
            result=tiles(COMPUTING, CHUNK, PAIRS),
            ready=plgpu.Barrier(num_arrivals=4 + 4 * self.chunks),
            loaded=plgpu.Barrier(num_arrivals=2, num_barriers=COMPUTING),
            used=plgpu.Barrier(num_arrivals=1, num_barriers=COMPUTING),
        )

    def __call__(self, arrays: Arrays, outputs: Any, scratch: Scratch) -> None:
        """The work of a warpgroup: those that compute come first, then the one that loads."""
        warpgroup = lax.axis_index("warpgroup")
        pl.when(warpgroup < COMPUTING)(lambda: self._compute(outputs, scratch, warpgroup))
        pl.when(warpgroup == COMPUTING)(lambda: self._load(arrays, scratch))

    def _load(self, arrays, scratch):
        """The parameters, and tiles as their places get free."""
        share_registers(COMPUTING, loads=True)
        for name in ("scale", "offset", "bias", "gate_bias"):
            plgpu.copy_gmem_to_smem(getattr(arrays, name), getattr(scratch.arrays, name), scratch.ready)
        for name in ("weights", "gate"):
            source, target = getattr(arrays, name), getattr(scratch.arrays, name)
            for part in ((operand, chunk) for operand in range(2) for chunk in range(self.chunks)):
                plgpu.copy_gmem_to_smem(source.at[part], target.at[part], scratch.ready)

        def step(index, _):
            for warpgroup in range(COMPUTING):

                @pl.when(index < self._count(warpgroup))
                def _fetch(warpgroup=warpgroup):
                    pl.when(index > 0)(lambda: plgpu.barrier_wait(scratch.used.at[warpgroup]))
                    pairs, loaded = self._pairs(warpgroup, index), scratch.loaded.at[warpgroup]
                    plgpu.copy_gmem_to_smem(arrays.z.at[pairs], scratch.arrays.z.at[warpgroup], loaded)
                    mask = scratch.arrays.mask.at[warpgroup, lax.rem(index, 2)]
                    plgpu.copy_gmem_to_smem(arrays.mask.at[pairs], mask, loaded)

        lax.fori_loop(0, self.share, step, None)
        for warpgroup in range(COMPUTING):
            last = scratch.used.at[warpgroup]
            pl.when(self._count(warpgroup) > 0)(functools.partial(plgpu.barrier_wait, last))

    def _compute(self, outputs, scratch, warpgroup):
        """Both operands of all tiles of a warpgroup."""
        share_registers(COMPUTING, loads=False)
        plgpu.barrier_wait(scratch.ready)
        step = lambda index, _: self._step(index, outputs, scratch, warpgroup)  # noqa: E731
        lax.fori_loop(0, self._count(warpgroup), step, None)
        plgpu.wait_smem_to_gmem(0)

    def _step(self, index, outputs, scratch, warpgroup):
        """Both operands of a tile."""
        plgpu.barrier_wait(scratch.loaded.at[warpgroup])
        z = scratch.arrays.z[warpgroup].astype(jnp.float32)
        plgpu.commit_smem()  # what threads have read is read before TMA writes there again
        plgpu.barrier_arrive(scratch.used.at[warpgroup])
        scratch.normed[warpgroup] = self._norm(z, scratch).astype(jnp.bfloat16)
        plgpu.commit_smem()
        for operand, out in enumerate(outputs):
            for chunk in range(self.chunks):
                values = self._affine(scratch, "weights", "bias", (operand, chunk), warpgroup)
                gates = self._affine(scratch, "gate", "gate_bias", (operand, chunk), warpgroup)
                values /= 1.0 + jnp.exp2(gates * -LOG2_E)
                values *= columns(vector(scratch.arrays.mask.at[warpgroup, lax.rem(index, 2)], COLUMNS), values.shape)
                plgpu.wait_smem_to_gmem(0)  # the chunk before has left
                scratch.result[warpgroup] = values.astype(jnp.bfloat16)
                plgpu.commit_smem()
                place = pl.ds(chunk * CHUNK, CHUNK), self._pairs(warpgroup, index)
                plgpu.copy_smem_to_gmem(scratch.result.at[warpgroup], out.at[place])

    def _norm(self, z, scratch):
        centred = z - rows(z.sum(axis=1) / self.channels, z.shape)
        variance = (centred * centred).sum(axis=1) / self.channels
        normed = centred * rows(lax.rsqrt(variance + self.epsilon), z.shape)
        normed *= columns(vector(scratch.arrays.scale, COLUMNS), z.shape)
        return normed + columns(vector(scratch.arrays.offset, COLUMNS), z.shape)

    def _affine(self, scratch, weights, bias, part, warpgroup):
        """A chunk of a projection of the normed tile, channels first."""
        weights, bias = (getattr(scratch.arrays, name).at[part] for name in (weights, bias))
        values = product(weights, scratch.normed.at[warpgroup], b_transposed=True)
        return values + rows(vector(bias, ROWS), values.shape)

    def _tile(self, warpgroup, index):
        return (lax.axis_index("program") * self.share + index) * COMPUTING + warpgroup

    def _pairs(self, warpgroup, index):
        return pl.ds(self._tile(warpgroup, index) * PAIRS, PAIRS)

    def _count(self, warpgroup):
        """Tiles that there are of a warpgroup's share."""
        left = self.tiles - self._tile(warpgroup, 0)
        return jnp.clip(lax.div(left + COMPUTING - 1, COMPUTING), 0, self.share)
