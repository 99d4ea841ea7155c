"""The device axis that activations are split along; a null object where there is one device."""

import dataclasses

import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array

EXCHANGED = "exchanged"
"""What results of collectives are named in the program, for rematerialisation to keep them."""


@dataclasses.dataclass(frozen=True)
class Axis:
    """Collectives over one named mesh axis, to be called inside `shard_map`.

    With `name=None` every collective is the identity, so that model code calls them unconditionally and there is a
    single path for one device and many. Each collective's derivative is its adjoint over all devices: a gather's sums
    what the devices have, each for its own part.

    Attributes:
      name: Name of the mesh axis, or None for no axis at all.
      size: Number of devices along it.
      keep: Name the results of large collectives, so that a recomputed block uses them again (more memory) instead of
        exchanging a second time.
      slab_bytes: The least a device's part of an exchange in slabs must hold of each; below it, latency outweighs what
        overlap saves.
    """

    name: str | None = None
    size: int = 1
    keep: bool = True
    slab_bytes: int = 2**22

    def __post_init__(self):
        if self.size < 1 or (self.name is None and self.size != 1):
            raise ValueError(f"an axis named {self.name!r} cannot have {self.size} devices")

    def index(self) -> Array | int:
        """This device's position along the axis, 0 on a null axis."""
        return 0 if self.name is None else lax.axis_index(self.name)

    def all_to_all(self, x: Array, *, split: int, concat: int) -> Array:
        """Re-shards `x`: dimension `split`, whole so far, becomes local; dimension `concat`, local so far, whole."""
        if self.name is None:
            return x
        return self._named(lax.all_to_all(x, self.name, split_axis=split, concat_axis=concat, tiled=True))

    def exchange(self, parts: Array) -> Array:
        """`parts[d]` goes to device d, and device d's for this one comes in its place.

        What `all_to_all` exchanges, without the transpositions around it: they are `layout.parts`' and `join_parts`'.
        """
        if self.name is None:
            return parts
        return self._named(lax.all_to_all(parts, self.name, split_axis=0, concat_axis=0, tiled=True))

    def gather(self, x: Array, dim: int) -> Array:
        """Makes the sharded dimension `dim` whole on every device."""
        if self.name is None:
            return x
        return self._named(lax.all_gather(x, self.name, axis=dim, tiled=True))

    def psum(self, x: Array) -> Array:
        """Sums over the devices of the axis."""
        return x if self.name is None else lax.psum(x, self.name)

    def shard(self, x: Array, dim: int) -> Array:
        """This device's part of a dimension that every device holds whole.

        Raises:
          ValueError: if the dimension does not divide by the number of devices (padding belongs at the batch's edge).
        """
        if self.name is None:
            return x
        length, remainder = divmod(x.shape[dim], self.size)
        if remainder:
            raise ValueError(f"dimension {dim} of shape {x.shape} does not divide over {self.size} devices")
        return lax.dynamic_slice_in_dim(x, self.index() * length, length, dim)

    def padded(self, x: Array, dim: int) -> Array:
        """`x` with zeros appended along a dimension that every device holds whole, so that it can be split."""
        missing = -x.shape[dim] % self.size
        if not missing:
            return x
        return jnp.pad(x, [(0, missing if d == dim else 0) for d in range(x.ndim)])

    def on_first(self, x: Array) -> Array:
        """`x` on the axis's first device, zeros on the others."""
        return x if self.name is None else jnp.where(self.index() == 0, x, jnp.zeros_like(x))

    def from_first(self, x: Array) -> Array:
        """The value that the axis's first device holds, on every device."""
        if self.name is None:
            return x
        return lax.psum(self.on_first(x), self.name)

    def _named(self, x: Array) -> Array:
        return checkpoint_name(x, EXCHANGED) if self.keep else x
