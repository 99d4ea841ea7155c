"""Side chains: torsion angles from activations, and from them the frames of all rigid groups and all atoms."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from fastfold_jax.config.model import ModelConfig
from fastfold_jax.geometry.frames import atom14_positions, frames_from_torsions
from fastfold_jax.geometry.rigid import Rigid
from fastfold_jax.model.layers import Linear


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class SideChains:
    """Torsions and what they place, in Å.

    Attributes:
      sin_cos: [*n, 7, 2] unit vectors: omega, phi, psi, chi 1-4.
      unnormalized_sin_cos: [*n, 7, 2] the same as the network gave them.
      frames: [*n, 8] global frames of the rigid groups.
      atom14_positions: [*n, 14, 3], zeros in unused columns.
    """

    sin_cos: Any
    unnormalized_sin_cos: Any
    frames: Rigid
    atom14_positions: Any


class RigidSidechain(nnx.Module):
    """AlphaFold 2 supplement, Algorithm 20, lines 11-14, and Algorithm 24. Attribute names are DeepMind's scopes."""

    def __init__(self, config: ModelConfig):
        channels = config.c_sidechain
        self.input_projection = Linear(config.c_s, channels)
        self.input_projection_1 = Linear(config.c_s, channels)
        self.resblock1 = Linear(channels, channels, init="relu")
        self.resblock2 = Linear(channels, channels, init="zeros")
        self.resblock1_1 = Linear(channels, channels, init="relu")
        self.resblock2_1 = Linear(channels, channels, init="zeros")
        self.unnormalized_angles = Linear(channels, (14,))

    def __call__(
        self,
        single: Float[Array, "*l i c"],
        initial: Float[Array, "i c"],
        aatype: Int[Array, "i"],
        backbone: Rigid,
    ) -> SideChains:
        """Builds side chains, in as many layers at once as `single` and `backbone` have.

        Args:
          single: The structure module's representation.
          initial: The same before the first layer.
          aatype: Residue types 0..20.
          backbone: [*l, i] frames, Å.
        """
        act = self.input_projection(jax.nn.relu(single)) + self.input_projection_1(jax.nn.relu(initial))
        for first, second in ((self.resblock1, self.resblock2), (self.resblock1_1, self.resblock2_1)):
            act = act + second(jax.nn.relu(first(jax.nn.relu(act))))
        angles = self.unnormalized_angles(jax.nn.relu(act)).reshape(*act.shape[:-1], 7, 2)
        squared_length = jnp.sum(jnp.square(angles), axis=-1, keepdims=True)
        sin_cos = angles / jnp.sqrt(jnp.maximum(squared_length, 1e-12))

        types = jnp.broadcast_to(aatype, single.shape[:-1])
        frames = frames_from_torsions(types, backbone, sin_cos)
        return SideChains(
            sin_cos=sin_cos,
            unnormalized_sin_cos=angles,
            frames=frames,
            atom14_positions=atom14_positions(types, frames),
        )
