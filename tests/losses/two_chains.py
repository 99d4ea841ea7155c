"""Two chains of glucagon in a crop, and what a network might have predicted of them, as arguments of the total loss."""

import dataclasses

import jax
import jax.numpy as jnp
import near_native
import numpy as np

from fastfold_jax.constants.atoms import ATOM37_MASK
from fastfold_jax.data.batch import Features
from fastfold_jax.data.labels import Labels
from fastfold_jax.geometry import Rigid, atom14_to_atom37
from fastfold_jax.model.alphafold import FullOutputs, Outputs
from fastfold_jax.model.sidechain import SideChains
from fastfold_jax.model.structure import StructureOutput, Trajectory
from fastfold_jax.model.trunk import Representations

NUM_RES, CLUSTERS = 16, 4


def known() -> near_native.Native:
    native = near_native.native(2)
    chosen = np.r_[0:8, 29:37]  # eight residues of each of two chains
    return dataclasses.replace(native, **{f.name: getattr(native, f.name)[chosen] for f in dataclasses.fields(native)})


def example(native: near_native.Native) -> tuple[Features, Labels]:
    rng = np.random.default_rng(0)
    empty = {name: np.zeros(0, np.float32) for name in Features.__dataclass_fields__}
    features = Features(
        **empty
        | {
            "aatype": native.aatype,
            "residue_index": native.residue_index,
            "asym_id": native.asym_id,
            "entity_id": np.ones_like(native.asym_id),
            "sym_id": native.asym_id,
            "seq_mask": np.ones(NUM_RES, np.float32),
        }
    )
    labels = Labels(
        atom_positions=native.positions[None],
        atom_mask=native.mask[None],
        resolution=np.float32(2),
        use_clamped_fape=np.float32(1),
        true_msa=rng.integers(0, 21, (CLUSTERS, NUM_RES)).astype(np.int8),
        bert_mask=(rng.random((CLUSTERS, NUM_RES)) < 0.3).astype(np.float32),
    )
    return jax.tree.map(jnp.asarray, features), jax.tree.map(jnp.asarray, labels)


def outputs(native: near_native.Native, noise: float = 1.0) -> Outputs:
    arrays = {name: jnp.asarray(x) for name, x in near_native.predictions(native, noise).items()}
    normal = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape)  # noqa: E731
    layers = lambda x: jnp.stack([x] * near_native.LAYERS)  # noqa: E731
    frames = Rigid(rotation=layers(arrays["rotations"]), translation=layers(arrays["translations"]))
    side_chains = SideChains(
        sin_cos=arrays["sin_cos"],
        unnormalized_sin_cos=arrays["unnormalized"],
        frames=frames,
        atom14_positions=layers(arrays["atom14"]),
    )
    mask37 = jnp.asarray(ATOM37_MASK[native.aatype])
    positions = atom14_to_atom37(arrays["atom14"], jnp.asarray(native.aatype)) * mask37[..., None]
    structure = StructureOutput(
        atom_positions=positions,
        atom_mask=mask37,
        atom14_positions=arrays["atom14"],
        atom14_mask=jnp.asarray(native.exists),
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
