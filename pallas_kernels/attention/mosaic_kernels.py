"""Attention's Mosaic GPU kernel: online softmax forward, several batch elements to a program.

The bias is the same for all of them: one tile of it in shared memory serves each of the program's warpgroups. A score
takes 4 d operations and 2 bytes of bias, for which an SM would wait longer, at d = 32, than for its tensor cores, if it
read them for one batch element alone.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.experimental.pallas as pl
import jax.experimental.pallas.mosaic_gpu as plgpu
import jax.numpy as jnp
from jax import lax

from pallas_kernels.attention.reference import LOG2_E
from pallas_kernels.warpgroup import COLUMNS, columns, filled, product, rows, tiles, vector


class Arrays(NamedTuple):
    """References to inputs: q, gate [b, q, h, d]; k, v [b, k, h, d]; bias [h, q, k]; ceiling [1 or b, k].

    No score, in units of log 2, is higher than its key's ceiling. Bias, ceiling and gate may be None.
    """

    q: Any
    k: Any
    v: Any
    bias: Any
    ceiling: Any
    gate: Any


class Scratch(NamedTuple):
    """In shared memory tiles of the inputs and of the statistics that are saved, and barriers."""

    arrays: Arrays
    statistics: Any
    started: Any
    loaded: Any
    used: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forward:
    """The kernel. Grid: (head, group of batch elements, block of queries).

    Attributes:
      batch: Elements of the batch.
      elements: How many of them a program works on, a warpgroup on each.
      steps: Blocks of keys.
      stages: How many of them are in shared memory at a time.
      shared_ceiling: Whether all batch elements have the same.
      save: Whether each query's highest score and sum of exponentials are wanted.
    """

    batch: int
    elements: int
    dim: int
    block_q: int
    block_k: int
    steps: int
    stages: int
    shared_ceiling: bool
    save: bool

    def scratch(self, arrays: Arrays) -> Scratch:
        """What a program has of shared memory."""
        stages, elements, queries = self.stages, self.elements, tiles(self.elements, self.block_q, self.dim)
        keys = tiles(stages, elements, self.block_k, self.dim)
        ceilings = self._ceilings(arrays)
        loads = 2 * elements + (arrays.bias is not None) + ceilings
        tiles_of = Arrays(
            q=queries,
            k=keys,
            v=keys,
            bias=None if arrays.bias is None else tiles(stages, self.block_q, self.block_k),
            ceiling=plgpu.SMEM((stages, ceilings, self.block_k), jnp.float32) if ceilings else None,
            gate=None if arrays.gate is None else queries,
        )
        return Scratch(
            arrays=tiles_of,
            statistics=plgpu.SMEM((2, elements, self.block_q), jnp.float32) if self.save else None,
            started=plgpu.Barrier(num_arrivals=1 + (arrays.gate is not None), num_barriers=elements),
            loaded=plgpu.Barrier(num_arrivals=loads, num_barriers=stages),
            used=plgpu.Barrier(num_arrivals=elements, num_barriers=stages),
        )

    def compute(self, arrays: Arrays, outputs: Any, scratch: Scratch, warpgroup: jax.Array) -> None:
        """A block of queries of one batch element."""
        element, head, queries = self._element(warpgroup), lax.axis_index("head"), self._queries()
        started = scratch.started.at[warpgroup]
        plgpu.copy_gmem_to_smem(arrays.q.at[element, queries, head], scratch.arrays.q.at[warpgroup], started)
        if arrays.gate is not None:
            plgpu.copy_gmem_to_smem(arrays.gate.at[element, queries, head], scratch.arrays.gate.at[warpgroup], started)
        plgpu.barrier_wait(started)
        first = filled(0.0, self.block_q), filled(-jnp.inf, self.block_q), filled(0.0, self.block_q, self.dim)
        step = lambda index, carry: self._step(index, carry, scratch, warpgroup)  # noqa: E731
        total, peak, weighted = lax.fori_loop(0, self.steps, step, first)
        result = weighted / rows(total, weighted.shape)
        if arrays.gate is not None:
            result *= jax.nn.sigmoid(scratch.arrays.gate[warpgroup].astype(jnp.float32))
        scratch.arrays.q[warpgroup] = result.astype(jnp.bfloat16)
        if self.save:
            scratch.statistics[0, warpgroup] = peak
            scratch.statistics[1, warpgroup] = total
        plgpu.commit_smem()

        # Where the batch is no multiple, the last warpgroups repeat its last element.
        @pl.when(lax.axis_index("group") * self.elements + warpgroup < self.batch)
        def _store():
            plgpu.copy_smem_to_gmem(scratch.arrays.q.at[warpgroup], outputs[0].at[element, queries, head])
            for index in range(2 if self.save else 0):
                statistic = scratch.statistics.at[index, warpgroup]
                plgpu.copy_smem_to_gmem(statistic, outputs[1 + index].at[element, head, queries])
            plgpu.wait_smem_to_gmem(0)

    def _step(self, index, carry, scratch, warpgroup):
        """One block of keys of the online softmax."""
        total, peak, weighted = carry
        slot = lax.rem(index, self.stages)
        plgpu.barrier_wait(scratch.loaded.at[slot])
        scores = product(scratch.arrays.q.at[warpgroup], scratch.arrays.k.at[slot, warpgroup], b_transposed=True)
        scores *= self.dim**-0.5 * LOG2_E
        if scratch.arrays.bias is not None:
            scores += scratch.arrays.bias[slot].astype(jnp.float32) * LOG2_E
        if scratch.arrays.ceiling is not None:
            ceiling = vector(scratch.arrays.ceiling.at[slot, 0 if self.shared_ceiling else warpgroup], COLUMNS)
            scores = jnp.minimum(scores, columns(ceiling, scores.shape))
        new_peak = jnp.maximum(peak, scores.max(axis=1))
        shrink = jnp.exp2(peak - new_peak)
        weights = jnp.exp2(scores - rows(new_peak, scores.shape))
        update = product(weights.astype(jnp.bfloat16), scratch.arrays.v.at[slot, warpgroup])
        # What threads have read is read before TMA writes there again.
        plgpu.commit_smem()
        plgpu.barrier_arrive(scratch.used.at[slot])
        return total * shrink + weights.sum(axis=1), new_peak, weighted * rows(shrink, weighted.shape) + update

    def load(self, arrays: Arrays, scratch: Scratch) -> None:
        """All blocks of keys, as their places get free."""
        lax.fori_loop(0, self.stages, lambda index, _: self._fetch(arrays, scratch, index, index), None)

        def again(index, _):
            slot = lax.rem(index, self.stages)
            plgpu.barrier_wait(scratch.used.at[slot])
            self._fetch(arrays, scratch, index + self.stages, slot)

        lax.fori_loop(0, self.steps - self.stages, again, None)
        for index in range(self.steps - self.stages, self.steps):
            plgpu.barrier_wait(scratch.used.at[index % self.stages])

    def _fetch(self, arrays, scratch, index, slot):
        """Starts to load a block of keys."""
        head, keys, loaded = lax.axis_index("head"), pl.ds(index * self.block_k, self.block_k), scratch.loaded.at[slot]
        if arrays.bias is not None:
            plgpu.copy_gmem_to_smem(arrays.bias.at[head, self._queries(), keys], scratch.arrays.bias.at[slot], loaded)
        for member in range(self.elements):
            element = self._element(member)
            plgpu.copy_gmem_to_smem(arrays.k.at[element, keys, head], scratch.arrays.k.at[slot, member], loaded)
            plgpu.copy_gmem_to_smem(arrays.v.at[element, keys, head], scratch.arrays.v.at[slot, member], loaded)
        for member in range(self._ceilings(arrays)):
            element = 0 if self.shared_ceiling else self._element(member)
            plgpu.copy_gmem_to_smem(arrays.ceiling.at[element, keys], scratch.arrays.ceiling.at[slot, member], loaded)

    def _queries(self):
        return pl.ds(lax.axis_index("block") * self.block_q, self.block_q)

    def _element(self, warpgroup):
        return jnp.minimum(lax.axis_index("group") * self.elements + warpgroup, self.batch - 1)

    def _ceilings(self, arrays):
        """How many a program loads with a block of keys."""
        if arrays.ceiling is None:
            return 0
        return 1 if self.shared_ceiling else self.elements
