"""One run of two networks, two seeds and three passes: each prediction is that of a run of its own."""

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
import several_jobs

from fastfold_jax.inference import engine
from fastfold_jax.inference.arrays import load_prediction
from fastfold_jax.inference.config import RecyclingOptions, SamplingOptions
from fastfold_jax.inference.run import run
from fastfold_jax.model.alphafold import init_state
from fastfold_jax.params.store import save


@pytest.fixture(scope="module")
def networks(small_network):
    """Of one shape, so that they share a program."""
    return [dataclasses.replace(small_network, name=f"model_{number}_ptm") for number in (1, 2)]


@pytest.fixture(scope="module")
def configuration(networks, tmp_path_factory):
    """A function from sampling options to a run, in a directory of its own, with the parameters of files."""
    directory = tmp_path_factory.mktemp("engine")
    (directory / "seven.a3m").write_text(">query\nGAMKWDE\n>one\nGAMRWDE\n>two\nG-MKwwWDD\n")
    for seed, network in enumerate(networks):
        state = init_state(network, seed, zero_final=False)
        save(state, network, directory / f"params_{network.name}.npz")

    def make(**sampling):
        return several_jobs.configuration(
            tmp_path_factory.mktemp("out"),
            directory / "seven.a3m",
            params=str(directory),
            sampling=SamplingOptions(**sampling),
            recycling=RecyclingOptions(recycles=2),
        )

    return make


@pytest.fixture(scope="module")
def together(configuration, networks):
    """The directory of the run, and how often each seed and pass had features made."""
    config, made = configuration(num_seeds=2), Counter()

    def sample(raw, network, *, seed, pass_index, sample=engine.sample):
        made[network.name, seed, pass_index] += 1
        return sample(raw, network, seed=seed, pass_index=pass_index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "sample", sample)
        run(config, networks=networks)
    return config.out, made


def positions(out, name: str) -> np.ndarray:
    return load_prediction(out / f"seven_{name}_arrays.npz").atom_positions


def test_all_are_ranked_and_none_is_another(together):
    out, _ = together
    ranking = json.loads((out / "ranking.json").read_text())
    names = [f"model_{number}_ptm_seed{seed}" for number in (1, 2) for seed in (0, 1)]
    assert sorted(ranking["order"]) == names
    for place, name in enumerate(names):
        for other in names[:place]:
            assert np.abs(positions(out, name) - positions(out, other)).max() > 0.01


@pytest.mark.parametrize(("number", "seed"), [(1, 1), (2, 0)])
def test_each_is_what_its_network_and_seed_alone_give(together, configuration, networks, number, seed):
    config = configuration(seed=seed, num_seeds=1)
    run(config, networks=[networks[number - 1]])
    name = f"model_{number}_ptm_seed{seed}"
    np.testing.assert_array_equal(positions(together[0], name), positions(config.out, name))


def test_each_pass_has_features_of_its_own(together, networks):
    _, made = together
    assert made == Counter((network.name, seed, index) for network in networks for seed in (0, 1) for index in range(3))
