"""DeepMind's files into the model's state and back: every layout, bit for bit, and files that do not fit."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import drawn
import jax
import numpy as np
import pytest
from parity_params import draw as draw_array

from fastfold_jax.config.presets import PRESETS, preset
from fastfold_jax.model.alphafold import init_state
from fastfold_jax.params import fit, store
from fastfold_jax.params.npz import ParamsError

SMALL = 2  # Evoformer blocks
REPOSITORY = Path(__file__).resolve().parents[2]


def small(name: str):
    return preset(name, evoformer_blocks=SMALL)


def assert_equal_files(first: Path, second: Path):
    with np.load(first) as one, np.load(second) as two:
        assert sorted(one.files) == sorted(two.files)
        for key in one.files:
            a, b = one[key], two[key]
            assert (a.dtype, a.shape) == (b.dtype, b.shape), key
            assert a.tobytes() == b.tobytes(), key


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    """Path of a drawn file of a layout, with few Evoformer blocks."""
    directory, made = tmp_path_factory.mktemp("params"), {}

    def get(layout: str) -> Path:
        if layout not in made:
            made[layout] = drawn.write(directory / f"{layout}.npz", drawn.shapes(layout, SMALL))
        return made[layout]

    return get


@pytest.mark.parametrize("layout", drawn.PRESETS_OF)
def test_keys_and_shapes_are_those_of_the_released_files(layout):
    for name in drawn.PRESETS_OF[layout]:
        assert dict(fit.storage(PRESETS[name]).arrays) == drawn.shapes(layout)


def test_every_preset_has_a_layout():
    assert sorted(itertools.chain.from_iterable(drawn.PRESETS_OF.values())) == sorted(PRESETS.keys() - {"demo"})


@pytest.mark.parametrize("layout", drawn.PRESETS_OF)
def test_what_was_read_is_written_back_bit_for_bit(layout, small_file, tmp_path):
    state = store.load(small_file(layout), small(layout))
    store.save(state, small(layout), tmp_path / "again.npz")
    assert_equal_files(small_file(layout), tmp_path / "again.npz")


def test_numbers_arrive_in_their_places(small_file):
    state = store.load(small_file("model_1_ptm"), small("model_1_ptm"))
    scope = "alphafold/alphafold_iteration/evoformer/evoformer_iteration/"

    def number(key, shape):
        return draw_array(scope + key, shape)

    block = state["evoformer"]["evoformer_iteration"]
    np.testing.assert_array_equal(
        block["msa_transition"]["transition1"]["weights"][...],
        number("msa_transition/transition1//weights", (SMALL, 256, 1024)),
    )
    np.testing.assert_array_equal(
        block["triangle_multiplication_incoming"]["projection"]["bias"][...],
        np.concatenate(
            [number(f"triangle_multiplication_incoming/{s}_projection//bias", (SMALL, 128)) for s in ("left", "right")],
            axis=-1,
        ),
    )


OTHER_SIZES = {
    "c_m": 24,
    "c_z": 16,
    "c_s": 20,
    "c_e": 8,
    "c_t": 12,
    "c_template_attention": 4,
    "c_outer": 6,
    "msa_heads": 2,
    "pair_heads": 2,
    "ipa_heads": 3,
    "ipa_scalars": 5,
    "ipa_query_points": 2,
    "ipa_value_points": 6,
    "c_sidechain": 10,
    "c_lddt": 14,
}


@pytest.mark.parametrize("sizes", [{}, OTHER_SIZES], ids=["released", "other"])
@pytest.mark.parametrize("name", ["model_3", "model_1_ptm", "model_1_multimer_v3"])
def test_drawn_parameters_are_saved_and_read(name, sizes, tmp_path):
    config = preset(name, evoformer_blocks=1, extra_msa_blocks=1, template_blocks=1, **sizes)
    state = init_state(config, 3, zero_final=False)
    store.save(state, config, tmp_path / "params.npz")
    again = store.load(tmp_path / "params.npz", config)
    assert jax.tree.structure(state) == jax.tree.structure(again)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True))


def test_heads_that_a_file_lacks_are_drawn_if_asked(tmp_path, caplog):
    """As where the stage `ptm` goes on with `fine-tuning`; half a head, or any other part, stays an error."""
    sizes = {"evoformer_blocks": 1, "extra_msa_blocks": 1, "template_blocks": 1}
    without, network = preset("model_1", **sizes), preset("model_1_ptm", **sizes)
    path = tmp_path / "params.npz"
    store.save(init_state(without, 3, zero_final=False), without, path)
    with pytest.raises(ParamsError, match=r"2 missing \(.*predicted_aligned_error_head"):
        store.load(path, network)
    with caplog.at_level("INFO"):
        state = store.load(path, network, draw_heads=5)
    assert f"{path}: has no predicted_aligned_error_head, drawn anew" in caplog.text
    store.save(state, network, tmp_path / "whole.npz")
    with np.load(path) as read, np.load(tmp_path / "whole.npz") as whole:
        assert {key for key in whole if key not in read} == {
            f"alphafold/alphafold_iteration/predicted_aligned_error_head/logits//{name}" for name in ("weights", "bias")
        }
        assert all(np.array_equal(read[key], whole[key]) for key in read)
        arrays = dict(whole)
    for cut in ("predicted_aligned_error_head/logits//bias", "evoformer/left_single//bias"):
        np.savez(tmp_path / "cut.npz", **{key: array for key, array in arrays.items() if not key.endswith(cut)})
        with pytest.raises(ParamsError, match=rf"1 missing \(.*{cut}"):
            store.load(tmp_path / "cut.npz", network, draw_heads=5)


def test_state_of_another_network_is_not_written(tmp_path):
    config = preset("model_3", evoformer_blocks=1, extra_msa_blocks=1)
    state = init_state(config, 0, zero_final=False)
    for other in ("model_3_ptm", "model_3"):
        with pytest.raises(ParamsError, match=f"not those of {other}"):
            store.save(state, PRESETS[other], tmp_path / "params.npz")
    half = jax.tree.map(lambda x: x.astype("bfloat16"), state)
    with pytest.raises(ParamsError, match="not float32"):
        store.save(half, config, tmp_path / "params.npz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("layout", drawn.PRESETS_OF)
def test_file_of_another_preset_is_told_from_its_headers(layout, tmp_path):
    path = tmp_path / "params.npz"
    with_no_data = {key: np.broadcast_to(np.float32(0), shape) for key, shape in drawn.shapes(layout).items()}
    specs = {key: (array.shape, array.dtype) for key, array in with_no_data.items()}
    specs = {key: fit.Spec(*spec) for key, spec in specs.items()}
    assert list(fit.fitting(specs)) == sorted(drawn.PRESETS_OF[layout], key=list(PRESETS).index)
    other = "model_1" if layout != "model_1" else "model_1_multimer_v3"
    with pytest.raises(ParamsError) as caught:
        fit.require(path, specs, PRESETS[other])
    message = str(caught.value)
    assert f"does not fit {other}" in message
    assert f"it fits {', '.join(fit.fitting(specs))}" in message
    assert "\n" not in message


def refit(small_file, tmp_path, **changes):
    """The message about a drawn model_3 file in which some arrays are replaced, or, where None, left out."""
    with np.load(small_file("model_3")) as file:
        arrays = {key: file[key] for key in file.files} | changes
    path = tmp_path / "params_model_3.npz"
    np.savez(path, **{key: array for key, array in arrays.items() if array is not None})
    with pytest.raises(ParamsError) as caught:
        store.load(path, small("model_3"))
    return str(caught.value)


BIAS = "alphafold/alphafold_iteration/distogram_head/half_logits//bias"


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (None, f"1 missing ({BIAS})"),
        (np.zeros(63, np.float32), f"1 misshaped ({BIAS} (63,) instead of (64,))"),
        (np.zeros(64, np.float16), f"1 of another type ({BIAS} float16 instead of float32)"),
        (np.array([1, np.nan] * 32, np.float32), f"32 of the 64 numbers of {BIAS} are not finite"),
        (np.array([np.inf] + [0] * 63, np.float32), f"1 of the 64 numbers of {BIAS} are not finite"),
    ],
    ids=["missing", "shape", "type", "nan", "inf"],
)
def test_single_faults_are_named(array, message, small_file, tmp_path):
    assert message in refit(small_file, tmp_path, **{BIAS: array})


def test_unexpected_arrays_are_counted_and_the_first_named(small_file, tmp_path):
    message = refit(small_file, tmp_path, **{f"mine//{n}": np.zeros(2, np.float32) for n in range(7)})
    assert "7 unexpected (mine//0, mine//1, mine//2, …)" in message


def test_nearest_preset_is_named_when_none_fits(small_file, tmp_path):
    message = refit(small_file, tmp_path, **{BIAS: None})
    assert "it fits no preset; nearest is model_3: " in message


def test_file_of_something_else_is_recognised(tmp_path):
    path = tmp_path / "image.npz"
    np.savez(path, pixels=np.zeros((2, 2)))
    with pytest.raises(ParamsError, match="DeepMind's keys begin with alphafold/alphafold_iteration"):
        store.load(path, small("model_3"))


def test_truncated_and_pickled_files_are_reported(small_file, tmp_path):
    path = tmp_path / "params.npz"
    path.write_bytes(small_file("model_3").read_bytes()[:-1000])
    with pytest.raises(ParamsError, match="cut short or damaged"):
        store.load(path, small("model_3"))
    np.savez(path, **{BIAS: np.array([{}], dtype=object)})
    with pytest.raises(ParamsError, match="pickled"):
        store.load(path, small("model_3"))


MEASURE = """
import json, sys, time
from pathlib import Path
from fastfold_jax.config.presets import PRESETS
from fastfold_jax.params import fit, store
import jax, jax.numpy as jnp

def memory(kind):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))

config, path, again = PRESETS[sys.argv[1]], Path(sys.argv[2]), Path(sys.argv[3])
fit.storage(config)                                  # tracing the network is no part of reading
jax.block_until_ready(jnp.zeros(1) + 1)              # nor is starting JAX
Path("/proc/self/clear_refs").write_text("5")        # forget the peak so far, which a process inherits, too
before, start = memory("VmRSS"), time.perf_counter()
state = jax.block_until_ready(store.load(path, config))
seconds, used = time.perf_counter() - start, memory("VmHWM") - before
start = time.perf_counter()
store.save(state, config, again)
print(json.dumps({"seconds": seconds, "bytes": used, "save_seconds": time.perf_counter() - start}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to measure a process's peak memory")
@pytest.mark.parametrize("layout", drawn.PRESETS_OF)
def test_full_size_is_read_fast_and_leanly(layout, tmp_path):
    path, again = drawn.write(tmp_path / "params.npz", drawn.shapes(layout)), tmp_path / "again.npz"
    command = [sys.executable, "-c", MEASURE, layout, str(path), str(again)]
    output = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    measured = json.loads(output)
    size = path.stat().st_size
    print(f"{layout}: {size / 1e6:.0f} MB, {measured['bytes'] / size:.2f} of it in memory, {measured}")
    assert measured["seconds"] < 10
    assert measured["bytes"] <= 1.5 * size
    assert_equal_files(path, again)
