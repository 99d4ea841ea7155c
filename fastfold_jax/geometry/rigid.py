"""Rigid transformations of 3-space: rotation matrices with translations, from three points and from quaternions.

Products are elementwise multiplications and sums over three components, never matmuls: a matrix unit would round
coordinates to bfloat16 or TF32.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def dot(first: Float[Array, "*n 3"], second: Float[Array, "*n 3"]) -> Float[Array, "*n"]:
    """Scalar product."""
    return first[..., 0] * second[..., 0] + first[..., 1] * second[..., 1] + first[..., 2] * second[..., 2]


def cross(first: Float[Array, "*n 3"], second: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
    """Vector product."""
    a, b, c = (first[..., i] for i in range(3))
    d, e, f = (second[..., i] for i in range(3))
    return jnp.stack([b * f - c * e, c * d - a * f, a * e - b * d], axis=-1)


def normalize(vector: Float[Array, "*n 3"], epsilon: float = 1e-8) -> Float[Array, "*n 3"]:
    """Unit vector; `epsilon` under the root keeps the zero vector, and its gradient, finite."""
    length = jnp.sqrt(dot(vector, vector) + epsilon)
    # Component by component, because XLA divides by a broadcast value as multiplication by its rounded inverse.
    return jnp.stack([vector[..., i] / length for i in range(3)], axis=-1)


def rotate(rotation: Float[Array, "*#n 3 3"], point: Float[Array, "*#n 3"]) -> Float[Array, "*#n 3"]:
    """Matrix times vector."""
    return jnp.sum(rotation * point[..., None, :], axis=-1)


def rotation_from_vectors(x_axis: Float[Array, "*n 3"], xy_plane: Float[Array, "*n 3"]) -> Float[Array, "*n 3 3"]:
    """Rotation whose x axis points along one vector and whose xy plane holds the other at y > 0 (Gram-Schmidt).

    Each step rounds as DeepMind's code does: where points coincide, the axes are nothing but scaled rounding errors.
    """
    x = normalize(x_axis)
    y = normalize(xy_plane - dot(xy_plane, x)[..., None] * x)
    return jnp.stack([x, y, cross(x, y)], axis=-1)


def rotation_from_quaternion(quaternion: Float[Array, "*n 4"]) -> Float[Array, "*n 3 3"]:
    """Rotation of a quaternion (w, x, y, z) of any length but zero."""
    squared_norm = jnp.sum(jnp.square(quaternion), axis=-1, keepdims=True)
    w, x, y, z = jnp.moveaxis(quaternion * jax.lax.rsqrt(jnp.maximum(squared_norm, 1e-6)), -1, 0)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Rigid:
    """Transformations `p -> rotation @ p + translation`, over any leading axes, which broadcast as NumPy's do.

    As a frame it maps local coordinates to global ones.

    Attributes:
      rotation: [*n, 3, 3] float32.
      translation: [*n, 3] float32; Å, or the structure module's unit.
    """

    rotation: Array
    translation: Array

    @staticmethod
    def identity(shape: tuple[int, ...]) -> "Rigid":
        """Identities of this leading shape."""
        return Rigid(rotation=jnp.broadcast_to(jnp.eye(3), (*shape, 3, 3)), translation=jnp.zeros((*shape, 3)))

    @staticmethod
    def from_points(
        on_negative_x: Float[Array, "*n 3"], origin: Float[Array, "*n 3"], in_xy_plane: Float[Array, "*n 3"]
    ) -> "Rigid":
        """Frame of three points, the first at x < 0 on the x axis, the third at y > 0 in the xy plane.

        AlphaFold 2 supplement, Algorithm 21, with x and y given by the points that DeepMind's code gives them.
        """
        rotation = rotation_from_vectors(origin - on_negative_x, in_xy_plane - origin)
        return Rigid(rotation=rotation, translation=origin)

    @staticmethod
    def from_update(update: Float[Array, "*n 6"]) -> "Rigid":
        """The small transformation that six numbers describe (AlphaFold 2 supplement, Algorithm 23).

        The first three are the quaternion's vector part beside a scalar part of 1, the last three the translation.
        """
        vector, translation = update[..., :3], update[..., 3:]
        quaternion = jnp.concatenate([jnp.ones_like(vector[..., :1]), vector], axis=-1)
        return Rigid(rotation=rotation_from_quaternion(quaternion), translation=translation)

    def __getitem__(self, index) -> "Rigid":
        """Indexes the leading axes; an ellipsis stands for all that are not named."""
        index = index if isinstance(index, tuple) else (index,)
        if Ellipsis not in index:
            index = (*index, Ellipsis)
        return Rigid(
            rotation=self.rotation[(*index, slice(None), slice(None))],
            translation=self.translation[(*index, slice(None))],
        )

    def apply(self, point: Float[Array, "*#n 3"]) -> Float[Array, "*#n 3"]:
        """Local to global coordinates."""
        return rotate(self.rotation, point) + self.translation

    def invert_apply(self, point: Float[Array, "*#n 3"]) -> Float[Array, "*#n 3"]:
        """Global to local coordinates."""
        return rotate(jnp.swapaxes(self.rotation, -1, -2), point - self.translation)

    def invert(self) -> "Rigid":
        """The inverse transformation."""
        inverse = jnp.swapaxes(self.rotation, -1, -2)
        return Rigid(rotation=inverse, translation=-rotate(inverse, self.translation))

    def compose(self, other: "Rigid") -> "Rigid":
        """`other` first, then this one."""
        product = jnp.sum(self.rotation[..., :, :, None] * other.rotation[..., None, :, :], axis=-2)
        return Rigid(rotation=product, translation=self.apply(other.translation))

    def scale_translation(self, factor: float) -> "Rigid":
        """The same rotation with a translation in another unit."""
        return dataclasses.replace(self, translation=self.translation * factor)

    def stop_rotation_gradient(self) -> "Rigid":
        """The same transformation, constant in its rotation for derivatives."""
        return dataclasses.replace(self, rotation=jax.lax.stop_gradient(self.rotation))
