"""The total loss on four devices is that of one, value and gradient, taken outside `shard_map`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from two_chains import NUM_RES, example, known, outputs

from fastfold_jax.config import losses as weights
from fastfold_jax.config.execution import Execution
from fastfold_jax.config.presets import preset
from fastfold_jax.losses.permutation import match_copies
from fastfold_jax.losses.total import total_loss
from fastfold_jax.model.distributed import WHOLE, on_mesh, output_specs
from parallel import dap_axis, make_mesh

pytestmark = pytest.mark.usefixtures("quick_compiles")


def differentiate(network: str, devices: int):
    """Loss, its terms, and the gradient by all outputs."""
    features, labels = example(known())
    config = preset(network)
    mesh = make_mesh(dap=devices, data=1, devices=jax.devices()[:devices])
    msa_sharded = 1 if config.outer_product_first else 0
    term_weights = dataclasses.replace(weights.MULTIMER_FINE_TUNING, violation=0.1)

    def local(predicted):
        report = total_loss(predicted, features, labels, term_weights, axis=dap_axis(mesh), msa_sharded=msa_sharded)
        return report.total, report.terms

    specs = output_specs(config, Execution(outputs="full"))
    whole = on_mesh(local, mesh, in_specs=(specs,), out_specs=(WHOLE, PartitionSpec()))
    return jax.jit(jax.value_and_grad(whole, has_aux=True))(outputs(known()))


def test_no_product_rounds_coordinates_on_a_gpu():
    """Lowered for one, every product asks for full float32: XLA's default there is TF32."""
    features, labels = example(known())
    two_copies = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf + 9.0]), labels.atom_positions)
    labels = dataclasses.replace(labels, atom_positions=two_copies, atom_mask=jnp.concatenate([labels.atom_mask] * 2))

    def loss(predicted):
        return total_loss(predicted, features, labels, weights.MULTIMER_FINE_TUNING).total

    def matched(predicted):
        return match_copies(features, labels, predicted)

    for function, argument in ((loss, outputs(known())), (matched, jnp.zeros((NUM_RES, 3)))):
        text = jax.jit(function).trace(argument).lower(lowering_platforms=("cuda",)).as_text()
        products = [line for line in text.splitlines() if "dot_general" in line]
        assert products
        assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


@pytest.fixture(scope="module")
def alone():
    """On one device, where nothing depends on how a network's outputs would be split."""
    return differentiate("model_1_ptm", 1)


@pytest.mark.parametrize("network", ["model_1_ptm", "model_1_multimer_v3"])
def test_devices_agree(network, alone):
    (total, terms), gradient = alone
    # Chains so near to where they should be are not pushed apart.
    assert all(float(value) != 0 for name, value in terms.items() if name != "center_of_mass"), terms
    (shared_total, shared_terms), shared_gradient = differentiate(network, 4)
    assert float(shared_total) == pytest.approx(float(total), rel=1e-5)
    for name, value in terms.items():
        assert float(shared_terms[name]) == pytest.approx(float(value), rel=1e-5, abs=1e-7), name
    for one, several in zip(jax.tree.leaves(gradient), jax.tree.leaves(shared_gradient), strict=True):
        scale = float(jnp.max(jnp.abs(one)))
        np.testing.assert_allclose(several, one, rtol=0, atol=1e-5 * scale + 1e-8)
