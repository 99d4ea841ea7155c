"""A network that is given one example again and again learns it."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny_stage import EXECUTION, STAGE, dataset, shared_step

from fastfold_jax.config.training import stage
from fastfold_jax.training.step import make_step, put_batch, start_state, whole
from parallel import make_mesh


def train(chosen, step, batch, mesh, steps: int) -> list[dict[str, float]]:
    state = jax.device_put(start_state(chosen, 0), whole(mesh))
    on_devices = put_batch(batch, mesh)
    history = []
    for _ in range(steps):
        state, metrics = step(state, on_devices)
        history.append({name: float(value) for name, value in metrics.items()})
    return history


def test_the_loss_of_one_batch_falls(index, one_device):
    """Thirty steps of a tiny network, dropout included."""
    mesh = make_mesh(devices=one_device)
    batch, _ = dataset(index, STAGE).batch(0)
    history = train(STAGE, shared_step(STAGE, EXECUTION, mesh), batch, mesh, 30)
    losses = [metrics["loss"] for metrics in history]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:2])


@pytest.mark.slow
def test_one_real_chain_is_learnt_on_a_cpu(index, one_device):
    """Crambin, in the demo's sizes: the loss falls five times, lDDT-Cα rises."""
    chosen = stage("demo")
    jax.config.update("jax_disable_most_optimizations", False)
    mesh = make_mesh(devices=one_device)
    data = dataset(index, chosen)
    batch = next(batch for batch, _ in map(data.batch, range(50)) if batch.features.seq_mask[0, -1].sum() == 46)
    batch = dataclasses.replace(batch, num_recycles=np.int32(0))
    history = train(chosen, make_step(chosen, EXECUTION, mesh), batch, mesh, 400)
    first, last = history[0], history[-1]
    assert last["loss"] < first["loss"] / 5
    assert last["lddt_ca"] > first["lddt_ca"] + 0.5
