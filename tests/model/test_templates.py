"""Template embedders against the reference's, values and gradients; what absent templates and padding may change."""

import dataclasses
import types

import haiku_state
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from untrained import untrained

from fastfold_jax.config import presets
from fastfold_jax.config.execution import Execution
from fastfold_jax.data.batch import Features
from fastfold_jax.model.template_pairs import templates_of
from fastfold_jax.model.templates import template_embedder
from fastfold_jax.model.templates_monomer import MonomerTemplates
from fastfold_jax.model.templates_multimer import MultimerTemplates
from parallel.axis import Axis

NUM_RES, NUM_TEMPLATES = 12, 3
MONOMER, MULTIMER = "model_1_ptm", "model_1_multimer_v3"
FLOAT32 = Execution(precision="float32")


def features(*, num_res: int = NUM_RES, seed: int = 0) -> Features:
    """Templates with missing atoms, the last one empty, two chains, no padding."""
    rng = np.random.default_rng(seed)
    steps = rng.standard_normal((NUM_TEMPLATES, num_res, 3))
    walk = np.cumsum(3.8 * steps / np.linalg.norm(steps, axis=-1, keepdims=True), axis=1)
    positions = walk[:, :, None] + 1.5 * rng.standard_normal((NUM_TEMPLATES, num_res, 37, 3))
    atom_mask = (rng.random((NUM_TEMPLATES, num_res, 37)) < 0.9).astype(np.float32)
    atom_mask[-1] = 0
    unused = {field.name: None for field in dataclasses.fields(Features)}
    return Features(
        **unused
        | {
            "aatype": rng.integers(0, 20, num_res, dtype=np.int32),
            "asym_id": (1 + (np.arange(num_res) > num_res // 2)).astype(np.int32),
            "seq_mask": np.ones(num_res, np.float32),
            "template_aatype": rng.integers(0, 22, (NUM_TEMPLATES, num_res), dtype=np.int32),
            "template_all_atom_positions": (positions * atom_mask[..., None]).astype(np.float32),
            "template_all_atom_mask": atom_mask,
            "template_mask": np.ones(NUM_TEMPLATES, np.float32),
        }
    )


def first_templates(batch: Features, count: int) -> Features:
    names = ("template_aatype", "template_all_atom_positions", "template_all_atom_mask", "template_mask")
    return dataclasses.replace(batch, **{name: getattr(batch, name)[:count] for name in names})


def with_mask(batch: Features, *mask: float) -> Features:
    return dataclasses.replace(batch, template_mask=np.array(mask, np.float32))


SMALL = {"c_z": 16, "c_t": 8, "c_template_attention": 8, "pair_heads": 2, "c_m": 16, "template_blocks": 1}


def query(channels: int = SMALL["c_z"]) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((NUM_RES, NUM_RES, channels), dtype=np.float32)


def module_of(preset: str, execution: Execution = FLOAT32, **overrides):
    """A template embedder with random parameters, none of them zero."""
    return untrained(template_embedder(presets.preset(preset, **overrides), execution))


@nnx.jit
def pair_update(module, z, batch, key=None):
    """Features are arguments, as in use: XLA folds constants with other roundings than those of the code it makes."""
    return module.pair_update(z, batch, key)


def assert_close(actual, expected, tolerance: float = 1e-5):
    """Within `tolerance` of the largest expected magnitude."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def reference(preset: str):
    """(function of (params, query, features), parameters' shapes) of the reference's template embedding."""
    hk = pytest.importorskip("haiku")
    modules = pytest.importorskip("alphafold.model.modules")
    modules_multimer = pytest.importorskip("alphafold.model.modules_multimer")
    config = pytest.importorskip("alphafold.model.config").model_config(preset).model
    shared, template = config.global_config, config.embeddings_and_evoformer.template
    shared.bfloat16, shared.deterministic, shared.subbatch_size = False, True, 4

    def monomer(query, batch):
        beta, beta_mask = modules.pseudo_beta_fn(
            batch.template_aatype, batch.template_all_atom_positions, batch.template_all_atom_mask
        )
        template_batch = {
            "template_aatype": batch.template_aatype,
            "template_all_atom_positions": batch.template_all_atom_positions,
            "template_all_atom_masks": batch.template_all_atom_mask,
            "template_pseudo_beta": beta,
            "template_pseudo_beta_mask": beta_mask,
            "template_mask": batch.template_mask,
        }
        mask = batch.seq_mask[:, None] * batch.seq_mask
        return modules.TemplateEmbedding(template, shared)(query, template_batch, mask, is_training=False)

    def multimer(query, batch):
        names = ("template_aatype", "template_all_atom_positions", "template_all_atom_mask")
        mask = batch.seq_mask[:, None] * batch.seq_mask
        chains = batch.asym_id[:, None] == batch.asym_id[None]
        return modules_multimer.TemplateEmbedding(template, shared)(
            query, {name: getattr(batch, name) for name in names}, mask, chains, is_training=False
        )

    transformed = hk.transform(monomer if preset == MONOMER else multimer)
    batch = jax.tree.map(jnp.asarray, features())
    shapes = jax.eval_shape(transformed.init, jax.random.key(0), query(128), batch)

    def run(params, query, batch):
        return transformed.apply(params, jax.random.key(0), query, batch)

    return run, shapes


def masked_features() -> Features:
    batch = features()
    batch.seq_mask[-3:] = 0
    batch.template_all_atom_mask[:, -3:] = 0
    return batch


@pytest.mark.parametrize("preset", [MONOMER, MULTIMER])
def test_values_and_gradients_agree_with_the_reference(preset):
    run, shapes = reference(preset)
    params = haiku_state.draw(shapes)
    module = module_of(preset)
    module.template_embedding = haiku_state.load(module.template_embedding, params, "template_embedding")
    graphdef, state = nnx.split(module)
    weights = np.random.default_rng(7).standard_normal((NUM_RES, NUM_RES, 128), dtype=np.float32)

    def with_gradients(update):
        """The update where there are residues, and gradients of a weighted sum of it for parameters and query."""

        def weighted_sum(params, z, batch):
            out = update(params, z, batch) * (batch.seq_mask[:, None] * batch.seq_mask)[..., None]
            return jnp.sum(out * weights), out

        return jax.jit(jax.grad(weighted_sum, argnums=(0, 1), has_aux=True))

    ours = with_gradients(lambda state, z, batch: nnx.merge(graphdef, state).pair_update(z, batch))
    theirs = with_gradients(run)
    for batch in (features(), masked_features()):
        (in_state, in_z), update = ours(state, query(128), batch)
        (expected_in_params, expected_in_z), expected = theirs(params, query(128), batch)
        assert_close(update, expected)
        assert_close(in_z, expected_in_z)
        reference_gradients = haiku_state.load(module.template_embedding, expected_in_params, "template_embedding")
        flat = dict(nnx.to_flat_state(in_state["template_embedding"]))
        for path, value in nnx.to_flat_state(nnx.state(reference_gradients)):
            assert_close(flat[path][...], value[...], 3e-5)


def test_monomer_rows_agree_with_the_reference():
    all_atom = pytest.importorskip("alphafold.model.all_atom")
    batch = masked_features()
    modules = {fill: module_of(MONOMER, **SMALL, fill_undefined_torsions=fill) for fill in (False, True)}

    @jax.jit
    def ours(batch):
        return {fill: module.msa_rows(batch) for fill, module in modules.items()}

    @jax.jit
    def theirs(batch):
        names = ("template_aatype", "template_all_atom_positions", "template_all_atom_mask")
        inputs = [getattr(batch, name) for name in names]
        return {fill: all_atom.atom37_to_torsion_angles(*inputs, placeholder_for_undefined=fill) for fill in modules}

    rows, torsions = ours(batch), theirs(batch)
    for fill, module in modules.items():
        encoded = np.concatenate(
            [
                np.eye(22, dtype=np.float32)[batch.template_aatype],
                torsions[fill]["torsion_angles_sin_cos"].reshape(NUM_TEMPLATES, NUM_RES, 14),
                torsions[fill]["alt_torsion_angles_sin_cos"].reshape(NUM_TEMPLATES, NUM_RES, 14),
                torsions[fill]["torsion_angles_mask"],
            ],
            axis=-1,
        )
        expected = module.template_projection(jax.nn.relu(module.template_single_embedding(encoded)))
        np.testing.assert_array_equal(rows[fill][1], torsions[fill]["torsion_angles_mask"][..., 2])
        # The first residue's omega is an angle of collinear points, so that rounding decides it.
        defined = (rows[fill][1] > 0) & (fill | (np.arange(NUM_RES) > 0))
        assert_close(rows[fill][0][defined], expected[defined])


def test_multimer_rows_agree_with_the_reference():
    hk = pytest.importorskip("haiku")
    modules_multimer = pytest.importorskip("alphafold.model.modules_multimer")
    module, batch = module_of(MULTIMER), masked_features()
    names = ("template_aatype", "template_all_atom_positions", "template_all_atom_mask")
    template_batch = {name: jnp.asarray(getattr(batch, name)) for name in names}
    shared = types.SimpleNamespace(bfloat16=False)
    transformed = hk.without_apply_rng(
        hk.transform(lambda batch: modules_multimer.template_embedding_1d(batch, 256, shared))
    )
    params = haiku_state.draw(jax.eval_shape(transformed.init, jax.random.key(0), template_batch))
    for scope in params:
        setattr(module, scope, haiku_state.load(getattr(module, scope), {scope: params[scope]}, scope))
    expected, expected_mask = transformed.apply(params, template_batch)
    rows, mask = module.msa_rows(batch)
    np.testing.assert_array_equal(mask, expected_mask)
    assert_close(rows, expected)


@pytest.mark.parametrize("preset", [MONOMER, MULTIMER])
def test_an_absent_template_changes_nothing(preset):
    module, batch, z = module_of(preset, **SMALL), features(), query()
    update = pair_update(module, z, with_mask(batch, 1, 1, 0))
    assert_close(update, pair_update(module, z, first_templates(batch, 2)), 1e-6)
    # Nor does what it holds.
    batch.template_all_atom_positions[-1] = 7.0
    batch.template_all_atom_mask[-1] = 1.0
    np.testing.assert_array_equal(update, pair_update(module, z, with_mask(batch, 1, 1, 0)))
    _, mask = module.msa_rows(with_mask(batch, 1, 1, 0))
    assert not mask[-1].any()
    np.testing.assert_array_equal(pair_update(module, z, with_mask(batch, 0, 0, 0)), 0)


def test_weights_count_multimer_templates():
    module, batch, z = module_of(MULTIMER, **SMALL), features(), query()
    repeated = jax.tree.map(lambda x: np.concatenate([x, x[-1:]]) if x.shape[:1] == (NUM_TEMPLATES,) else x, batch)
    weighted = pair_update(module, z, with_mask(batch, 1, 1, 2))
    assert_close(weighted, pair_update(module, z, with_mask(repeated, 1, 1, 1, 1)), 1e-6)


def test_multimers_read_geometry_within_chains_only():
    module, batch, z = module_of(MULTIMER, **SMALL), features(), query()
    moved = dataclasses.replace(batch, template_all_atom_positions=batch.template_all_atom_positions.copy())
    second = batch.asym_id == 2
    moved.template_all_atom_positions[:, second] += np.float32([20.0, -30.0, 50.0])
    same_chain = (batch.asym_id[:, None] == batch.asym_id).astype(np.float32)

    @jax.jit
    def embed(batch):
        template = jax.tree.map(lambda x: x[0], templates_of(batch, None))
        return module.template_embedding.single_template_embedding.embed(z, template, same_chain)

    # A residue's direction to itself is rounding error, which a motion changes.
    others = ~np.eye(NUM_RES, dtype=bool)
    assert_close(embed(moved)[others], embed(batch)[others], 1e-4)


@pytest.mark.parametrize("preset", [MONOMER, MULTIMER])
def test_dropout_is_off_without_a_key_and_reproducible_with_one(preset):
    module, batch, z = module_of(preset, **SMALL), features(), query()
    plain = pair_update(module, z, batch)
    dropped = pair_update(module, z, batch, jax.random.key(0))
    np.testing.assert_array_equal(dropped, pair_update(module, z, batch, jax.random.key(0)))
    assert np.abs(dropped - plain).max() > 1e-3
    assert np.abs(dropped - pair_update(module, z, batch, jax.random.key(1))).max() > 1e-3


@pytest.mark.parametrize("preset", [MONOMER, MULTIMER])
def test_columns_on_several_devices_are_those_of_one(preset):
    axis = Axis("dap", 2)
    whole, batch, z = module_of(preset, **SMALL), features(), query()
    split = module_of(preset, dataclasses.replace(FLOAT32, axis=axis), **SMALL)
    columns = jnp.moveaxis(z.reshape(NUM_RES, 2, NUM_RES // 2, -1), 1, 0)
    # `vmap` with an axis name carries out the collectives, with no device but this one.
    on_devices = jax.jit(jax.vmap(split.pair_update, in_axes=(0, None), axis_name=axis.name))
    update = jnp.moveaxis(on_devices(columns, batch), 0, 1).reshape(z.shape)
    assert_close(update, pair_update(whole, z, batch))


@pytest.mark.parametrize("preset", [MONOMER, MULTIMER])
def test_remat_and_reduced_precision_keep_the_result(preset):
    batch, z = features(), query()
    expected = pair_update(module_of(preset, **SMALL), z, batch)
    remat = dataclasses.replace(FLOAT32, remat=True)
    assert_close(pair_update(module_of(preset, remat, **SMALL), z, batch), expected)
    reduced = pair_update(module_of(preset, Execution(), **SMALL), z.astype(jnp.bfloat16), batch)
    assert reduced.dtype == jnp.bfloat16
    # Of all elements together: the worst of thousands is a matter of luck.
    error = np.linalg.norm(reduced.astype(np.float32) - expected)
    assert error < 0.05 * np.linalg.norm(expected)


def test_a_pair_stack_without_blocks_embeds_templates_all_the_same():
    batch, z = features(), query()
    for preset in (MONOMER, MULTIMER):
        assert np.any(pair_update(module_of(preset, **SMALL | {"template_blocks": 0}), z, batch))


def test_type_of_the_configuration_picks_the_embedder():
    assert isinstance(module_of(MONOMER, **SMALL), MonomerTemplates)
    assert isinstance(module_of(MULTIMER, **SMALL), MultimerTemplates)
    with pytest.raises(ValueError, match="model_3 takes no templates"):
        module_of("model_3")
