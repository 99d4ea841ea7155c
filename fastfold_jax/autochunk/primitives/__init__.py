"""What AutoChunk knows of JAX's own primitives."""

from fastfold_jax.autochunk.primitives import collectives, elementwise, parts, shapes, sums

__all__ = ["collectives", "elementwise", "parts", "shapes", "sums"]
