"""The Evoformer block: masks, padding, dropout, remat and devices, in both orders and for both kinds of stack."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, PartitionSpec
from untrained import untrained

from fastfold_jax.config.execution import Execution
from fastfold_jax.config.presets import preset
from fastfold_jax.model.evoformer import (
    MSA_DROPOUT,
    PAIR_DROPOUT,
    block_type,
    evoformer_stack,
    extra_msa_stack,
    run_stack,
)
from fastfold_jax.model.layers import shared_dropout
from parallel import Axis

SIZES = {"c_m": 16, "c_z": 16, "c_e": 8, "c_outer": 4, "msa_heads": 2, "pair_heads": 2}
STACKS = {"main": (evoformer_stack, "c_m"), "extra": (extra_msa_stack, "c_e")}
ROWS, RESIDUES = 4, 8


def _stack(name, stack, execution):
    config = preset(name, evoformer_blocks=2, extra_msa_blocks=2, **SIZES)
    make, channels = STACKS[stack]
    return config, untrained(make(config, execution)), getattr(config, channels)


def _inputs(channels, c_z=16):
    """m, z and their masks: some of the MSA masked, and the last two residues."""
    keys = jax.random.split(jax.random.key(7), 3)
    m = jax.random.normal(keys[0], (ROWS, RESIDUES, channels))
    z = jax.random.normal(keys[1], (RESIDUES, RESIDUES, c_z))
    msa_mask = jax.random.bernoulli(keys[2], 0.8, (ROWS, RESIDUES)).astype(jnp.float32).at[0].set(1.0)
    return m, z, msa_mask, jnp.ones(RESIDUES).at[-2:].set(0.0)


CASES = pytest.mark.parametrize(
    ("name", "stack"), [(n, s) for n in ("model_3", "model_1_multimer_v3") for s in ("main", "extra")]
)
FLOAT32 = Execution(precision="float32")


def _value_and_gradients(run, state, m, z, msa_mask, seq_mask):
    """A loss that depends on all that exists of `run(state, m, z, masks)`, and its gradients by state, m and z."""

    def loss(state, m, z):
        out_m, out_z = run(state, m, z, (msa_mask, seq_mask))
        row = jnp.sin(out_m) * (msa_mask * seq_mask)[..., None]
        pair = jnp.cos(out_z) * (seq_mask[:, None] * seq_mask)[..., None]
        return jnp.sum(row) + jnp.sum(pair)

    return jax.device_get(jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(state, m, z))


def _on_one_device(blocks, remat):
    def run(state, m, z, masks):
        return run_stack(nnx.merge(nnx.graphdef(blocks), state), m, z, masks, key=jax.random.key(3), remat=remat)

    return run


@functools.cache
def _plain(name, stack):
    """What every other form of the stack is compared with: one device, no padding, no remat; dropout on."""
    _, blocks, channels = _stack(name, stack, FLOAT32)
    return _value_and_gradients(_on_one_device(blocks, False), nnx.state(blocks), *_inputs(channels))


def _agree(got, want):
    """Values to 1e-5 of the number of their terms, which nearly cancel; gradients to 1e-3."""
    (value, grads), (want_value, want_grads) = got, want
    np.testing.assert_allclose(value, want_value, rtol=1e-5, atol=1e-7 * sum(x.size for x in want_grads[1:]))
    # Some gradients vanish but for rounding (a softmax ignores what is added to all keys), hence one scale for all.
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(want_grads))
    for found, wanted in zip(jax.tree.leaves(grads), jax.tree.leaves(want_grads), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-6 * scale)


@CASES
def test_padding_changes_nothing_real(name, stack):
    """Values and gradients, dropout included, with rubbish in what is padded."""
    _, blocks, channels = _stack(name, stack, FLOAT32)
    m, z, msa_mask, seq_mask = _inputs(channels)
    padded_m = jax.random.normal(jax.random.key(5), (7, 11, channels)).at[:ROWS, :RESIDUES].set(m)
    padded_z = jnp.ones((11, 11, z.shape[-1])).at[:RESIDUES, :RESIDUES].set(z)
    masks = jnp.pad(msa_mask, ((0, 3), (0, 3))), jnp.pad(seq_mask, (0, 3))
    value, (by_state, by_m, by_z) = _value_and_gradients(
        _on_one_device(blocks, False), nnx.state(blocks), padded_m, padded_z, *masks
    )
    _agree((value, (by_state, by_m[:ROWS, :RESIDUES], by_z[:RESIDUES, :RESIDUES])), _plain(name, stack))


@CASES
def test_remat_changes_no_gradient(name, stack):
    _, blocks, channels = _stack(name, stack, FLOAT32)
    got = _value_and_gradients(_on_one_device(blocks, True), nnx.state(blocks), *_inputs(channels))
    _agree(got, _plain(name, stack))


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
    """Sharded blocks, recomputed in the backward pass, give one device's values and gradients, dropout included."""
    config, blocks, channels = _stack(name, stack, FLOAT32)
    sharded_execution = dataclasses.replace(FLOAT32, axis=Axis("dap", devices, slab_bytes=1))
    graphdef, state = nnx.graphdef(_stack(name, stack, sharded_execution)[1]), nnx.state(blocks)
    spec_m = PartitionSpec("dap") if block_type(config).msa_sharded == 0 else PartitionSpec(None, "dap")
    spec_z = PartitionSpec(None, "dap")

    sharded = jax.shard_map(
        lambda state, m, z, masks: run_stack(
            nnx.merge(graphdef, state), m, z, masks, key=jax.random.key(3), remat=True
        ),
        mesh=Mesh(np.array(jax.devices()[:devices]), ("dap",)),
        in_specs=(PartitionSpec(), spec_m, spec_z, PartitionSpec()),
        out_specs=(spec_m, spec_z),
        check_vma=False,
    )
    _agree(_value_and_gradients(sharded, state, *_inputs(channels)), _plain(name, stack))


def test_dropout_depends_on_its_key_alone():
    _, blocks, channels = _stack("model_3", "main", FLOAT32)
    m, z, *masks = _inputs(channels)

    @jax.jit
    def pair(key):
        return run_stack(blocks, m, z, tuple(masks), key=key, remat=False)[1]

    np.testing.assert_array_equal(pair(jax.random.key(1)), pair(jax.random.key(1)))
    assert not np.allclose(pair(jax.random.key(1)), pair(jax.random.key(2)))
    assert not np.allclose(pair(jax.random.key(1)), pair(None))


@pytest.mark.parametrize("rate", [0.15, 0.5])
@pytest.mark.parametrize("shared", [0, 1])
def test_dropout_keeps_the_mean_and_whole_rows_or_columns(rate, shared):
    found = np.asarray(shared_dropout(jnp.ones((100, 100, 40)), jax.random.key(0), rate, shared=shared))
    np.testing.assert_array_equal(found, np.broadcast_to(found.take([0], axis=shared), found.shape))
    assert np.mean(found > 0) == pytest.approx(1 - rate, abs=0.03)
    assert np.mean(found) == pytest.approx(1.0, abs=0.03)


def test_rates_of_dropout():
    """AlphaFold 2 supplement, 1.11.6 and Algorithm 6."""
    assert (MSA_DROPOUT, PAIR_DROPOUT) == (0.15, 0.25)


def test_new_blocks_start_as_the_identity():
    config = preset("model_3", evoformer_blocks=2, **SIZES)
    blocks = untrained(evoformer_stack(config, FLOAT32), zero_final=True)
    m, z, *masks = _inputs(config.c_m)
    new_m, new_z = run_stack(blocks, m, z, tuple(masks), key=None, remat=False)
    np.testing.assert_allclose(new_m, m, atol=1e-5)
    np.testing.assert_allclose(new_z, z, atol=1e-5)
