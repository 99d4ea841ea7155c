"""The papers' stages of training as rows of one table: network, losses, optimiser, sizes."""

import dataclasses
from types import MappingProxyType

from fastfold_jax.checks import at_least
from fastfold_jax.config import losses
from fastfold_jax.config.losses import LossConfig
from fastfold_jax.config.model import ModelConfig
from fastfold_jax.config.presets import preset
from fastfold_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Adam, its schedule, and what guards it (AlphaFold 2 supplement, 1.11.3 and 1.11.4).

    Attributes:
      learning_rate: Learning rate after warm-up.
      warmup_steps: Steps over which the learning rate rises linearly from 0.
      decay_after: Steps after which the learning rate is multiplied by `decay`, once; None for never.
      decay: The factor.
      beta1, beta2, epsilon: Adam's parameters.
      clip: Largest norm of one example's gradient.
      ema_decay: Decay of the moving average of the parameters.
      max_skipped: Number of steps in a row whose gradient is not finite that ends the run.
    """

    learning_rate: float = 1e-3
    warmup_steps: int = 1000
    decay_after: int | None = 50_000
    decay: float = 0.95
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-6
    clip: float = 0.1
    ema_decay: float = 0.999
    max_skipped: int = 20

    def __post_init__(self):
        for name in ("learning_rate", "clip", "epsilon"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(f"{name}={getattr(self, name)}: accepted are numbers above 0")
        for name in ("beta1", "beta2", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: accepted are numbers from 0 to below 1")
        at_least(0, warmup_steps=self.warmup_steps)
        at_least(1, max_skipped=self.max_skipped)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of training.

    Attributes:
      name: Name of the preset.
      model: The network, with the sizes of this stage's samples; its `num_recycles` are the most of a step.
      loss: Weights of the loss's terms.
      optimizer: The optimiser and its schedule.
      crop_size: Residues of an example.
      batch_size: Examples of a step on all devices together.
      steps: Steps of the whole stage.
      dropout: Whether there is any.

    The papers count samples. Steps, here and in the optimiser's schedule, are of batches of `batch_size`.
    """

    name: str
    model: ModelConfig
    loss: LossConfig
    optimizer: OptimizerConfig
    crop_size: int
    batch_size: int = 128
    steps: int
    dropout: bool = True

    def in_batches_of(self, size: int) -> "Stage":
        """The stage with batches of another size, and as many samples: in all, in warm-up and before the decay."""

        def steps(count: int) -> int:
            return round(count * self.batch_size / size)

        decay_after = self.optimizer.decay_after
        optimizer = dataclasses.replace(
            self.optimizer,
            warmup_steps=steps(self.optimizer.warmup_steps),
            decay_after=None if decay_after is None else steps(decay_after),
        )
        return dataclasses.replace(self, optimizer=optimizer, batch_size=size, steps=max(steps(self.steps), 1))


# Of the first two, sizes, learning rates, warm-up, violations and numbers of samples: AlphaFold 2 supplement, table 4.
# (256 residues, 128 rows, 1,024 extra rows, then 384, 512, 5,120; 10 and 1.5 million samples in batches of 128; the
# rows include the templates' four.) The third is the second with the head of 1.9.7.
_FINE_TUNING = OptimizerConfig(learning_rate=5e-4, warmup_steps=0, decay_after=None)

_STAGES = (
    Stage(
        name="initial",
        model=preset("model_1", num_msa=128, num_extra_msa=1024),
        loss=losses.INITIAL,
        optimizer=OptimizerConfig(),
        crop_size=256,
        steps=78_125,  # 10 million samples
    ),
    Stage(
        name="fine-tuning",
        model=preset("model_1"),
        loss=losses.FINE_TUNING,
        optimizer=_FINE_TUNING,
        crop_size=384,
        steps=11_719,  # 1.5 million samples
    ),
    Stage(
        name="ptm",
        model=preset("model_1_ptm"),
        loss=losses.PTM,
        optimizer=_FINE_TUNING,
        crop_size=384,
        steps=11_719,
    ),
    Stage(
        name="multimer",
        model=preset("model_1_multimer_v3", num_recycles=3),
        loss=losses.MULTIMER,
        # Crop, rows and 20 chains: DeepMind's technical note on v2.3.0. Evans et al. 2022: 384, 1,152 and 8. The
        # schedule is ours, that of the initial training.
        optimizer=OptimizerConfig(),
        crop_size=640,
        steps=78_125,
    ),
    Stage(
        name="multimer-fine-tuning",
        model=preset("model_1_multimer_v3", num_recycles=3),
        loss=losses.MULTIMER_FINE_TUNING,
        optimizer=_FINE_TUNING,
        crop_size=640,
        steps=11_719,
    ),
    Stage(
        name="demo",
        model=preset("demo"),
        # Chains that begin as a knot break every rule of stereochemistry: its full weight would drown the structure.
        loss=dataclasses.replace(losses.PTM, violation=0.02),
        optimizer=OptimizerConfig(warmup_steps=50, decay_after=None, ema_decay=0.99),
        crop_size=48,
        batch_size=1,
        steps=2_400,
        dropout=False,  # it is to memorise
    ),
)

STAGES = MappingProxyType({stage.name: stage for stage in _STAGES})


def stage(name: str) -> Stage:
    """The stage of this name.

    Raises:
      UserError: if there is none.
    """
    if name not in STAGES:
        raise UserError(f"no training preset is called {name!r}; accepted are {', '.join(STAGES)}")
    return STAGES[name]
