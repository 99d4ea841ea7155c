"""Matrix products as accelerators are fast at them: of narrow operands, summed in float32; their derivatives too."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def product(equation: str, left: Float[Array, "..."], right: Float[Array, "..."]) -> Float[Array, "..."]:
    """`jnp.einsum` of two arrays of one type, summed in float32 and returned so.

    JAX's derivative of such a product has float32 cotangents and so multiplies in float32, after widening the
    operands: at half the rate or less, with copies twice as large. Here cotangents are rounded to the operands' type
    first, as they are where a product returns that type.
    """
    return jnp.einsum(equation, left, right, preferred_element_type=jnp.float32)


def _product_jvp(equation, primals, tangents):
    (left, right), (left_tangent, right_tangent) = primals, tangents
    out = product(equation, left, right)
    parts = []
    if not isinstance(left_tangent, SymbolicZero):
        parts.append(jnp.einsum(equation, left_tangent, right))
    if not isinstance(right_tangent, SymbolicZero):
        parts.append(jnp.einsum(equation, left, right_tangent))
    # Widened last: transposed, this is the first step and rounds the cotangent.
    return out, sum(parts[1:], parts[0]).astype(out.dtype) if parts else jnp.zeros_like(out)


product.defjvp(_product_jvp, symbolic_zeros=True)


def matmul(x: Float[Array, "... i"], weights: Float[Array, "i ..."]) -> Float[Array, "..."]:
    """The last axis of `x` times the first of `weights`, summed in float32, in the type of `x`: [..., *out].

    XLA would write a float32 result to memory as such, and only then add biases and round.
    """
    out_dims = weights.shape[1:]
    flat = weights.astype(x.dtype).reshape(x.shape[-1], math.prod(out_dims))
    return jnp.matmul(x, flat).reshape(*x.shape[:-1], *out_dims)
