"""Exchanges in slabs: a large collective cut into several, so that compute on one slab hides the exchange of the next.

A slab is a part of a dimension that devices hold locally. Once exchanged, that dimension is whole, and a slab holds of
it the same part of every device's share: `join` puts slabs in order, `cut` is its inverse. On a null axis there is one
slab, which is the array itself.

Where compute and exchange are separated by barriers (`pipeline.py`), what is sent is laid out by the compute before,
with `parts`, and what arrives is put in order by the compute after, with `join_parts`: inside `all_to_all` both would
be copies of their own.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from parallel.axis import Axis

MOST_SLABS = 4


def num_slabs(x: Array, dim: int, axis: Axis) -> int:
    """Into how many equal slabs to cut a local dimension: a divisor of it, 1 if the array is small."""
    if axis.name is None:
        return 1
    most = min(MOST_SLABS, max(1, x.size * x.dtype.itemsize // axis.slab_bytes))
    return max(count for count in range(1, most + 1) if x.shape[dim] % count == 0)


def cut_local(x: Array, dim: int, count: int) -> list[Array]:
    """Slabs of a dimension of which this device holds its part."""
    # Not slices: the derivative of a split is one concatenation, that of slices a sum of padded arrays.
    return list(lax.split(x, [x.shape[dim] // count] * count, axis=dim)) if count > 1 else [x]


def cut(x: Array, dim: int, count: int, axis: Axis) -> list[Array]:
    """Slabs of a dimension that is whole on every device: of each, the same part of every device's share."""
    if count == 1:
        return [x]
    return [_whole(slab, dim) for slab in cut_local(_by_device(x, dim, axis), dim + 1, count)]


def join(slabs: Sequence[Array], dim: int, axis: Axis) -> Array:
    """The whole dimension, in order, from slabs of it as they arrive from a gather or `Axis.all_to_all`."""
    if len(slabs) == 1:
        return slabs[0]
    return _whole(join_local([_by_device(slab, dim, axis) for slab in slabs], dim + 1), dim)


def parts(x: Array, dim: int, axis: Axis) -> Array:
    """Each device's part of a dimension that is whole here, stacked along a new first dimension for `Axis.exchange`."""
    if axis.name is None:
        return x
    return jnp.moveaxis(_by_device(x, dim, axis), dim, 0)


def join_parts(slabs: Sequence[Array], dim: int, axis: Axis) -> Array:
    """The whole dimension, in order, from slabs of it that `Axis.exchange` brought.

    One pass over memory puts in order both slabs and devices; `Axis.all_to_all` and `join` take two.
    """
    if axis.name is None:
        return join_local(slabs, dim)
    return _whole(jnp.moveaxis(join_local(slabs, dim + 1), 0, dim), dim)


def join_local(slabs: Sequence[Array], dim: int) -> Array:
    """The local dimension from slabs of it."""
    return jnp.concatenate(slabs, axis=dim) if len(slabs) > 1 else slabs[0]


def _by_device(x: Array, dim: int, axis: Axis) -> Array:
    """A dimension that is whole as two: the devices, and each one's share."""
    return x.reshape(*x.shape[:dim], axis.size, -1, *x.shape[dim + 1 :])


def _whole(x: Array, dim: int) -> Array:
    """Undoes `_by_device`."""
    return x.reshape(*x.shape[:dim], -1, *x.shape[dim + 2 :])
