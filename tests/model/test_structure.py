"""The structure module against the peer's two, and the laws it obeys: symmetry in space, masks, padding, devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from fastfold_jax import geometry
from fastfold_jax.config.execution import Execution
from fastfold_jax.config.presets import preset
from fastfold_jax.geometry import Rigid
from fastfold_jax.model import structure
from fastfold_jax.model.ipa import InvariantPointAttention
from fastfold_jax.model.structure import StructureModule
from parallel import Axis

PRESETS = ("model_1_ptm", "model_1_multimer_v3")
both = pytest.mark.parametrize("name", PRESETS)
TOLERANCE = 1e-5
# None is a released network's, nor are any two alike.
SIZES = {
    "c_s": 24,
    "c_z": 16,
    "c_sidechain": 20,
    "ipa_heads": 3,
    "ipa_scalars": 5,
    "ipa_query_points": 2,
    "ipa_value_points": 6,
}
FULL = Execution(precision="float32", outputs="full")


def _relative(ours, theirs) -> float:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return float(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs)))


def _gradient_errors(ours: dict, theirs: dict) -> dict:
    """Largest difference of each array over the array's size; arrays that are rounding error have the size of the rest.

    Some gradients vanish: what is added to all keys alike changes no attention.
    """
    theirs = {name: np.asarray(value, np.float64) for name, value in theirs.items()}
    assert ours.keys() == theirs.keys()
    floor = 1e-2 * max(np.max(np.abs(value)) for value in theirs.values())
    return {k: np.max(np.abs(ours[k] - v)) / max(np.max(np.abs(v)), floor) for k, v in theirs.items()}


def _scoped(params: dict) -> dict:
    return {f"{scope}//{key}": value for scope, arrays in params.items() for key, value in arrays.items()}


def _drawn(module: nnx.Module, seed: int):
    """Graph and parameters of about unit gain, none of them zero."""
    graph, state = nnx.split(module)
    rng = np.random.default_rng(seed)

    def draw(path, x):
        value = rng.standard_normal(x.shape, dtype=np.float32)
        kind = jax.tree_util.keystr(path)
        if "weights" in kind and "trainable" not in kind:
            return jnp.asarray(value / np.sqrt(x.shape[0], dtype=np.float32))
        return jnp.asarray(("scale" in kind) + 0.3 * value)

    return graph, jax.tree_util.tree_map_with_path(draw, state)


def _flat(state) -> dict[tuple[str, ...], np.ndarray]:
    return {path: np.asarray(value[...]) for path, value in nnx.to_flat_state(state)}


def _inputs(seed: int, num: int, *, c_s: int = 24, c_z: int = 16, masked: int = 0):
    rng = np.random.default_rng(seed)
    single = jnp.asarray(rng.normal(size=(num, c_s)), jnp.float32)
    pair = jnp.asarray(rng.normal(size=(num, num, c_z)), jnp.float32)
    aatype = jnp.asarray(rng.permutation(num) % 21)
    return single, pair, aatype, jnp.ones(num).at[num - masked :].set(0)


def _unchanged(pair):
    return pair


def _attention(name: str, seed: int = 0):
    graph, state = _drawn(InvariantPointAttention(preset(name, **SIZES), FULL), seed)

    def apply(state, single, pair, mask, frames):
        module = nnx.merge(graph, state)
        return module(single, pair, _unchanged, module.logit_bias(pair, _unchanged, mask), frames)

    return state, jax.jit(apply)


def _structure(name: str, execution: Execution = FULL, **sizes):
    graph, state = _drawn(StructureModule(preset(name, **SIZES, **sizes), execution), 0)
    return state, lambda state, *inputs: nnx.merge(graph, state)(*inputs)


# Against the peer.


@both
def test_attention_equals_the_peers(name):
    peer = pytest.importorskip("alphafold") and __import__("structure_peer")
    monomer = "multimer" not in name
    state, ours = _attention(name)
    rng = np.random.default_rng(1)
    single, pair, _, mask = _inputs(1, 9, masked=2)
    quaternion, translation, frames = peer.random_frames(rng, 9)
    theirs = jax.jit(peer.attention(name, SIZES, monomer=monomer))
    params = peer.to_haiku(_flat(state), peer.IPA, monomer=monomer)
    weights = jnp.asarray(rng.normal(size=single.shape), jnp.float32) * mask[:, None]

    def our_loss(state, single, pair, translation):
        moved = Rigid(rotation=frames.rotation, translation=translation)
        out = ours(state, single, pair, mask, moved)
        return jnp.sum(out * weights), out

    def their_loss(params, single, pair, translation):
        out = theirs(params, single, pair, mask, quaternion, translation)
        return jnp.sum(out * weights), out

    arguments = (0, 1, 2, 3)
    (_, out), grads = jax.jit(jax.value_and_grad(our_loss, arguments, has_aux=True))(state, single, pair, translation)
    (_, expected), peer_grads = jax.jit(jax.value_and_grad(their_loss, arguments, has_aux=True))(
        params, single, pair, translation
    )
    assert _relative(out[:7], expected[:7]) < TOLERANCE
    for our_grad, peer_grad in zip(grads[1:], peer_grads[1:], strict=True):
        assert _relative(our_grad, peer_grad) < TOLERANCE
    mapped = peer.to_haiku(_flat(grads[0]), peer.IPA, monomer=monomer)
    errors = _gradient_errors(_scoped(mapped), _scoped(peer_grads[0]))
    assert max(errors.values()) < TOLERANCE, errors


def _by_name(out) -> dict:
    side_chains = out.trajectory.side_chains
    frames = side_chains.frames
    return {
        "single": out.single,
        "rotation": out.trajectory.backbone.rotation,
        "translation": out.trajectory.backbone.translation,
        "sin_cos": side_chains.sin_cos,
        "unnormalized_sin_cos": side_chains.unnormalized_sin_cos,
        "atom14": side_chains.atom14_positions,
        "frames": jnp.concatenate([frames.rotation.reshape(*frames.rotation.shape[:-2], 9), frames.translation], -1),
        "positions": out.atom_positions,
        "mask": out.atom_mask,
    }


@both
def test_structure_equals_the_peers(name):
    peer = pytest.importorskip("alphafold") and __import__("structure_peer")
    monomer = "multimer" not in name
    layers, num, masked = 3, 12, 3
    state, apply = _structure(name, structure_layers=layers)
    single, pair, aatype, mask = _inputs(2, num, masked=masked)
    theirs = peer.structure(name, layers, SIZES, monomer=monomer)
    params = peer.to_haiku(_flat(state), "structure_module", monomer=monomer)
    rng = np.random.default_rng(3)
    kept = slice(0, num - masked)
    cut = lambda key, x: x[kept] if key in ("single", "positions", "mask") else x[:, kept]  # noqa: E731
    ours = lambda *x: {k: cut(k, v) for k, v in _by_name(apply(*x)).items()}  # noqa: E731
    shapes = jax.eval_shape(ours, state, single, pair, aatype, mask)
    cotangents = {k: jnp.asarray(rng.normal(size=v.shape), jnp.float32) for k, v in shapes.items()}
    # Torsions of the unknown type place no atom, and their frames are degenerate.
    assert int(aatype[kept].max()) < 20

    def loss(forward):
        def run(params, single, pair):
            out = forward(params, single, pair, aatype, mask)
            return sum(jnp.vdot(cotangents[k], v) for k, v in out.items()), out

        return jax.jit(jax.value_and_grad(run, (0, 1, 2), has_aux=True))

    (_, out), grads = loss(ours)(state, single, pair)
    (_, expected), peer_grads = loss(lambda *x: {k: cut(k, v) for k, v in theirs(*x).items()})(params, single, pair)
    errors = {k: _relative(out[k], expected[k]) for k in expected}
    assert max(errors.values()) < TOLERANCE, errors
    mapped = peer.to_haiku(_flat(grads[0]), "structure_module", monomer=monomer)
    errors = {"single": _relative(grads[1], peer_grads[1]), "pair": _relative(grads[2], peer_grads[2])}
    errors |= _gradient_errors(_scoped(mapped), _scoped(peer_grads[0]))
    assert max(errors.values()) < TOLERANCE, errors


# Laws.


@both
def test_attention_does_not_see_where_the_structure_is(name):
    """All frames moved together: the same activations, whatever the movement."""
    state, apply = _attention(name)
    rng = np.random.default_rng(4)
    single, pair, _, mask = _inputs(4, 9)
    frames = _random_rigid(rng, 9)
    movement = _random_rigid(rng)
    still = apply(state, single, pair, mask, frames)
    moved = apply(state, single, pair, mask, movement.compose(frames))
    assert _relative(moved, still) < 2 * TOLERANCE


def _random_rigid(rng, *shape) -> Rigid:
    rotation = geometry.rotation_from_quaternion(jnp.asarray(rng.normal(size=(*shape, 4)), jnp.float32))
    return Rigid(rotation=rotation, translation=jnp.asarray(rng.normal(size=(*shape, 3)), jnp.float32))


@both
def test_masked_residues_change_no_other(name):
    """Neither values nor gradients of existing residues see what masked ones hold, nor how many there are."""
    state, apply = _structure(name, structure_layers=2)
    # Not every draw will do: where a torsion's vector is nearly zero, its direction's gradient magnifies rounding.
    single, pair, aatype, mask = _inputs(7, 14, masked=5)
    other_single, other_pair, other_type, _ = _inputs(6, 14)
    exists = mask.astype(bool)
    both_exist = (exists[:, None] & exists)[..., None]
    changed = (
        jnp.where(exists[:, None], single, 1e3 * other_single),
        jnp.where(both_exist, pair, 1e3 * other_pair),
        jnp.where(exists, aatype, other_type),
        mask,
    )
    unpadded = (single[:9], pair[:9, :9], aatype[:9], mask[:9])

    def loss(state, single, pair, aatype, mask):
        out = apply(state, single, pair, aatype, mask)
        return jnp.sum(jnp.square(out.atom_positions)) / 1e4 + jnp.sum(jnp.square(out.single[:9])), out

    run = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))
    (_, exact), exact_grads = run(state, *unpadded)
    for inputs in ((single, pair, aatype, mask), changed):
        (_, out), grads = run(state, *inputs)
        assert not out.atom_positions[9:].any() and not out.atom_mask[9:].any()
        for a, b in ((out.atom_positions, exact.atom_positions), (out.single, exact.single)):
            assert _relative(a[:9], b) < TOLERANCE
        assert not grads[1][9:].any() and not grads[2][9:].any() and not grads[2][:, 9:].any()
        errors = _gradient_errors(_flat(grads[0]), _flat(exact_grads[0]))
        assert max(errors.values()) < TOLERANCE, errors


@both
def test_compact_and_full_outputs_agree(name):
    inputs = _inputs(7, 8)
    state, full = _structure(name, structure_layers=3)
    _, compact = _structure(name, Execution(precision="float32"), structure_layers=3)
    a, b = jax.jit(full)(state, *inputs), jax.jit(compact)(state, *inputs)
    assert b.trajectory is None and a.trajectory.backbone.translation.shape == (3, 8, 3)
    for field in ("atom_positions", "atom_mask", "atom14_positions", "atom14_mask", "single"):
        np.testing.assert_allclose(getattr(a, field), getattr(b, field), rtol=1e-5, atol=1e-5)


def test_half_precision_inputs_are_computed_in_float32():
    state, apply = _structure("model_1_ptm", structure_layers=2)
    single, pair, aatype, mask = _inputs(8, 8)
    half, pair = single.astype(jnp.bfloat16), pair.astype(jnp.bfloat16)
    a = jax.jit(apply)(state, half, pair, aatype, mask)
    b = jax.jit(apply)(state, half.astype(jnp.float32), pair.astype(jnp.float32), aatype, mask)
    assert {x.dtype for x in jax.tree.leaves(a)} == {np.dtype("float32")}
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_dropout_is_drawn_per_element_and_kept_under_padding():
    state, apply = _structure("model_1_ptm", structure_layers=2)
    single, pair, aatype, mask = _inputs(10, 12, masked=4)
    run = jax.jit(apply)
    key = jax.random.key(3)
    plain = run(state, single, pair, aatype, mask)
    dropped = run(state, single, pair, aatype, mask, key)
    again = run(state, single[:8], pair[:8, :8], aatype[:8], mask[:8], key)
    assert _relative(dropped.single[:8], plain.single[:8]) > 1e-2
    assert _relative(dropped.single[:8], again.single) < TOLERANCE
    other = run(state, single, pair, aatype, mask, jax.random.key(4))
    assert _relative(dropped.single[:8], other.single[:8]) > 1e-2


def test_dropout_has_the_rate_of_the_paper_and_keeps_the_mean():
    """A tenth (AlphaFold 2 supplement, Algorithm 20, lines 7 and 9)."""
    found = np.asarray(structure._dropout(jnp.ones((100, 100)), jax.random.key(0), Axis()))
    assert np.mean(found > 0) == pytest.approx(0.9, abs=0.01)
    assert np.mean(found) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(("name", "devices", "dropout"), [(PRESETS[0], 2, True), (PRESETS[1], 4, False)])
def test_devices_share_the_pair_rows(name, devices, dropout):
    """Rows of the pair representation over several devices: the same structure and the same gradients."""
    inputs = _inputs(11, 8, masked=1)
    key = jax.random.key(5) if dropout else None
    state, one = _structure(name, structure_layers=2)
    execution = Execution(precision="float32", outputs="full", axis=Axis(name="dap", size=devices))
    _, many = _structure(name, execution, structure_layers=2)
    mesh = Mesh(np.array(jax.devices()[:devices]), ("dap",))
    whole = PartitionSpec()
    sharded = jax.shard_map(
        functools.partial(many),
        mesh=mesh,
        in_specs=(whole, whole, PartitionSpec("dap"), whole, whole, whole),
        out_specs=whole,
        check_vma=False,
    )

    def loss(forward):
        def run(state, single, pair):
            out = forward(state, single, pair, inputs[2], inputs[3], key)
            return jnp.sum(jnp.square(out.atom_positions)) / 1e3 + jnp.sum(jnp.square(out.single)), out

        return jax.jit(jax.value_and_grad(run, (0, 1, 2), has_aux=True))

    (_, expected), expected_grads = loss(one)(state, *inputs[:2])
    (_, out), grads = loss(sharded)(state, *inputs[:2])
    for a, b in zip(jax.tree.leaves((out, grads[1:])), jax.tree.leaves((expected, expected_grads[1:])), strict=True):
        assert _relative(a, b) < TOLERANCE
    errors = _gradient_errors(_flat(grads[0]), _flat(expected_grads[0]))
    assert max(errors.values()) < TOLERANCE, errors
