"""The total loss on four devices is that of one, value and gradient, taken outside `shard_map`."""

import dataclasses

import jax
import jax.numpy as jnp
import near_native
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from fastfold_jax.config import losses as weights
from fastfold_jax.config.execution import Execution
from fastfold_jax.config.presets import preset
from fastfold_jax.constants.atoms import ATOM37_MASK
from fastfold_jax.data.batch import Features
from fastfold_jax.data.labels import Labels
from fastfold_jax.geometry import Rigid, atom14_to_atom37
from fastfold_jax.losses.permutation import match_copies
from fastfold_jax.losses.total import total_loss
from fastfold_jax.model.alphafold import FullOutputs, Outputs
from fastfold_jax.model.distributed import WHOLE, on_mesh, output_specs
from fastfold_jax.model.sidechain import SideChains
from fastfold_jax.model.structure import StructureOutput, Trajectory
from fastfold_jax.model.trunk import Representations
from parallel import dap_axis, make_mesh

pytestmark = pytest.mark.usefixtures("quick_compiles")

NUM_RES, CLUSTERS = 16, 4


def _known():
    native = near_native.native(2)
    chosen = np.r_[0:8, 29:37]  # eight residues of each of two chains
    return dataclasses.replace(native, **{f.name: getattr(native, f.name)[chosen] for f in dataclasses.fields(native)})


def _example(known):
    rng = np.random.default_rng(0)
    empty = {name: np.zeros(0, np.float32) for name in Features.__dataclass_fields__}
    features = Features(
        **empty
        | {
            "aatype": known.aatype,
            "residue_index": known.residue_index,
            "asym_id": known.asym_id,
            "entity_id": np.ones_like(known.asym_id),
            "sym_id": known.asym_id,
            "seq_mask": np.ones(NUM_RES, np.float32),
        }
    )
    labels = Labels(
        atom_positions=known.positions[None],
        atom_mask=known.mask[None],
        resolution=np.float32(2),
        use_clamped_fape=np.float32(1),
        true_msa=rng.integers(0, 21, (CLUSTERS, NUM_RES)).astype(np.int8),
        bert_mask=(rng.random((CLUSTERS, NUM_RES)) < 0.3).astype(np.float32),
    )
    return jax.tree.map(jnp.asarray, features), jax.tree.map(jnp.asarray, labels)


def _outputs(known) -> Outputs:
    arrays = {name: jnp.asarray(x) for name, x in near_native.predictions(known, 1.0).items()}
    normal = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape)  # noqa: E731
    layers = lambda x: jnp.stack([x] * near_native.LAYERS)  # noqa: E731
    frames = Rigid(rotation=layers(arrays["rotations"]), translation=layers(arrays["translations"]))
    side_chains = SideChains(
        sin_cos=arrays["sin_cos"],
        unnormalized_sin_cos=arrays["unnormalized"],
        frames=frames,
        atom14_positions=layers(arrays["atom14"]),
    )
    mask37 = jnp.asarray(ATOM37_MASK[known.aatype])
    positions = atom14_to_atom37(arrays["atom14"], jnp.asarray(known.aatype)) * mask37[..., None]
    structure = StructureOutput(
        atom_positions=positions,
        atom_mask=mask37,
        atom14_positions=arrays["atom14"],
        atom14_mask=jnp.asarray(known.exists),
        single=jnp.zeros((NUM_RES, 4)),
        trajectory=Trajectory(backbone=near_native.trajectory(arrays["affines"]), side_chains=side_chains),
    )
    nothing = jnp.zeros(())
    return Outputs(
        atom_positions=positions,
        atom_mask=mask37,
        plddt=jnp.zeros(NUM_RES),
        pae=jnp.zeros((NUM_RES, NUM_RES)),
        ptm=nothing,
        iptm=nothing,
        contact_probability=jnp.zeros((NUM_RES, NUM_RES)),
        ranking_confidence=nothing,
        mean_plddt=nothing,
        change=nothing,
        full=FullOutputs(
            representations=Representations(
                single=jnp.zeros((NUM_RES, 4)),
                msa_first_row=jnp.zeros((NUM_RES, 4)),
                msa=jnp.zeros((CLUSTERS, NUM_RES, 4)),
                pair=jnp.zeros((NUM_RES, NUM_RES, 4)),
            ),
            structure=structure,
            distogram=normal(0, NUM_RES, NUM_RES, 64),
            aligned_error=normal(1, NUM_RES, NUM_RES, 64),
            lddt=normal(2, NUM_RES, 50),
            masked_msa=normal(3, CLUSTERS, NUM_RES, 23),
            resolved=normal(4, NUM_RES, 37),
        ),
    )


def differentiate(network: str, devices: int):
    """Loss, its terms, and the gradient by all outputs."""
    features, labels = _example(_known())
    config = preset(network)
    mesh = make_mesh(dap=devices, data=1, devices=jax.devices()[:devices])
    msa_sharded = 1 if config.outer_product_first else 0
    term_weights = dataclasses.replace(weights.MULTIMER_FINE_TUNING, violation=0.1)

    def local(outputs):
        report = total_loss(outputs, features, labels, term_weights, axis=dap_axis(mesh), msa_sharded=msa_sharded)
        return report.total, report.terms

    specs = output_specs(config, Execution(outputs="full"))
    whole = on_mesh(local, mesh, in_specs=(specs,), out_specs=(WHOLE, PartitionSpec()))
    return jax.jit(jax.value_and_grad(whole, has_aux=True))(_outputs(_known()))


def test_no_product_rounds_coordinates_on_a_gpu():
    """Lowered for one, every product asks for full float32: XLA's default there is TF32."""
    features, labels = _example(_known())
    two_copies = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf + 9.0]), labels.atom_positions)
    labels = dataclasses.replace(labels, atom_positions=two_copies, atom_mask=jnp.concatenate([labels.atom_mask] * 2))

    def loss(outputs):
        return total_loss(outputs, features, labels, weights.MULTIMER_FINE_TUNING).total

    def matched(predicted):
        return match_copies(features, labels, predicted)

    for function, argument in ((loss, _outputs(_known())), (matched, jnp.zeros((NUM_RES, 3)))):
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
