"""Exchanges in slabs equal whole ones, values and gradients; a null axis has one slab."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from parallel import DAP, Axis, make_mesh
from parallel.layout import cut, cut_local, join, join_local, join_parts, num_slabs, parts

SIZES = pytest.mark.parametrize("size", [2, 4])
ROWS, COLUMNS = PartitionSpec(DAP), PartitionSpec(None, DAP)


def _on_devices(function, size, in_spec, out_spec):
    mesh = make_mesh(dap=size, data=1)
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=in_spec, out_specs=out_spec, check_vma=False))


@pytest.fixture
def x():
    return jnp.arange(16 * 8 * 3, dtype=jnp.float32).reshape(16, 8, 3) ** 1.5


@SIZES
def test_rows_to_columns_in_slabs(x, size):
    """Each slab of local rows is exchanged by itself; joined, they are what one exchange brings."""
    axis = Axis(DAP, size, slab_bytes=1)

    def slabs(local):
        count = num_slabs(local, 0, axis)
        assert count == min(4, 16 // size)
        return join([axis.all_to_all(s, split=1, concat=0) for s in cut_local(local, 0, count)], 0, axis)

    exchange = _on_devices(slabs, size, ROWS, COLUMNS)
    np.testing.assert_array_equal(exchange(x), x)
    weights = jnp.sin(x)
    np.testing.assert_allclose(jax.grad(lambda v: jnp.sum(exchange(v) * weights))(x), weights)


@SIZES
@pytest.mark.parametrize("count", [1, 4])
def test_rows_to_columns_in_parts(x, size, count):
    """Parts that are exchanged and then put in order are what `all_to_all` brings, whichever dimensions they are of."""
    axis = Axis(DAP, size)

    def rows_to_columns(local):
        return join_parts([axis.exchange(parts(s, 1, axis)) for s in cut_local(local, 0, count)], 0, axis)

    def columns_to_rows(local):
        return join_parts([axis.exchange(parts(s, 0, axis)) for s in cut_local(local, 1, count)], 1, axis)

    y = jnp.concatenate([x, x + 1000], axis=1)
    for function, there, back in ((rows_to_columns, ROWS, COLUMNS), (columns_to_rows, COLUMNS, ROWS)):
        exchange = _on_devices(function, size, there, back)
        np.testing.assert_array_equal(exchange(y), y)
        weights = jnp.sin(y)
        np.testing.assert_allclose(jax.grad(lambda v, f=exchange, w=weights: jnp.sum(f(v) * w))(y), weights)


@SIZES
def test_columns_to_rows_in_slabs(x, size):
    """A whole dimension is cut so that what arrives is a slab of local rows."""
    axis = Axis(DAP, size)

    def slabs(local):
        return join_local([axis.all_to_all(s, split=0, concat=1) for s in cut(local, 0, 2, axis)], 0)

    exchange = _on_devices(slabs, size, COLUMNS, ROWS)
    np.testing.assert_array_equal(exchange(x), x)
    np.testing.assert_allclose(jax.grad(lambda v: jnp.sum(exchange(v) ** 2))(x), 2 * x)


@SIZES
def test_gather_in_slabs(x, size):
    axis = Axis(DAP, size)

    def slabs(local):
        return join([axis.gather(s, 0) for s in cut_local(local, 0, 4)], 0, axis)

    np.testing.assert_array_equal(_on_devices(slabs, size, ROWS, PartitionSpec())(x), x)


def test_join_undoes_cut(x):
    axis = Axis(DAP, 2)
    for dim, count in ((0, 4), (1, 2)):
        np.testing.assert_array_equal(join(cut(x, dim, count, axis), dim, axis), x)


def test_one_device_has_one_slab(x):
    axis = Axis()
    assert num_slabs(x, 0, axis) == 1
    assert cut_local(x, 0, 1)[0] is x and cut(x, 0, 1, axis)[0] is x
    assert join([x], 0, axis) is x and join_local([x], 0) is x
    assert parts(x, 0, axis) is x and join_parts([x], 0, axis) is x


def test_slabs_divide_and_are_not_tiny(x):
    assert num_slabs(x[:9], 0, Axis(DAP, 2, slab_bytes=1)) == 3
    assert num_slabs(x[:7], 0, Axis(DAP, 2, slab_bytes=1)) == 1
    assert num_slabs(x, 0, Axis(DAP, 2, slab_bytes=x.nbytes // 2)) == 2
    assert num_slabs(x, 0, Axis(DAP, 2, slab_bytes=x.nbytes + 1)) == 1
