"""From the MSA to pairs: the mean over rows of outer products of residue features."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

import pallas_kernels
from fastfold_jax.config.execution import Execution
from fastfold_jax.model.layers import LayerNorm, Linear, parameter
from parallel.layout import cut_local, join

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

    def __call__(self, m: Sequence[Float[Array, "s _ c"]], mask: Float[Array, "s n"]) -> list[Float[Array, "_ n z"]]:
        """The updates of pairs, for slabs of this device's residues and all residues.

        Args:
          m: MSA representation of slabs of this device's residues.
          mask: MSA mask of all residues.
        """
        mask = mask.astype(m[0].dtype)
        masks = cut_local(self.axis.shard(mask, 1), 1, len(m))
        projections = [self.project(slab, local[..., None]) for slab, local in zip(m, masks, strict=True)]
        right = join([self.axis.gather(right, 1) for _, right in projections], 1, self.axis)
        return [self.update(left, right, local, mask) for (left, _), local in zip(projections, masks, strict=True)]

    def project(
        self, m: Float[Array, "s i c"], mask: Float[Array, "s i 1"]
    ) -> tuple[Float[Array, "s i e"], Float[Array, "s i e"]]:
        """Both operands, for some residues."""
        x = self.layer_norm_input(m)
        return self.left_projection(x) * mask, self.right_projection(x) * mask

    def update(
        self,
        left: Float[Array, "s i c"],
        right: Float[Array, "s n c"],
        left_mask: Float[Array, "s i"],
        mask: Float[Array, "s n"],
    ) -> Float[Array, "i n z"]:
        """What is added to some rows of pairs."""
        norm = jnp.einsum("si,sj->ij", left_mask, mask, preferred_element_type=jnp.float32)
        return pallas_kernels.outer_product_mean(
            left, right, self.output_w[...], self.output_b[...], norm + _NORM_EPSILON, implementation=self.kernels
        )
