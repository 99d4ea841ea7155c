"""A network small enough to train in tests, and small structures to train it on."""

import dataclasses
import functools
from pathlib import Path

from fastfold_jax.config import losses
from fastfold_jax.config.execution import Execution
from fastfold_jax.config.presets import preset
from fastfold_jax.config.training import OptimizerConfig, Stage
from fastfold_jax.data.training.augment import Augmentation
from fastfold_jax.data.training.selection import Filters
from fastfold_jax.training.dataset import DataConfig, Dataset
from fastfold_jax.training.step import make_step

STRUCTURES = Path(__file__).parents[1] / "data" / "structures"

TINY = dataclasses.replace(
    preset("demo"),
    num_msa=4,
    num_extra_msa=4,
    extra_msa_blocks=1,
    evoformer_blocks=1,
    structure_layers=2,
    c_m=16,
    c_z=16,
    c_s=16,
    c_e=8,
    ipa_heads=2,
    c_sidechain=16,
    c_lddt=16,
)

EXECUTION = Execution(precision="float32", remat=False)
"""What `--precision float32 --no-remat` chooses: one compiled step for all tests."""

STAGE = Stage(
    name="demo",
    model=TINY,
    loss=losses.PTM,
    optimizer=OptimizerConfig(warmup_steps=2, decay_after=None, ema_decay=0.9, max_skipped=3),
    crop_size=16,
    batch_size=2,
    steps=4,
)


def dataset(index: Path, stage: Stage, seed: int = 0) -> Dataset:
    config = DataConfig(
        index=index,
        filters=Filters(need_alignment=False),
        augmentation=Augmentation(crop_size=stage.crop_size, deleted_blocks=0),
        workers=0,
    )
    return Dataset(config, stage.model, seed=seed, batch_size=stage.batch_size)


def shared_step(stage, execution, mesh, **_):
    """The step of `make_step`; without a memory budget, the `transform` that it is given changes nothing."""
    return _compiled_once(stage, execution, mesh)


@functools.cache
def _compiled_once(stage, execution, mesh):
    """Compiled at its first call, and kept when JAX's own caches are cleared."""
    step, compiled = make_step(stage, execution, mesh), []

    def call(state, batch):
        if not compiled:
            compiled.append(step.lower(state, batch).compile())
        return compiled[0](state, batch)

    return call
