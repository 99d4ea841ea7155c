"""From the MSA to pairs: the mean over rows of outer products of residue features."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

import pallas_kernels
from fastfold_jax.config.execution import Execution
from fastfold_jax.model.layers import LayerNorm, Linear, parameter

_NORM_EPSILON = 1e-3


class OuterProductMean(nnx.Module):
    """Outer product mean (AlphaFold 2 supplement, Algorithm 10).

    Attributes:
      output_w: [c_outer, c_outer, c_z].
      output_b: [c_z].
    """

    def __init__(self, c_m: int, c_outer: int, c_z: int, execution: Execution):
        self.layer_norm_input = LayerNorm(c_m)
        self.left_projection = Linear(c_m, c_outer)
        self.right_projection = Linear(c_m, c_outer)
        self.output_w = parameter((c_outer, c_outer, c_z), "zeros", fan_in=c_outer**2)
        self.output_b = parameter(c_z, 0.0)
        self.axis = execution.axis
        self.kernels = execution.kernels

    def __call__(self, m: Float[Array, "s i c"], mask: Float[Array, "s n"]) -> Float[Array, "i n z"]:
        """The update of pairs, for this device's residues i and all residues, at once.

        Args:
          m: MSA representation, sharded over residues.
          mask: MSA mask of all residues.
        """
        local = self.axis.shard(mask, 1)
        left, right = self.project(m, local)
        return self.update(left, self.axis.gather(right, 1), local, mask)

    def project(
        self, m: Float[Array, "s i c"], mask: Float[Array, "s i"]
    ) -> tuple[Float[Array, "s i e"], Float[Array, "s i e"]]:
        """Both operands, for some residues."""
        x, mask = self.layer_norm_input(m), mask.astype(m.dtype)[..., None]
        return self.left_projection(x) * mask, self.right_projection(x) * mask

    def update(
        self,
        left: Float[Array, "s i c"],
        right: Float[Array, "s n c"],
        left_mask: Float[Array, "s i"],
        mask: Float[Array, "s n"],
    ) -> Float[Array, "i n z"]:
        """What is added to some rows of pairs."""
        left_mask, mask = left_mask.astype(left.dtype), mask.astype(left.dtype)
        norm = jnp.einsum("si,sj->ij", left_mask, mask, preferred_element_type=jnp.float32)
        with jax.named_scope("op.outer_product_mean"):
            return pallas_kernels.outer_product_mean(
                left, right, self.output_w[...], self.output_b[...], norm + _NORM_EPSILON, implementation=self.kernels
            )
