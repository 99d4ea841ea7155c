"""What AutoChunk knows of JAX's own primitives."""

from fastfold_jax.autochunk.primitives import elementwise, parts, shapes, sums

__all__ = ["elementwise", "parts", "shapes", "sums"]
