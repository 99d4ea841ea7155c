"""The device axis: each collective on two and four devices against one, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from parallel import Axis
from parallel.axis import EXCHANGED


def _mesh(size: int) -> Mesh:
    return Mesh(np.array(jax.devices()[:size]), ("dap",))


def _run(function, x, size, in_dim, out_dim):
    def spec(dim):
        return PartitionSpec(*(["dap" if d == dim else None for d in range(x.ndim)] if dim is not None else []))

    return jax.shard_map(function, mesh=_mesh(size), in_specs=spec(in_dim), out_specs=spec(out_dim), check_vma=False)(x)


@pytest.fixture
def x():
    return jnp.arange(8 * 4 * 4, dtype=jnp.float32).reshape(8, 4, 4) ** 1.5


def test_a_null_axis_changes_nothing(x):
    axis = Axis()
    assert axis.index() == 0
    for result in (
        axis.all_to_all(x, split=0, concat=1),
        axis.exchange(x),
        axis.gather(x, 0),
        axis.psum(x),
        axis.shard(x, 0),
        axis.from_first(x),
    ):
        assert result is x


@pytest.mark.parametrize("size", [2, 4])
def test_all_to_all_changes_which_dimension_is_split(x, size):
    axis = Axis("dap", size)
    out = _run(lambda local: axis.all_to_all(local, split=1, concat=0), x, size, in_dim=0, out_dim=1)
    np.testing.assert_array_equal(out, x)


@pytest.mark.parametrize("size", [2, 4])
def test_parts_go_to_their_devices(x, size):
    """Row i of column j's device becomes row j of row i's; a second exchange brings everything back."""
    axis = Axis("dap", size)
    grid = x[:size, :size]
    sent = _run(lambda local: jnp.swapaxes(axis.exchange(jnp.swapaxes(local, 0, 1)), 0, 1), grid, size, 0, 0)
    np.testing.assert_array_equal(sent, jnp.swapaxes(grid, 0, 1))


@pytest.mark.parametrize("size", [2, 4])
def test_gather_undoes_shard(x, size):
    axis = Axis("dap", size)
    np.testing.assert_array_equal(_run(lambda w: axis.gather(axis.shard(w, 1), 1), x, size, None, None), x)


@pytest.mark.parametrize("size", [2, 4])
def test_from_first_takes_the_first_device(x, size):
    axis = Axis("dap", size)
    out = _run(axis.from_first, x, size, in_dim=0, out_dim=None)
    np.testing.assert_array_equal(out, x[: 8 // size])


@pytest.mark.parametrize("size", [2, 4])
def test_gradients_through_collectives_are_those_of_one_device(x, size):
    weights = jnp.linspace(-1, 1, x.size).reshape(x.shape)

    def loss(axis, value):
        moved = axis.all_to_all(jnp.sin(value), split=1, concat=0)
        whole = axis.gather(moved, 1)
        return jnp.square(whole).sum() + (whole * weights).sum()

    axis = Axis("dap", size)

    def sharded(value):
        # Every device computes the same sum, so that its mean over devices is that sum once.
        return _run(lambda local: (axis.psum(loss(axis, local)) / size)[None, None, None], value, size, 0, None).sum()

    np.testing.assert_allclose(jax.grad(sharded)(x), jax.grad(lambda v: loss(Axis(), v))(x), rtol=1e-4, atol=1e-3)


def test_an_uneven_dimension_is_refused(x):
    axis = Axis("dap", 4)
    with pytest.raises(ValueError, match="does not divide over 4 devices"):
        axis.shard(x[:, :3], 1)
    with pytest.raises(ValueError, match="cannot have 2 devices"):
        Axis(None, 2)


@pytest.mark.parametrize(("keep", "times"), [(True, 2), (False, 3)])
def test_a_recomputed_block_exchanges_again_where_nothing_is_kept(x, keep, times):
    """Once forward and once for the gradient; a third time only where the result was not kept."""
    axis = Axis("dap", 2, keep=keep)
    policy = jax.checkpoint_policies.save_only_these_names(EXCHANGED)
    block = jax.checkpoint(lambda local: jnp.sin(axis.all_to_all(jnp.sin(local), split=1, concat=0)), policy=policy)

    def loss(x):
        return _run(block, x, 2, in_dim=0, out_dim=1).sum()

    assert str(jax.make_jaxpr(jax.grad(loss))(x)).count("all_to_all[") == times
