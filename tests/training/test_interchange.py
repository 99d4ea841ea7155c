"""What training exports runs in DeepMind's code, as ColabFold carries it, and gives our outputs."""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))

from fastfold_jax.config.execution import Execution
from fastfold_jax.config.presets import preset
from fastfold_jax.config.training import stage
from fastfold_jax.model.alphafold import init_state, make_apply
from fastfold_jax.model.recycling import init_prev
from fastfold_jax.params import store
from fastfold_jax.params.npz import Npz
from fastfold_jax.training.run import export
from fastfold_jax.training.step import start_state

FLOAT32 = Execution(precision="float32", outputs="full")


def test_an_export_is_the_average_and_a_start(tmp_path):
    """Written and read back: the moving average, bit for bit, not the parameters of the last step."""
    chosen = stage("demo")
    average = init_state(chosen.model, 1, zero_final=False)
    state = dataclasses.replace(start_state(chosen, 0), average=average)
    path = export(state, chosen, tmp_path)
    assert path.name == "params_demo.npz"
    jax.tree.map(np.testing.assert_array_equal, store.load(path, chosen.model), average)
    begun = start_state(chosen, 0, store.load(path, chosen.model))
    jax.tree.map(np.testing.assert_array_equal, begun.parameters, average)


@pytest.mark.slow
def test_an_export_gives_our_outputs_in_the_reference(tmp_path):
    pytest.importorskip("alphafold.model.modules")
    import draws
    import reference

    config = preset("model_1_ptm", evoformer_blocks=1, extra_msa_blocks=1, fill_undefined_torsions=True)
    chosen = dataclasses.replace(stage("ptm"), model=config)
    trained = init_state(config, 5, zero_final=False)
    path = export(dataclasses.replace(start_state(chosen, 0), average=trained), chosen, tmp_path)
    features = draws.features(0, num_res=16, rows=4, extra_rows=4, templates=1, masked=False)
    outputs, _ = jax.jit(make_apply(config, FLOAT32))(trained, features, init_prev(16, config, FLOAT32))

    with Npz(path) as file:
        flat = {key: file.read(key) for key in file.specs}
    theirs = reference.one_pass("model_1_ptm", reference.config("model_1_ptm", evoformer_blocks=1, extra_msa_blocks=1))
    found = jax.jit(theirs)(reference.parameters(flat), features)
    np.testing.assert_allclose(outputs.full.distogram, found["distogram"]["logits"], atol=1e-3)
    np.testing.assert_allclose(outputs.full.masked_msa, found["masked_msa"]["logits"], atol=1e-3)
    positions = found["structure_module"]["final_atom_positions"]
    np.testing.assert_allclose(outputs.atom_positions, positions, atol=1e-2)
