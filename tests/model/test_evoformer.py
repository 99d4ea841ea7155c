"""The Evoformer block: masks, padding, dropout, remat and devices, in both orders and for both kinds of stack."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, PartitionSpec
from untrained import untrained

from fastfold_jax.config.execution import Execution
from fastfold_jax.config.presets import preset
from fastfold_jax.model.evoformer import block_type, evoformer_stack, extra_msa_stack, run_stack
from parallel import Axis

SIZES = {"c_m": 16, "c_z": 16, "c_e": 8, "c_outer": 4, "msa_heads": 2, "pair_heads": 2}
STACKS = {"main": (evoformer_stack, "c_m"), "extra": (extra_msa_stack, "c_e")}


def _stack(name, stack, execution):
    config = preset(name, evoformer_blocks=2, extra_msa_blocks=2, **SIZES)
    make, channels = STACKS[stack]
    return config, untrained(make(config, execution)), getattr(config, channels)


def _inputs(channels, s=4, n=8, c_z=16):
    keys = jax.random.split(jax.random.key(7), 4)
    m = jax.random.normal(keys[0], (s, n, channels))
    z = jax.random.normal(keys[1], (n, n, c_z))
    msa_mask = jax.random.bernoulli(keys[2], 0.8, (s, n)).astype(jnp.float32).at[0].set(1.0)
    return m, z, msa_mask, jnp.ones(n)


CASES = pytest.mark.parametrize(
    ("name", "stack"), [(n, s) for n in ("model_3", "model_1_multimer_v3") for s in ("main", "extra")]
)
FLOAT32 = Execution(precision="float32")


@CASES
@pytest.mark.parametrize("dropout", [False, True])
def test_padding_changes_nothing_real(name, stack, dropout):
    """Values and gradients of unpadded positions, dropout included."""
    _, blocks, channels = _stack(name, stack, FLOAT32)
    m, z, msa_mask, seq_mask = _inputs(channels)
    key = jax.random.key(1) if dropout else None

    def loss(m, z, masks):
        m, z = run_stack(blocks, m, z, masks, key=key, remat=False)
        return jnp.sum(jnp.square(m[:4, :8] * msa_mask[..., None])) + jnp.sum(jnp.square(z[:8, :8]))

    noise = jax.random.normal(jax.random.key(5), (7, 11, channels))
    padded_m = noise.at[:4, :8].set(m)
    padded_z = jnp.ones((11, 11, 16)).at[:8, :8].set(z)
    padded_masks = jnp.zeros((7, 11)).at[:4, :8].set(msa_mask), jnp.zeros(11).at[:8].set(1.0)
    value, grads = jax.jit(jax.value_and_grad(loss, (0, 1)))(m, z, (msa_mask, seq_mask))
    padded, (grad_m, grad_z) = jax.jit(jax.value_and_grad(loss, (0, 1)))(padded_m, padded_z, padded_masks)
    np.testing.assert_allclose(padded, value, rtol=1e-5)
    for got, want in zip((grad_m[:4, :8], grad_z[:8, :8]), grads, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize(
    ("name", "stack", "devices"),
    [
        ("model_3", "main", 4),
        ("model_3", "extra", 2),
        ("model_1_multimer_v3", "main", 2),
        ("model_1_multimer_v3", "extra", 4),
    ],
)
def test_devices_agree_with_one(name, stack, devices):
    """Sharded blocks give one device's values and gradients, dropout included."""
    config, blocks, channels = _stack(name, stack, FLOAT32)
    m, z, msa_mask, seq_mask = _inputs(channels)
    seq_mask = seq_mask.at[-2:].set(0.0)
    key = jax.random.key(3)
    sharded_execution = dataclasses.replace(FLOAT32, axis=Axis("dap", devices, slab_bytes=1))
    sharded_graph = nnx.graphdef(_stack(name, stack, sharded_execution)[1])
    state = nnx.state(blocks)
    spec_m = PartitionSpec("dap") if block_type(config).msa_sharded == 0 else PartitionSpec(None, "dap")
    spec_z = PartitionSpec(None, "dap")

    def run(graphdef, state, m, z, msa_mask, seq_mask):
        return run_stack(nnx.merge(graphdef, state), m, z, (msa_mask, seq_mask), key=key, remat=True)

    sharded = jax.shard_map(
        lambda *args: run(sharded_graph, *args),
        mesh=Mesh(np.array(jax.devices()[:devices]), ("dap",)),
        in_specs=(PartitionSpec(), spec_m, spec_z, PartitionSpec(), PartitionSpec()),
        out_specs=(spec_m, spec_z),
        check_vma=False,
    )

    def loss(function):
        def value(state, m, z):
            out_m, out_z = function(state, m, z, msa_mask, seq_mask)
            real = seq_mask[:, None] * seq_mask
            return jnp.sum(jnp.sin(out_m) * msa_mask[..., None] * seq_mask[:, None]) + jnp.sum(
                jnp.cos(out_z) * real[..., None]
            )

        return jax.jit(jax.value_and_grad(value, (0, 1, 2)))

    value, grads = loss(lambda *args: run(nnx.graphdef(blocks), *args))(state, m, z)
    sharded_value, sharded_grads = loss(sharded)(state, m, z)
    # Its terms, each up to 1, nearly cancel: rounding is judged against their number.
    np.testing.assert_allclose(sharded_value, value, rtol=1e-5, atol=1e-7 * (m.size + z.size))
    # Some gradients vanish but for rounding (a softmax ignores what is added to all keys), hence one scale for all.
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads))
    for got, want in zip(jax.tree.leaves(sharded_grads), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-6 * scale)


@CASES
def test_remat_changes_no_gradient(name, stack):
    _, blocks, channels = _stack(name, stack, FLOAT32)
    m, z, *masks = _inputs(channels)

    def grad(remat):
        def loss(m, z):
            return sum(jnp.sum(jnp.sin(x)) for x in run_stack(blocks, m, z, tuple(masks), key=None, remat=remat))

        return jax.jit(jax.grad(loss, (0, 1)))(m, z)

    for got, want in zip(grad(True), grad(False), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_dropout_depends_on_its_key_alone():
    _, blocks, channels = _stack("model_3", "main", FLOAT32)
    m, z, *masks = _inputs(channels)

    @jax.jit
    def pair(key):
        return run_stack(blocks, m, z, tuple(masks), key=key, remat=False)[1]

    np.testing.assert_array_equal(pair(jax.random.key(1)), pair(jax.random.key(1)))
    assert not np.allclose(pair(jax.random.key(1)), pair(jax.random.key(2)))
    assert not np.allclose(pair(jax.random.key(1)), pair(None))


def test_new_blocks_start_as_the_identity():
    config = preset("model_3", evoformer_blocks=2, **SIZES)
    blocks = untrained(evoformer_stack(config, FLOAT32), zero_final=True)
    m, z, *masks = _inputs(config.c_m)
    new_m, new_z = run_stack(blocks, m, z, tuple(masks), key=None, remat=False)
    np.testing.assert_allclose(new_m, m, atol=1e-5)
    np.testing.assert_allclose(new_z, z, atol=1e-5)
