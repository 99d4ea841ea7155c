"""What kernels in Pallas Mosaic GPU share: products on Hopper's tensor cores, shared memory as they read it, launching.

A program has some warpgroups (128 threads each) that compute and one that loads. Tiles come and go by TMA, which reads
zeros where an array has ended and does not write there. Importing this imports Mosaic GPU.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import jax
import jax.experimental.pallas as pl
import jax.experimental.pallas.mosaic_gpu as plgpu
import jax.numpy as jnp

# How a warpgroup holds the result of a product in registers, and so a vector of its rows, or of its columns.
TILE = plgpu.Layout.WGMMA
ROWS = plgpu.Layout.WGMMA.reduce(1)
COLUMNS = plgpu.Layout.WGMMA.reduce(0)
# Registers of one thread of each warpgroup: all that a program has, what loading takes, and the most that one can have.
_REGISTERS, _LOADING, _MOST = 504, 24, 240
_LINE = 128  # bytes of shared memory that hold every bank once


def _on_tensor_cores(a, b, *, b_transposed: bool):
    b = b.transpose((1, 0)) if b_transposed else b

    def multiply(accumulator):
        plgpu.wgmma(accumulator, a, b)
        return accumulator[...]

    return pl.run_scoped(multiply, plgpu.WGMMAAccumulatorRef((a.shape[0], b.shape[1]), jnp.float32))


def _loaded_transposed(ref):
    flipped = plgpu.layout_cast(ref.transpose((1, 0))[...], plgpu.Layout.WGMMA_TRANSPOSED)
    return plgpu.layout_cast(flipped, TILE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runner:
    """What runs kernels.

    Attributes:
      kernel: As `plgpu.kernel`.
      product: `(a, b, b_transposed=...) -> float32 tile`.
      transposed: `matrix in shared memory -> tile`.
    """

    kernel: Callable = plgpu.kernel
    product: Callable = _on_tensor_cores
    transposed: Callable = _loaded_transposed


_GPU = Runner()
_RUNNER: ContextVar[Runner] = ContextVar("runner", default=_GPU)


@contextmanager
def running_with(runner: Runner) -> Iterator[None]:
    """Kernels traced inside are run by `runner`: by an interpreter in tests."""
    token = _RUNNER.set(runner)
    try:
        yield
    finally:
        _RUNNER.reset(token)


def product(a: Any, b: Any, *, b_transposed: bool = False) -> jax.Array:
    """a b in float32, held as a `TILE`.

    Args:
      a: In shared memory, or a tile in registers; its rows are a multiple of 64.
      b: In shared memory.
    """
    return _RUNNER.get().product(a, b, b_transposed=b_transposed)


def transposed(ref: Any) -> jax.Array:
    """A matrix in shared memory the other way round, as a `TILE`.

    Sums over the rows of a tile go through shared memory that all warpgroups of a program would have together, so that
    they would spoil each other's. Sums over its columns stay within a warp.
    """
    return _RUNNER.get().transposed(ref)


def vector(ref: Any, layout: Any) -> jax.Array:
    """A vector from shared memory as `ROWS` or `COLUMNS` of a tile.

    Straight from there: loaded in any other way first, it would have to be a multiple of 128.
    """
    return plgpu.layout_cast(ref[...], layout)


def rows(vector: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A vector of the rows of a tile, repeated along each."""
    return jax.lax.broadcast_in_dim(vector, shape, [0])


def columns(vector: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A vector of the columns of a tile, repeated along each."""
    return jax.lax.broadcast_in_dim(vector, shape, [1])


def filled(value: float, *shape: int) -> jax.Array:
    """A tile, or a vector of the rows of one, of one number in float32."""
    return plgpu.layout_cast(jnp.full(shape, value, jnp.float32), TILE if len(shape) == 2 else ROWS)


def tiles(*shape: int) -> Any:
    """Shared memory for bf16 matrices, laid out so that tensor cores and TMA meet no bank twice."""
    lanes = min(shape[-1], _LINE // 2)
    return plgpu.SMEM(
        shape, jnp.bfloat16, transforms=(plgpu.TilingTransform((8, lanes)), plgpu.SwizzleTransform(2 * lanes))
    )


class Kernel(Protocol):
    """What the warpgroups of a program do, of references in the structures that are given to `run`."""

    def compute(self, arrays: Any, outputs: Any, scratch: Any, warpgroup: jax.Array) -> None:
        """The work of one of those that compute, which are counted from 0."""

    def load(self, arrays: Any, scratch: Any) -> None:
        """The work of the one that loads."""


def run(
    kernel: Kernel,
    arrays: Any,
    outputs: Sequence[jax.ShapeDtypeStruct],
    *,
    grid: dict[str, int],
    scratch: Any,
    computing: int,
) -> Sequence[jax.Array]:
    """The outputs of a kernel.

    Args:
      arrays: Inputs, a tree.
      grid: Programs along each named axis; those of the last run side by side.
      scratch: Shared memory and barriers, a tree.
      computing: Warpgroups of a program that compute, beside the one that loads.
    """
    leaves, treedef = jax.tree.flatten(arrays)

    def body(*refs):
        inputs, outs, memory = jax.tree.unflatten(treedef, refs[: len(leaves)]), refs[len(leaves) : -1], refs[-1]
        warpgroup = jax.lax.axis_index("warpgroup")

        @pl.when(warpgroup < computing)
        def _compute():
            plgpu.set_max_registers(min((_REGISTERS - _LOADING) // computing // 8 * 8, _MOST), action="increase")
            kernel.compute(inputs, outs, memory, warpgroup)

        @pl.when(warpgroup == computing)
        def _load():
            plgpu.set_max_registers(_LOADING, action="decrease")
            kernel.load(inputs, memory)

    return _RUNNER.get().kernel(
        body,
        out_type=list(outputs),
        grid=tuple(grid.values()),
        grid_names=tuple(grid),
        num_threads=computing + 1,
        thread_name="warpgroup",
        scratch_types=[scratch],
        compiler_params=plgpu.CompilerParams(approx_math=True),
    )(*leaves)
