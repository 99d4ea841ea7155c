"""Products of narrow operands are differentiated by products of narrow operands."""

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import matmul, product

RNG = np.random.default_rng(11)


def _draw(shape, dtype):
    return jnp.asarray(RNG.standard_normal(shape), dtype)


def _products(closed):
    """The types of both operands of every product of a program, however deep it lies."""
    for equation in closed.jaxpr.eqns if hasattr(closed, "jaxpr") else closed.eqns:
        if equation.primitive.name == "dot_general":
            yield tuple(str(operand.aval.dtype) for operand in equation.invars)
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
                yield from _products(value)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 1e-2)])
@pytest.mark.parametrize("equation", ["...i,io->...o", "cik,cjk->cij", "cij,cz->ijz", "...qd,...kd->...qk"])
def test_values_and_derivatives(equation, dtype, tolerance):
    sizes = {letter: 3 + number for number, letter in enumerate("ijkcoqdz")}
    shapes = [[sizes[letter] for letter in term.replace("...", "k")] for term in equation.split("->")[0].split(",")]
    if equation == "...i,io->...o":
        shapes[0] = [2, *shapes[0]]
    left, right, left_tangent, right_tangent = (_draw(shape, dtype) for shape in shapes * 2)
    out, tangent = jax.jvp(lambda *x: product(equation, *x), (left, right), (left_tangent, right_tangent))
    _, pullback = jax.vjp(lambda *x: product(equation, *x), left, right)
    cotangent = _draw(out.shape, "float32")
    assert out.dtype == tangent.dtype == jnp.float32
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.float64(x)) for x in (left, right, left_tangent, right_tangent)]
        want, want_tangent = jax.jvp(lambda *x: jnp.einsum(equation, *x), wide[:2], wide[2:])
        want_grads = jax.vjp(lambda *x: jnp.einsum(equation, *x), *wide[:2])[1](jnp.float64(np.float64(cotangent)))
    np.testing.assert_allclose(out, np.float64(want), rtol=1e-5, atol=1e-5)  # narrow operands are summed in float32
    for got, wanted in zip((tangent, *pullback(cotangent)), (want_tangent, *want_grads), strict=True):
        got, wanted = np.float64(got), np.float64(wanted)
        assert np.linalg.norm(got - wanted) < tolerance * np.linalg.norm(wanted)


def test_a_factor_that_does_not_move_costs_no_product():
    x, weights = _draw((4, 5), "bfloat16"), _draw((5, 6), "bfloat16")
    for argument, num in ((0, 2), (1, 2), ((0, 1), 3)):
        gradient = jax.make_jaxpr(jax.grad(lambda x, w: matmul(x, w).sum(), argnums=argument))(x, weights)
        assert len(list(_products(gradient))) <= num


def test_under_vmap():
    x, weights = _draw((3, 4, 5), "float32"), _draw((5, 2, 3), "float32")
    batched = jax.vmap(jax.grad(lambda x: matmul(x, weights).sum()))(x)
    np.testing.assert_allclose(batched, jax.grad(lambda x: matmul(x, weights).sum())(x), rtol=1e-5)


@pytest.mark.parametrize("name", contract.OTHERS)
def test_no_operation_multiplies_widened_operands(name):
    case = contract.OTHERS[name]
    arrays = case.cast("bfloat16")
    moving = [index for index in range(len(arrays)) if index not in case.constant and arrays[index] is not None]

    reference = contract.of_some(case.operation.reference, arrays, moving, case.static)

    def loss(*values):
        return sum(out.astype(jnp.float32).sum() for out in jax.tree.leaves(reference(*values)))

    gradient = jax.make_jaxpr(jax.grad(loss, argnums=tuple(range(len(moving)))))(*(arrays[index] for index in moving))
    assert set(_products(gradient)) <= {("bfloat16", "bfloat16")}
