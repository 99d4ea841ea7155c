"""The total loss: its weights, equal chains, and what resolution and clamping leave out."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from two_chains import NUM_RES, example, known, outputs

from fastfold_jax.config import losses as weights
from fastfold_jax.losses.total import total_loss

pytestmark = pytest.mark.usefixtures("quick_compiles")

HALF = NUM_RES // 2
JUDGED = ("lddt", "resolved", "aligned_error")


@pytest.fixture(scope="module")
def report():
    """`(outputs, **changes of the labels) -> (total, terms)`, compiled once; labels hold the two chains' copies."""
    compiled = jax.jit(functools.partial(total_loss, config=weights.MULTIMER_FINE_TUNING))
    features, labels = example(known())
    copies = lambda leaf: jnp.stack([jnp.concatenate([part] * 2) for part in jnp.split(leaf[0], 2)])  # noqa: E731
    labels = dataclasses.replace(
        labels, atom_positions=copies(labels.atom_positions), atom_mask=copies(labels.atom_mask)
    )

    def call(predicted, **changes):
        changed = dataclasses.replace(labels, **{name: jnp.float32(value) for name, value in changes.items()})
        found = compiled(predicted, features, changed)
        return float(found.total), {name: float(value) for name, value in found.terms.items()}

    return call


def test_the_total_is_the_weighted_sum_of_all_terms(report):
    """Of one chain on top of the other, which no term likes."""
    first = known().positions[:HALF], known().mask[:HALF]
    together = [np.concatenate([part, part]) for part in first]
    total, terms = report(outputs(dataclasses.replace(known(), positions=together[0], mask=together[1])))
    factors = {
        **{"backbone_fape": 0.5, "interface_fape": 0.5, "side_chain_fape": 0.5, "chi": 0.5, "angle_norm": 0.01},
        **{"distogram": 0.3, "masked_msa": 2.0, "lddt": 0.01, "aligned_error": 0.1, "resolved": 0.01},
        **{"violation": 1.0, "center_of_mass": 1.0},
    }
    assert terms.keys() == factors.keys()
    assert all(value > 0 for value in terms.values()), terms
    assert total == pytest.approx(sum(factors[name] * terms[name] for name in factors), rel=1e-5)


def test_equal_chains_in_the_other_order_are_right_as_well(report):
    exchanged = dataclasses.replace(known(), positions=np.roll(known().positions, HALF, axis=0))
    for native in (known(), exchanged):
        _, terms = report(outputs(native, noise=0.0))
        assert max(terms["backbone_fape"], terms["interface_fape"], terms["side_chain_fape"]) < 0.01, terms
        assert terms["center_of_mass"] == 0.0


def test_confidence_is_learnt_from_structures_of_good_resolution_alone(report):
    """From 0.1 to 3 Å; 0 stands for none, such as that of predicted structures."""
    predicted = outputs(known())
    _, good = report(predicted, resolution=2.0)
    assert all(good[name] > 0 for name in JUDGED)
    for resolution, counts in ((0.0, 0), (0.05, 0), (0.2, 1), (2.9, 1), (3.1, 0), (9.0, 0)):
        _, terms = report(predicted, resolution=resolution)
        assert terms == {name: value * counts if name in JUDGED else value for name, value in good.items()}


def test_large_errors_of_the_backbone_count_where_they_are_not_clamped(report):
    """Those within chains: atoms are always clamped at 10 Å, interfaces never so low."""
    predicted = outputs(known(), noise=30.0)
    _, clamped = report(predicted, use_clamped_fape=1)
    _, free = report(predicted, use_clamped_fape=0)
    assert clamped.pop("backbone_fape") <= 1.0 < 2.0 < free.pop("backbone_fape")
    assert clamped == free and clamped["side_chain_fape"] <= 1.0 < clamped["interface_fape"]
