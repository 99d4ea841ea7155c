"""AutoChunk on a program it was not built for: the peer's own network, in Haiku, with its sub-batches turned off."""

import pytest

pytest.importorskip("alphafold", reason="the parity extra is not installed")
pytest.importorskip("jax_cuda12_plugin", reason="needs the extra `aot`")

import draws
import jax
import numpy as np
import recorded
import reference

from fastfold_jax.autochunk import autochunk
from fastfold_jax.autochunk.target import H200
from parallel.audit import target

NAME = "model_3_ptm"
OUTPUTS = ("distogram", "masked_msa", "predicted_lddt", "experimentally_resolved", "pae_matrix_with_logits")


@pytest.mark.slow
def test_the_peers_network_takes_a_fifth():
    """Eight of ten bytes of temporaries less by XLA's account for an H200, and the same logits here."""
    config = reference.config(NAME, evoformer_blocks=1, extra_msa_blocks=1, structure_layers=1)
    # "Training" without dropout is how it runs with its own sub-batches off.
    run = reference.one_pass(NAME, config, training=True, representations=False)

    def logits(params, features):
        out = run(params, features)
        return {name: out[name]["logits"] for name in OUTPUTS}

    stacks = ("/evoformer_iteration/", "/extra_msa_stack/")
    flat = {k: v[:1] if any(s in k for s in stacks) else v for k, v in recorded.parameters(NAME).items()}
    params = reference.parameters(flat)
    features = jax.tree.map(np.asarray, draws.features(0, num_res=256, rows=128, extra_rows=128, templates=0))
    (device,) = target.devices("h200", 1)
    whole = autochunk(logits, 2**50, target=H200).explain(params, features)
    budget = int(whole.arguments + 0.1 * (whole.before - whole.arguments))
    chunked = autochunk(logits, budget, float("inf"), target=H200)
    on_gpu = jax.sharding.SingleDeviceSharding(device)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=on_gpu), (params, features))
    temporary = [
        jax.jit(form).lower(*shapes).compile().memory_analysis().temp_size_in_bytes for form in (logits, chunked)
    ]
    print(f"{temporary[0] / 2**20:.0f} -> {temporary[1] / 2**20:.0f} MiB")
    assert temporary[1] < 0.2 * temporary[0]
    want, got = (jax.jit(form)(params, features) for form in (logits, chunked))
    for name in OUTPUTS:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-3, atol=1e-3, err_msg=name)
