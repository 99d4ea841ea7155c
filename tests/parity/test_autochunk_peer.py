"""AutoChunk on a program it was not built for: the peer's own network, in Haiku, with its sub-batches turned off."""

import pytest

pytest.importorskip("alphafold", reason="the parity extra is not installed")

import draws
import jax
import numpy as np
import recorded
import reference
from jax.sharding import NamedSharding, PartitionSpec

from fastfold_jax.autochunk import autochunk
from fastfold_jax.autochunk.target import H200
from parallel.audit import programs

NAME = "model_3_ptm"
OUTPUTS = ("distogram", "masked_msa", "predicted_lddt", "experimentally_resolved", "pae_matrix_with_logits")


@pytest.mark.slow
def test_the_peers_network_takes_a_fifth():
    """Four of five bytes of temporaries less by XLA's account for an H200, and the same logits."""
    pytest.importorskip("jax_cuda12_plugin", reason="needs the extra `aot`")
    config = reference.config(NAME, evoformer_blocks=1, extra_msa_blocks=1, structure_layers=1)
    # "Training" without dropout is how it runs with its own sub-batches off.
    run = reference.one_pass(NAME, config, training=True, representations=False)

    def logits(params, features):
        out = run(params, features)
        return {name: out[name]["logits"] for name in OUTPUTS}

    stacks = ("/evoformer_iteration/", "/extra_msa_stack/")
    flat = {k: v[:1] if any(s in k for s in stacks) else v for k, v in recorded.parameters(NAME).items()}
    params = reference.parameters(flat)
    features = jax.tree.map(np.asarray, draws.features(0, num_res=128, rows=256, extra_rows=256, templates=0))
    plan = autochunk(logits, 2**50, target=H200).explain(params, features)
    budget = int(plan.arguments + 0.12 * (plan.before - plan.arguments))
    chunked = autochunk(logits, budget, float("inf"), target=H200)
    assert chunked.explain(params, features).after <= budget

    on_h200 = NamedSharding(programs.mesh_of("h200", data=1, dap=1, per_node=8), PartitionSpec())
    abstract = lambda x: jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype, sharding=on_h200)  # noqa: E731
    arguments = jax.tree.map(abstract, (params, features))
    whole, small = (
        jax.jit(form).lower(*arguments).compile().memory_analysis().temp_size_in_bytes for form in (logits, chunked)
    )
    assert small < 0.2 * whole

    want, got = (jax.jit(form)(params, features) for form in (logits, chunked))
    for name in OUTPUTS:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-3, atol=1e-3, err_msg=name)
