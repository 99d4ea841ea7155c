"""What the schedule promises of the traced program: the order of slabs, and that no device holds a whole pair array."""

import math

import jax
import jax.extend
import jax.numpy as jnp
import pytest
import whole_model

from fastfold_jax.config.presets import preset
from parallel.pipeline import pipeline


def equations_of(jaxpr):
    """All equations, those of inner programs too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equations_of(inner)


@pytest.mark.parametrize("slabs", [1, 2, 4])
def test_a_slab_is_computed_only_when_the_one_before_travels(slabs):
    def run(*values):
        return pipeline(values, [lambda _, x: jnp.sin(x), lambda _, x: jnp.cos(x), lambda _, x: jnp.tanh(x)])

    program = jax.make_jaxpr(run)(*[1.0] * slabs).jaxpr
    at, seen = dict.fromkeys(program.invars, 0), []
    number = 0
    for equation in program.eqns:
        if equation.primitive.name == "optimization_barrier":
            number += 1
            at |= dict.fromkeys(equation.outvars, number)
        else:
            (value,) = equation.invars
            seen.append((equation.primitive.name, at[value]))
            at[equation.outvars[0]] = at[value]
    last = slabs + 2 if slabs > 1 else 1
    assert number == last - 1
    for step, name in enumerate(("sin", "cos", "tanh")):
        found = [tick for primitive, tick in seen if primitive == name]
        assert found == [step + slab if slabs > 1 else 0 for slab in range(slabs)], name


@pytest.mark.parametrize("name", ["model_1_ptm", "model_1_multimer_v3"])
def test_no_device_holds_a_whole_pair_representation(name):
    """Forward and backward: at most its own channels of all pairs, as operands of triangle multiplication."""
    num_res, channels, devices = 22, 24, 2
    sizes = {"c_z": channels, "c_t": channels, "c_template_attention": channels, "evoformer_blocks": 1}
    config = preset(name, **{**whole_model.SIZES, **sizes})
    features = whole_model.padded(
        whole_model.features(config, num_res=num_res, rows=6, extra_rows=4, templates=1), devices
    )
    prev = whole_model.previous(config, num_res, devices)
    step = whole_model.step(config, devices, (6, num_res))
    program = jax.make_jaxpr(step)(whole_model.parameters(config), features, prev, jax.random.key(0)).jaxpr
    inside = [
        equation
        for outer in equations_of(program)
        if outer.primitive.name == "shard_map"
        for inner in jax.extend.core.jaxprs_in_params(outer.params)
        for equation in equations_of(inner)
    ]
    shapes = {variable.aval.shape for equation in inside for variable in equation.outvars}
    of_pairs = {shape for shape in shapes if shape.count(num_res) + shape.count(num_res // devices) > 1}
    assert any(math.prod(shape) == num_res**2 * channels / devices for shape in of_pairs)
    whole = {shape for shape in of_pairs if shape.count(num_res) > 1}
    assert max(math.prod(shape) for shape in whole) == num_res**2 * channels / devices
