"""Adam with the papers' schedule, clipping of each example's gradient, and the moving average of parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from fastfold_jax.config.training import OptimizerConfig


def learning_rate(config: OptimizerConfig) -> optax.Schedule:
    """Learning rate by the number of updates made: a linear rise, then constant, later once decayed."""

    def rate(count: Array) -> Array:
        warm = jnp.minimum((count + 1) / max(config.warmup_steps, 1), 1.0)
        decayed = 1.0 if config.decay_after is None else jnp.where(count >= config.decay_after, config.decay, 1.0)
        return config.learning_rate * warm * decayed

    return rate


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """What turns the mean of clipped gradients into an update of the parameters."""
    return optax.chain(
        optax.scale_by_adam(b1=config.beta1, b2=config.beta2, eps=config.epsilon),
        optax.scale_by_learning_rate(learning_rate(config)),
    )


def global_norm(gradients: Any) -> Float[Array, "d"]:
    """Norm of each example's gradient, whose leaves have a leading axis of examples."""
    squares = [jnp.sum(jnp.square(leaf), axis=tuple(range(1, leaf.ndim))) for leaf in jax.tree.leaves(gradients)]
    return jnp.sqrt(jnp.sum(jnp.stack(squares), axis=0))


def clip_each(gradients: Any, largest: float) -> tuple[Any, Float[Array, "d"]]:
    """Each example's gradient scaled down to a norm of at most `largest`, and the norms before (supplement, 1.11.3)."""
    norm = global_norm(gradients)
    scale = jnp.minimum(1.0, largest / jnp.maximum(norm, 1e-12))
    scaled = jax.tree.map(lambda leaf: leaf * scale.reshape(-1, *[1] * (leaf.ndim - 1)), gradients)
    return scaled, norm


def moving_average(average: Any, parameters: Any, decay: float) -> Any:
    """The moving average after one more value."""
    return jax.tree.map(lambda old, new: old + (1.0 - decay) * (new - old), average, parameters)
