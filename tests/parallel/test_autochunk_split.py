"""AutoChunk under DAP: a small network split over four devices, each within its own budget."""

import dataclasses

import jax
import numpy as np
import pytest
import whole_model

from fastfold_jax.autochunk import autochunk, fit
from fastfold_jax.autochunk.target import CPU
from fastfold_jax.config.execution import Execution
from fastfold_jax.model.alphafold import make_apply
from fastfold_jax.model.distributed import argument_specs, distribute, for_mesh, named_shardings
from parallel import make_mesh

DEVICES, RESIDUES, ROWS = 4, 128, 128
# Where no operation has a form of its own, as CPUs have, that takes little memory by itself.
TARGET = dataclasses.replace(CPU, platform="none")


@pytest.mark.slow
def test_each_device_keeps_to_its_budget():
    config = whole_model.network("model_3_ptm")
    state = whole_model.parameters(config)
    features = whole_model.features(config, num_res=RESIDUES, rows=ROWS, extra_rows=ROWS, templates=0)
    prev = whole_model.previous(config, RESIDUES, DEVICES)
    mesh = make_mesh(data=1, dap=DEVICES, devices=jax.devices()[:DEVICES])
    execution = for_mesh(Execution(precision="float32", kernels="xla"), mesh)
    shardings = named_shardings(mesh, argument_specs(config))
    function = make_apply(config, execution)
    plans = []

    def build(budget):
        chunked = autochunk(function, budget, float("inf"), target=TARGET)
        apply = distribute(chunked, mesh, config, execution)
        compiled = jax.jit(apply, in_shardings=shardings).lower(state, features, prev).compile()
        plans.append(chunked.explanations[-1])
        return compiled

    whole = build(2**50)
    budget = int(0.56 * fit.peak_bytes(whole))
    chunked = fit.within(budget, build)
    assert not plans[0].regions and plans[-1].regions
    assert fit.peak_bytes(chunked) <= budget
    arguments = jax.device_put((state, features, prev), shardings)
    for got, want in zip(jax.tree.leaves(chunked(*arguments)), jax.tree.leaves(whole(*arguments)), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-3)
