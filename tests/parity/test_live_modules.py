"""Every module of the trunk against the peer run live: values, gradients of inputs and parameters, float32 and bf16."""

import functools

import numpy as np
import pytest

pytest.importorskip("alphafold", reason="the parity extra is not installed")

import compare
import draws
import jax
import jax.numpy as jnp
import ours
import recorded
import reference
import reference_modules

pytestmark = pytest.mark.usefixtures("quick_compiles")
SPLIT, FUSED = "model_1_ptm", "model_1_multimer_v3"
BLOCKS = ("evoformer_iteration", "extra_msa_stack")  # the outer product is last in SPLIT's, first in FUSED's
# Every module once, and those that the two kinds of network build or store differently in both ways.
CASES = [
    *((name, SPLIT) for name in reference_modules.MODULES),
    *((name, FUSED) for name in reference_modules.MODULES if "multiplication" in name or name in BLOCKS),
]
ROWS, RESIDUES = 5, 12
# Measured over the seeds below: values at most 9e-7, gradients at most 4e-6. The bound is the project's own.
TOLERANCE = 1e-5


def _inputs(name: str, seed: int) -> reference_modules.Inputs:
    extra = "extra_msa_stack" in reference_modules.MODULES[name].scope
    drawn = draws.activations(seed, rows=ROWS, num_res=RESIDUES, c_m=64 if extra else 256, c_z=128)
    return reference_modules.Inputs(**drawn)


def _mask_of(x: reference_modules.Inputs, output) -> np.ndarray:
    return x.msa_mask if output.shape[:2] == x.msa_mask.shape else x.pair_mask


def _with_gradients(function):
    """`(params, x, cotangents) -> outputs, gradients by params and x`, in one program."""

    def run(params, x, cotangents):
        outputs, backward = jax.vjp(function, params, x)
        return outputs, backward(jax.tree.unflatten(jax.tree.structure(outputs), cotangents))

    return jax.jit(run)


@functools.cache
def _peer_in_float32(name, preset):
    return _with_gradients(reference_modules.function(reference_modules.MODULES[name], reference.config(preset)))


def _cotangents(x, shapes, seed):
    """Weights of every output where it is meaningful, so that their gradient tests the whole Jacobian."""
    rng = np.random.default_rng([seed, 99])
    return [
        (rng.standard_normal(out.shape) * _mask_of(x, out)[..., None]).astype(np.float32)
        for out in jax.tree.leaves(shapes)
    ]


@pytest.mark.parametrize(("name", "preset"), CASES)
def test_values_and_gradients_equal_the_peers(name, preset):
    peer = reference_modules.MODULES[name]
    module = ours.of_block(name, preset, ours.execution())
    run_ours, run_theirs = _with_gradients(module.apply), _peer_in_float32(name, preset)
    parent = peer.scope.rpartition("/")[0] + "/"
    for seed in range(2):
        flat = recorded.parameters(preset, seed)
        x = _inputs(name, seed)
        state, params = module.state(flat), reference_modules.parameters(peer, flat)
        cotangents = _cotangents(x, jax.eval_shape(module.apply, state, x), seed)
        got, (grads, grad_x) = run_ours(state, x, cotangents)
        expected, (peer_grads, peer_grad_x) = run_theirs(params, x, cotangents)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            assert compare.relative(a, b, _mask_of(x, a)) < TOLERANCE
        assert compare.relative(grad_x.msa, peer_grad_x.msa) < TOLERANCE
        assert compare.relative(grad_x.pair, peer_grad_x.pair) < TOLERANCE
        grads = {k.removeprefix(parent): v for k, v in module.flat(grads).items()}
        errors = compare.gradients(grads, reference.flatten(peer_grads))
        assert max(errors.values()) < TOLERANCE, errors


@pytest.mark.parametrize(("name", "preset"), CASES)
def test_bf16_is_as_near_to_float32_as_the_peers(name, preset):
    """Both round the same float32 inputs to bf16; ours may be at most 1.2 times as far from its float32 result."""
    peer = reference_modules.MODULES[name]
    module = ours.of_block(name, preset, ours.execution("bf16"))
    theirs = reference_modules.function(peer, reference.config(preset, precision="bf16"))
    exact = _peer_in_float32(name, preset)
    run_ours, run_theirs = jax.jit(module.apply), jax.jit(theirs)
    our_errors, peer_errors = [], []
    for seed in range(3):
        flat = recorded.parameters(preset, seed)
        # Rounding the inputs first leaves only what the modules themselves lose.
        half = jax.tree.map(lambda v: jnp.asarray(v, jnp.bfloat16), _inputs(name, seed))
        full = jax.tree.map(lambda v: v.astype(jnp.float32), half)
        params = reference_modules.parameters(peer, flat)
        cotangents = _cotangents(full, jax.eval_shape(module.apply, module.state(flat), half), seed)
        true = jax.tree.leaves(exact(params, full, cotangents)[0])
        for errors, outputs in (
            (our_errors, run_ours(module.state(flat), half)),
            (peer_errors, run_theirs(params, half)),
        ):
            leaves = jax.tree.leaves(outputs)
            assert all(leaf.dtype == jnp.bfloat16 for leaf in leaves)
            errors.append([compare.rms_error(a, b, _mask_of(full, b)) for a, b in zip(leaves, true, strict=True)])
    ratios = np.sqrt(np.mean(np.square(our_errors), axis=0) / np.mean(np.square(peer_errors), axis=0))
    assert ratios.max() <= 1.2, (ratios, our_errors, peer_errors)
