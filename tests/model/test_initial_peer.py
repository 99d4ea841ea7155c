"""The scale that every parameter starts with is that of DeepMind's code, as `alphafold-colabfold` carries it."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastfold_jax.config.presets import preset
from fastfold_jax.model.alphafold import init_state
from fastfold_jax.params import store

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))
pytest.importorskip("alphafold.model.modules")
import draws
import haiku as hk
import reference
from alphafold.model import modules, modules_multimer


@pytest.fixture
def typical_draws(monkeypatch):
    """Every random number is the standard deviation of its distribution."""
    truncated = np.float32(0.87962566)  # of a normal cut at two standard deviations
    monkeypatch.setattr(jax.random, "truncated_normal", lambda _, low, high, shape, dtype: jnp.full(shape, truncated))
    monkeypatch.setattr(jax.random, "normal", lambda _, shape, dtype: jnp.ones(shape, dtype))
    monkeypatch.setattr(
        jax.random, "uniform", lambda _, shape, dtype, low, high: jnp.full(shape, (high - low) / 12**0.5, dtype)
    )


def their_scales(name: str) -> dict[str, float]:
    """Root mean square of each array of the file, by the peer's own initialisers."""
    config = reference.config(name, evoformer_blocks=1, extra_msa_blocks=1, structure_layers=1)
    config.global_config.zero_init = True
    multimer = reference.is_multimer(name)
    features = draws.features(0, num_res=8, templates=1)
    batch = reference.multimer_batch(features) if multimer else reference.monomer_batch(features)
    network = modules_multimer.AlphaFold if multimer else modules.AlphaFold_noE

    def forward():
        return network(config)({**batch, "prev": reference.no_prev(8)}, is_training=False, return_representations=True)

    state = jax.jit(hk.transform(forward).init)(jax.random.PRNGKey(0))
    return {key: root_mean_square(array) for key, array in reference.flatten(state).items()}


def root_mean_square(array) -> float:
    return float(np.sqrt(np.mean(np.square(np.asarray(array, np.float64)))))


@pytest.mark.parametrize("name", ["model_1_ptm", "model_1_multimer_v3"])
@pytest.mark.usefixtures("typical_draws")
def test_every_parameter_starts_at_the_scale_of_deepminds(name, tmp_path):
    expected = their_scales(name)
    config = preset(name, evoformer_blocks=1, extra_msa_blocks=1)
    store.save(init_state(config, 0), config, tmp_path / "params.npz")
    with np.load(tmp_path / "params.npz") as ours:
        assert set(ours) == set(expected)
        for key, scale in expected.items():
            drawn = ours[key]
            assert root_mean_square(drawn) == pytest.approx(scale, rel=1e-6 + 3 / drawn.size**0.5), key
