"""The stages of training hold the papers' numbers, written down here a second time."""

import dataclasses

import pytest

from fastfold_jax.config.losses import FapeTerm
from fastfold_jax.config.training import STAGES, OptimizerConfig

# Network, its MSA and extra MSA rows, residues, and samples in millions: AlphaFold 2 supplement, table 4, and
# DeepMind's technical note on version 2.3.0.
SIZES = {
    "initial": ("model_1", 128, 1024, 256, 10.0),
    "fine-tuning": ("model_1", 512, 5120, 384, 1.5),
    "ptm": ("model_1_ptm", 512, 5120, 384, 1.5),
    "multimer": ("model_1_multimer_v3", 508, 2048, 640, 10.0),
    "multimer-fine-tuning": ("model_1_multimer_v3", 508, 2048, 640, 1.5),
}

# Supplement, 1.11.3 and 1.11.4. Fine-tuning has half the learning rate, no warm-up and no decay (table 4).
INITIAL = {
    "learning_rate": 1e-3,
    "warmup_steps": 1000,
    "decay_after": 50_000,
    "decay": 0.95,
    "beta1": 0.9,
    "beta2": 0.999,
    "epsilon": 1e-6,
    "clip": 0.1,
    "ema_decay": 0.999,
    "max_skipped": 20,
}
FINE_TUNING = INITIAL | {"learning_rate": 5e-4, "warmup_steps": 0, "decay_after": None}

# Supplement, 1.9 and equation 7; of chains, Evans et al. 2022, section 2.5, and the released code.
WEIGHTS = {
    "backbone": FapeTerm(clamp=10.0, unit=10.0),
    "interface": None,
    "side_chain": FapeTerm(clamp=10.0, unit=10.0),
    "side_chain_fraction": 0.5,
    "chi": 0.5,
    "angle_norm": 0.01,
    "distogram": 0.3,
    "masked_msa": 2.0,
    "lddt": 0.01,
    "aligned_error": 0.0,
    "resolved": 0.0,
    "violation": 0.0,
    "center_of_mass": 0.0,
    "min_resolution": 0.1,
    "max_resolution": 3.0,
    "violation_tolerance": 12.0,
    "clash_tolerance": 1.5,
}
OF_CHAINS = {"interface": FapeTerm(clamp=1000.0, unit=20.0), "center_of_mass": 1.0}
DEPARTURES = {
    "initial": {},
    "fine-tuning": {"violation": 1.0, "resolved": 0.01},
    "ptm": {"violation": 1.0, "resolved": 0.01, "aligned_error": 0.1},
    "multimer": {"resolved": 0.01, "aligned_error": 0.1, **OF_CHAINS},
    "multimer-fine-tuning": {"violation": 1.0, "resolved": 0.01, "aligned_error": 0.1, **OF_CHAINS},
}

PAPERS = pytest.mark.parametrize("name", SIZES)


def test_there_are_no_others_but_the_demo():
    assert set(STAGES) == {*SIZES, "demo"}


@PAPERS
def test_sizes(name):
    stage = STAGES[name]
    samples = round(stage.steps * stage.batch_size / 1e6, 3)
    found = (stage.model.name, stage.model.num_msa, stage.model.num_extra_msa, stage.crop_size, samples)
    assert found == SIZES[name]
    assert (stage.batch_size, stage.model.num_recycles, stage.dropout) == (128, 3, True)
    assert stage.model.num_templates == 4


@PAPERS
def test_optimizer(name):
    expected = FINE_TUNING if name in ("fine-tuning", "ptm", "multimer-fine-tuning") else INITIAL
    assert dataclasses.asdict(STAGES[name].optimizer) == expected
    assert dataclasses.asdict(OptimizerConfig()) == INITIAL


@PAPERS
def test_weights_of_the_losses(name):
    assert vars(STAGES[name].loss) == WEIGHTS | DEPARTURES[name]


def test_the_demo_learns_as_ptm_does_with_few_violations():
    demo = STAGES["demo"]
    assert vars(demo.loss) == WEIGHTS | DEPARTURES["ptm"] | {"violation": 0.02}
    schedule = {"warmup_steps": 50, "decay_after": None, "ema_decay": 0.99}
    assert dataclasses.asdict(demo.optimizer) == INITIAL | schedule
    assert (demo.crop_size, demo.batch_size, demo.steps, demo.dropout) == (48, 1, 2400, False)
