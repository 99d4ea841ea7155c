"""The whole network: what an ensemble gives is a mean, and contacts are of the distogram."""

import dataclasses

import jax
import numpy as np
import pytest

from fastfold_jax.config.execution import Execution
from fastfold_jax.config.presets import preset
from fastfold_jax.data.a3m import parse_a3m
from fastfold_jax.data.assemble import assemble
from fastfold_jax.data.job import Chain, Job
from fastfold_jax.data.sampling import sample
from fastfold_jax.model.alphafold import init_state, make_apply
from fastfold_jax.model.recycling import init_prev
from fastfold_jax.model.trunk import SAMPLED_FEATURES

MEMBERS = 3
CONFIG = preset(
    "model_3_ptm",
    evoformer_blocks=1,
    extra_msa_blocks=1,
    structure_layers=1,
    num_msa=4,
    num_extra_msa=4,
    c_m=16,
    c_z=16,
    c_s=16,
    c_e=16,
    c_outer=4,
    num_ensemble=MEMBERS,
)


@pytest.fixture(scope="module")
def features():
    """A sample for each member, of an alignment with more rows than one sample has."""
    rows = "".join(f">{letter}\n{letter}AMKWDE\n" for letter in "GARNDCQEHI")
    alignment = parse_a3m(rows.encode(), file="x")
    chain = Chain(id="A", description="", sequence="GAMKWDE", alignments=(alignment,))
    raw = assemble(Job(name="job", chains=(chain,)), CONFIG)
    return sample(raw, CONFIG, seed=0, pass_index=0)


@pytest.fixture(scope="module")
def one_pass():
    """A function from features, of one member or of all, to the outputs of the same parameters."""
    state, execution = init_state(CONFIG, 0, zero_final=False), Execution(precision="float32", outputs="full")
    apply = {
        count: jax.jit(make_apply(dataclasses.replace(CONFIG, num_ensemble=count), execution)) for count in (1, MEMBERS)
    }

    def run(features):
        count = 1 if features.msa_feat.ndim == 3 else MEMBERS
        prev = init_prev(len(features.aatype), CONFIG, execution)
        return apply[count](state, features, prev)[0]

    return run


def chosen(features, members):
    """The features with these members' samples, or those of a single one by itself."""
    return dataclasses.replace(features, **{name: getattr(features, name)[members] for name in SAMPLED_FEATURES})


def test_members_are_averaged_but_for_the_rows_of_the_alignment(features, one_pass):
    alone = [one_pass(chosen(features, member)).full.representations for member in range(MEMBERS)]
    together = one_pass(features).full.representations
    for name in ("single", "msa_first_row", "pair"):
        each = np.stack([getattr(member, name) for member in alone])
        assert np.abs(each - each[0]).max() > 0.01
        np.testing.assert_allclose(getattr(together, name), each.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(together.msa, alone[0].msa, rtol=1e-4, atol=1e-5)
    assert np.abs(alone[0].msa - alone[-1].msa).max() > 0.01


def test_equal_members_give_what_one_of_them_gives(features, one_pass):
    one, equal = one_pass(chosen(features, 1)), one_pass(chosen(features, [1] * MEMBERS))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(equal), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_contacts_are_what_the_distogram_has_below_eight_angstrom(features, one_pass):
    outputs = one_pass(chosen(features, 0))
    below = jax.nn.softmax(outputs.full.distogram)[..., :19]  # bins of 0.3125 Å, the first of them up to 2.3125 Å
    np.testing.assert_allclose(outputs.contact_probability, below.sum(axis=-1), rtol=1e-5)
    assert 0.05 < np.mean(outputs.contact_probability) < 0.95
