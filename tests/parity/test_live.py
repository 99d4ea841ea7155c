"""The whole network against the peer run live, on fresh random weights and features with every kind of mask."""

import dataclasses

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

from fastfold_jax.config.presets import preset
from fastfold_jax.model.alphafold import AlphaFold
from fastfold_jax.model.recycling import Prev
from fastfold_jax.model.templates import template_embedder
from fastfold_jax.model.trunk import Trunk

pytestmark = pytest.mark.usefixtures("quick_compiles")
PRESETS = ("model_1_ptm", "model_3_ptm", "model_1_multimer_v3")  # the older multimers: in test_recorded
RESIDUES = 24


def is_multimer(name: str) -> bool:
    return reference.is_multimer(name)


# Iterations of the structure module. With drawn weights and a drawn previous pass, eight of the multimer's move atoms
# by 2 Å when the peer merely changes its sub-batching; two leave 1e-3 Å. The recorded runs compare all eight.
STRUCTURE_LAYERS = {False: 8, True: 2}


def network_config(name: str, blocks: int = 2):
    """The shallow network; the peer without zero initialisation fills undefined template torsions."""
    sizes = {"evoformer_blocks": blocks, "extra_msa_blocks": blocks}
    sizes["structure_layers"] = STRUCTURE_LAYERS[is_multimer(name)]
    return preset(name, **sizes, **({} if is_multimer(name) else {"fill_undefined_torsions": True}))


def features_of(name: str, seed: int):
    """Masked tail, holes, an empty row, an empty template, gaps; chains of two entities for multimers."""
    drawn = draws.features(
        seed,
        num_res=RESIDUES,
        templates=2 if "model_1" in name else 0,
        chains=3 if is_multimer(name) else 1,
    )
    if is_multimer(name):
        # The peer's multimer averages over every slot, empty ones too: to it no template is padding.
        return dataclasses.replace(drawn, template_mask=np.ones_like(drawn.template_mask))
    return drawn


def prev_of(seed: int) -> Prev:
    """A previous pass's random result."""
    rng = np.random.default_rng([seed, 5])
    return Prev(
        pos=draws.coordinates(rng, 1, RESIDUES)[0],
        msa_first_row=rng.standard_normal((RESIDUES, 256), np.float32),
        pair=rng.standard_normal((RESIDUES, RESIDUES, 128), np.float32),
    )


def peer_prev(prev: Prev) -> dict:
    return {"prev_pos": prev.pos, "prev_msa_first_row": prev.msa_first_row, "prev_pair": prev.pair}


def our_outputs(out) -> dict:
    """Ours under the peer's names, with where each means something."""
    full = out.full
    named = {
        "distogram": full.distogram,
        "masked_msa": full.masked_msa,
        "lddt": full.lddt,
        "resolved": full.resolved,
        "aligned_error": full.aligned_error,
        "positions": out.atom_positions,
        "plddt": out.plddt,
        "pae": out.pae,
        "ptm": out.ptm,
        "iptm": out.iptm,
        "mean_plddt": out.mean_plddt,
        "change": out.change,
    }
    return {k: v for k, v in named.items() if v is not None}


def peer_outputs(out) -> dict:
    named = {
        "distogram": out["distogram"]["logits"],
        "masked_msa": out["masked_msa"]["logits"],
        "lddt": out["predicted_lddt"]["logits"],
        "resolved": out["experimentally_resolved"]["logits"],
        "aligned_error": out["pae_matrix_with_logits"]["logits"],
        "positions": out["structure_module"]["final_atom_positions"],
        "pae": out["predicted_aligned_error"],
        **{k: out.get(k) for k in ("plddt", "ptm", "iptm", "mean_plddt")},
        "change": out["tol"],
    }
    return {k: v for k, v in named.items() if v is not None}


def valid(features, name: str) -> np.ndarray:
    """1 where an output means something, to broadcast from the left."""
    residues = np.asarray(features.seq_mask)
    if name in ("distogram", "aligned_error", "pae"):
        return residues[:, None] * residues
    if name in ("masked_msa", "msa"):
        return np.asarray(features.msa_mask)
    if name == "pair":
        return residues[:, None] * residues
    return residues if name not in ("ptm", "iptm", "mean_plddt", "change") else np.ones(())


def whole(name: str, blocks: int = 2) -> ours.Module:
    """Our whole network; inputs are `(features, prev)`."""
    config = network_config(name, blocks)
    return ours.module(lambda: AlphaFold(config, ours.execution()), lambda m, x: m(*x), (), config, None)


# Absolute. Measured over three seeds: logits 1.2e-4, positions 1e-3 Å, PAE 2e-4 Å; the peer differs from itself as
# much.
BOUNDS = {"positions": 1e-2}
LOGITS = 1e-3


@pytest.mark.parametrize("name", PRESETS)
def test_one_pass_equals_the_peers(name):
    module, peer = whole(name), reference.jitted_pass(name, STRUCTURE_LAYERS[is_multimer(name)])
    run = jax.jit(module.apply)
    for seed in range(3):
        flat, features, prev = recorded.parameters(name, seed), features_of(name, seed), prev_of(seed)
        got, _ = run(module.state(flat), (features, prev))
        got, expected = our_outputs(got), peer_outputs(peer(reference.parameters(flat), features, peer_prev(prev)))
        assert set(got) >= set(expected)
        for key, theirs in expected.items():
            mask = valid(features, key)
            mask = mask.reshape(mask.shape + (1,) * (theirs.ndim - mask.ndim))
            error = float(np.max(np.abs(np.asarray(got[key]) - theirs) * mask))
            assert error < BOUNDS.get(key, LOGITS), (seed, key, error)


def _one_block(flat: dict) -> dict:
    """The parameters of a network with one block in each stack."""
    stacks = ("/evoformer_iteration/", "/extra_msa_stack/")
    return {k: v[:1] if any(stack in k for stack in stacks) else v for k, v in flat.items()}


LOSS_TERMS = ("distogram", "masked_msa", "lddt", "resolved", "aligned_error", "positions")


def _gradients(outputs, params, features, prev, weights):
    """Gradients of a random weighting of every differentiable output, by parameters and by inputs.

    Args:
      outputs: `(params, features, prev) -> named outputs`.
    """

    def loss(params, msa_feat, prev):
        found = outputs(params, dataclasses.replace(features, msa_feat=msa_feat), prev)
        return sum(jnp.vdot(weights[key], found[key]) for key in weights)

    compiled = jax.jit(jax.grad(loss, (0, 1, 2)))
    return compiled(params, features.msa_feat, prev)


@pytest.mark.parametrize("name", ["model_1_ptm", "model_1_multimer_v3"])
def test_gradients_equal_the_peers(name):
    """Through the whole network, structure module and templates included."""
    flat, prev = _one_block(recorded.parameters(name)), prev_of(0)
    features = jax.tree.map(jnp.asarray, features_of(name, 0))
    module = whole(name, blocks=1)
    config = reference.config(
        name, evoformer_blocks=1, extra_msa_blocks=1, structure_layers=STRUCTURE_LAYERS[is_multimer(name)]
    )
    peer = reference.one_pass(name, config, training=True)

    def theirs(params, features, prev):
        return peer_outputs(peer(params, features, peer_prev(prev)))

    def mine(params, features, prev):
        return our_outputs(module.apply(params, (features, prev))[0])

    params = reference.parameters(flat)
    shapes = jax.eval_shape(theirs, params, features, prev)
    rng = np.random.default_rng(1)
    weights = {}
    for key in LOSS_TERMS:
        mask = valid(features, key)
        drawn = rng.standard_normal(shapes[key].shape) * mask.reshape(
            mask.shape + (1,) * (shapes[key].ndim - mask.ndim)
        )
        weights[key] = (drawn * (0.01 if key == "positions" else 1.0)).astype(np.float32)
    grads, *input_grads = _gradients(mine, module.state(flat), features, prev, weights)
    peer_grads, *peer_input_grads = _gradients(theirs, params, features, prev, weights)
    errors = compare.gradients(module.flat(grads), reference.flatten(peer_grads))
    (msa_feat, before), (peer_msa_feat, peer_before) = input_grads, peer_input_grads
    errors["msa_feat"] = compare.relative(msa_feat, peer_msa_feat)
    errors["prev.pair"] = compare.relative(before.pair, peer_before.pair)
    errors["prev.msa_first_row"] = compare.relative(before.msa_first_row, peer_before.msa_first_row)
    # Most agree to a few 1e-6. Rounding, which differs between processors, can put a hidden unit next to zero on the
    # other side of its ReLU, and whatever lies before that unit then differs more: up to 1.1e-2, where 2e-4 is seen on
    # another processor. Single modules, in test_live_modules, are held to 1e-5.
    found = np.array(list(errors.values()))
    assert np.median(found) < 1e-5
    assert np.quantile(found, 0.8) < 1e-3
    assert found.max() < 2e-2, {k: v for k, v in errors.items() if not v < 2e-2}


@pytest.mark.parametrize("name", ["model_1_ptm", "model_1_multimer_v3"])
def test_bf16_trunk_is_as_near_to_float32_as_the_peers(name):
    """Embedders, templates, extra MSA stack and Evoformer together, on the same float32 features and parameters."""
    config = network_config(name)
    peer = reference_modules.trunk(name)
    half = ours.module(
        lambda: Trunk(config, ours.execution("bf16")), lambda m, x: m(*x, None), ("evoformer",), config, None
    )
    peer_half = jax.jit(reference_modules.function(peer, reference.config(name, precision="bf16")))
    peer_exact = jax.jit(reference_modules.function(peer, reference.config(name)))
    run = jax.jit(half.apply)
    keys = ("single", "pair", "msa", "msa_first_row")
    our_errors, peer_errors = [], []
    for seed in range(3):
        flat, features, prev = recorded.parameters(name, seed), features_of(name, seed), prev_of(seed)
        params = reference_modules.parameters(peer, flat)
        exact = peer_exact(params, (features, peer_prev(prev)))
        theirs = peer_half(params, (features, peer_prev(prev)))
        mine = run(half.state(flat), (features, prev))
        masks = [valid(features, key) for key in keys]
        our_errors.append([compare.rms_error(getattr(mine, k), exact[k], m) for k, m in zip(keys, masks, strict=True)])
        peer_errors.append([compare.rms_error(theirs[k], exact[k], m) for k, m in zip(keys, masks, strict=True)])
    ratios = np.sqrt(np.mean(np.square(our_errors), axis=0) / np.mean(np.square(peer_errors), axis=0))
    assert ratios.max() <= 1.2, dict(zip(keys, ratios, strict=True))


@pytest.mark.slow  # the trunk's bf16 is tested above, templates included
@pytest.mark.parametrize("name", ["model_1_ptm", "model_1_multimer_v3"])
def test_bf16_templates_are_as_near_to_float32_as_the_peers(name):
    config = network_config(name)
    peer = reference_modules.template_embedding(name)

    def call(module, x):
        features, query = x
        return module.pair_update(query, features, None)

    half = ours.module(
        lambda: template_embedder(config, ours.execution("bf16")),
        call,
        ("evoformer", "template_embedder"),
        config,
        None,
    )
    run = jax.jit(half.apply)
    peer_half = jax.jit(reference_modules.function(peer, reference.config(name, precision="bf16")))
    peer_exact = jax.jit(reference_modules.function(peer, reference.config(name)))
    our_errors, peer_errors = [], []
    for seed in range(3):
        flat, features = recorded.parameters(name, seed), features_of(name, seed)
        query = jnp.asarray(prev_of(seed).pair, jnp.bfloat16)
        mask = valid(features, "pair")
        params = reference_modules.parameters(peer, flat)
        exact = peer_exact(params, (features, query.astype(jnp.float32), mask))
        theirs = peer_half(params, (features, query, jnp.asarray(mask, jnp.bfloat16)))
        our_errors.append(compare.rms_error(run(half.state(flat), (features, query)), exact, mask))
        peer_errors.append(compare.rms_error(theirs, exact, mask))
    assert np.linalg.norm(our_errors) <= 1.2 * np.linalg.norm(peer_errors), (our_errors, peer_errors)
