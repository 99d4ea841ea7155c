"""The structure module: from the trunk's representations to the positions of all atoms."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from fastfold_jax.config.execution import Execution
from fastfold_jax.config.model import ModelConfig
from fastfold_jax.geometry.atoms import atom14_to_atom37, atom_masks
from fastfold_jax.geometry.rigid import Rigid
from fastfold_jax.model.ipa import InvariantPointAttention, Normalize
from fastfold_jax.model.layers import LayerNorm, Linear
from fastfold_jax.model.sidechain import RigidSidechain, SideChains
from parallel.axis import Axis

DROPOUT = 0.1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Trajectory:
    """What each of the L layers predicts; the losses read all of them.

    Attributes:
      backbone: [L, N] frames, Å.
      side_chains: [L, N, ...].
    """

    backbone: Rigid
    side_chains: SideChains


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class StructureOutput:
    """A structure, whole on every device.

    Attributes:
      atom_positions: [N, 37, 3] Å, zeros where `atom_mask` is 0.
      atom_mask: [N, 37] 1 where the residue exists and has the atom.
      atom14_positions: [N, 14, 3] Å.
      atom14_mask: [N, 14].
      single: [N, c_s] activations after the last layer.
      trajectory: Every layer's prediction, None where `Execution.outputs` is compact.
    """

    atom_positions: Any
    atom_mask: Any
    atom14_positions: Any
    atom14_mask: Any
    single: Any
    trajectory: Trajectory | None


class QuatRigid(nnx.Module):
    """Predicts the movement of each residue's frame, in that frame (AlphaFold 2 supplement, Algorithm 23)."""

    def __init__(self, in_dim: int):
        self.rigid = Linear(in_dim, 6, init="zeros")

    def __call__(self, single: Float[Array, "i c"]) -> Rigid:
        """[i] transformations."""
        return Rigid.from_update(self.rigid(single))


def _dropout(x: Float[Array, "i c"], key: PRNGKeyArray | None, axis: Axis) -> Float[Array, "i c"]:
    """Drops elements; the mask is drawn for all residues, so that the number of devices does not change it."""
    if key is None:
        return x
    keep = jax.random.bernoulli(key, 1.0 - DROPOUT, (x.shape[0] * axis.size, x.shape[1]))
    return jnp.where(axis.shard(keep, 0), x / (1.0 - DROPOUT), 0.0)


class FoldIteration(nnx.Module):
    """One layer; all layers share its parameters (AlphaFold 2 supplement, Algorithm 20, lines 6-14)."""

    def __init__(self, config: ModelConfig, execution: Execution):
        c_s = config.c_s
        self.invariant_point_attention = InvariantPointAttention(config, execution)
        self.attention_layer_norm = LayerNorm(c_s, kernels=execution.kernels)
        self.transition = Linear(c_s, c_s, init="relu")
        self.transition_1 = Linear(c_s, c_s, init="relu")
        self.transition_2 = Linear(c_s, c_s, init="zeros")
        self.transition_layer_norm = LayerNorm(c_s, kernels=execution.kernels)
        self.quat_rigid = QuatRigid(c_s)
        self.rigid_sidechain = RigidSidechain(config)
        self.axis = execution.axis

    def __call__(
        self,
        single: Float[Array, "i c"],
        frames: Rigid,
        pair: Float[Array, "i j d"],
        normalize: Normalize,
        logit_bias: Float[Array, "h i j"],
        key: PRNGKeyArray | None,
    ) -> tuple[Float[Array, "i c"], Rigid]:
        """Moves the backbone frames once.

        Args:
          single: Float32.
          frames: [i] in the structure module's unit.
          pair, normalize, logit_bias: As `InvariantPointAttention` reads them.
          key: This layer's, None for no dropout.
        """
        attention_key, transition_key = (None, None) if key is None else jax.random.split(key)
        single = single + self.invariant_point_attention(single, pair, normalize, logit_bias, frames)
        single = self.attention_layer_norm(_dropout(single, attention_key, self.axis))
        hidden = jax.nn.relu(self.transition_1(jax.nn.relu(self.transition(single))))
        single = single + self.transition_2(hidden)
        single = self.transition_layer_norm(_dropout(single, transition_key, self.axis))
        return single, frames.compose(self.quat_rigid(single))


class StructureModule(nnx.Module):
    """AlphaFold 2 supplement, Algorithm 20. Float32 throughout, matmuls too, whatever the precision of the trunk."""

    def __init__(self, config: ModelConfig, execution: Execution):
        self.single_layer_norm = LayerNorm(config.c_s, kernels=execution.kernels)
        self.initial_projection = Linear(config.c_s, config.c_s)
        self.pair_layer_norm = LayerNorm(config.c_z, kernels=execution.kernels)
        self.fold_iteration = FoldIteration(config, execution)
        self.num_layers = config.structure_layers
        self.position_scale = config.position_scale
        self.keep_trajectory = execution.outputs == "full"
        self.axis = execution.axis

    def __call__(
        self,
        single: Float[Array, "n c"],
        pair: Float[Array, "i n d"],
        aatype: Int[Array, "n"],
        seq_mask: Float[Array, "n"],
        key: PRNGKeyArray | None = None,
    ) -> StructureOutput:
        """Predicts a structure.

        Args:
          single: The trunk's representation, whole on every device.
          pair: This device's rows of the pair representation.
          aatype: Residue types 0..20.
          seq_mask: 1 where there is a residue.
          key: None for no dropout.
        """
        # TF32 has 10 bits of mantissa: 0.1 Å at 100 Å.
        with jax.default_matmul_precision("highest"):
            initial = self.single_layer_norm(self.axis.shard(single, 0).astype(jnp.float32))
            last, layers = self.fold(initial, pair, seq_mask, key)
            activations, frames = layers if self.keep_trajectory else jax.tree.map(lambda x: x[None], last)
            backbone = frames.scale_translation(self.position_scale)
            side_chains = self.fold_iteration.rigid_sidechain(
                activations, initial, self.axis.shard(aatype, 0), backbone
            )
        gather_residues = lambda x: self.axis.gather(x, 1)  # noqa: E731
        trajectory = Trajectory(backbone=backbone, side_chains=side_chains)
        trajectory = jax.tree.map(gather_residues, trajectory)
        positions = trajectory.side_chains.atom14_positions[-1]
        atom14_mask, atom37_mask = atom_masks(aatype, seq_mask)
        return StructureOutput(
            atom_positions=atom14_to_atom37(positions, aatype) * atom37_mask[..., None],
            atom_mask=atom37_mask,
            atom14_positions=positions,
            atom14_mask=atom14_mask,
            single=gather_residues(activations)[-1],
            trajectory=trajectory if self.keep_trajectory else None,
        )

    def fold(
        self,
        initial: Float[Array, "i c"],
        pair: Float[Array, "i n d"],
        seq_mask: Float[Array, "n"],
        key: PRNGKeyArray | None,
    ) -> tuple[Any, Any]:
        """Runs the layers from all frames in the origin.

        Returns:
          Activations [i, c] and frames [i] after the last layer, and after each, [L, i, ...], if they are kept.
        """
        layer = self.fold_iteration
        # The pair representation is normalised where it is read: a float32 copy would be twice as large as itself.
        normalize = lambda rows: self.pair_layer_norm(rows.astype(jnp.float32))  # noqa: E731
        logit_bias = layer.invariant_point_attention.logit_bias(pair, normalize, seq_mask)

        def step(carry, layer_key):
            activations, frames = carry
            # No gradient passes through rotations from layer to layer (line 20).
            carry = layer(activations, frames.stop_rotation_gradient(), pair, normalize, logit_bias, layer_key)
            return carry, carry if self.keep_trajectory else None

        keys = None if key is None else jax.random.split(key, self.num_layers)
        start = (self.initial_projection(initial), Rigid.identity(initial.shape[:1]))
        return lax.scan(step, start, keys, length=self.num_layers)
