"""Squared distances, masked means and cross entropies that several losses share."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from parallel.axis import Axis


def squared_distance(first: Float[Array, "*#n 3"], second: Float[Array, "*#n 3"]) -> Float[Array, "*#n"]:
    """Squared distances, component by component, so that no array of difference vectors is formed."""
    return functools.reduce(jnp.add, (jnp.square(first[..., d] - second[..., d]) for d in range(3)))


def mask_mean(values: Float[Array, "*n"], mask: Float[Array, "*n"], epsilon: float = 1e-10) -> Float[Array, ""]:
    """Mean where the mask is 1; 0 if it never is."""
    return jnp.sum(values * mask) / (jnp.sum(mask) + epsilon)


def sharded_mean(
    values: Float[Array, "*n"], mask: Float[Array, "*n"], axis: Axis, epsilon: float = 1e-8
) -> Float[Array, ""]:
    """Mean where the mask is 1, over the parts of all devices."""
    return axis.psum(jnp.sum(values * mask)) / (axis.psum(jnp.sum(mask)) + epsilon)


def cross_entropy(logits: Float[Array, "*n bins"], label: Int[Array, "*n"]) -> Float[Array, "*n"]:
    """Negative log likelihood (nats) of the labelled bin.

    The label is picked by a comparison and a sum, which fuse with the softmax; a gather's transpose would scatter.
    """
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    chosen = label[..., None] == jnp.arange(logits.shape[-1])
    return -jnp.sum(jnp.where(chosen, log_probabilities, 0.0), axis=-1)


def bin_of_squared(squared: Float[Array, "*n"], edges: Float[Array, "edges"]) -> Int[Array, "*n"]:
    """The bin that the root of a squared distance falls in: how many edges it exceeds."""
    return jnp.sum(squared[..., None] > jnp.square(edges), axis=-1)


def resolution_counts(resolution: Float[Array, ""], low: float, high: float) -> Bool[Array, ""]:
    """Whether a structure is good enough for the losses of confidence: 0 stands for no resolution at all."""
    return (resolution >= low) & (resolution <= high)
