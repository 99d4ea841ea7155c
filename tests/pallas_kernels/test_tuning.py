"""Tables of block sizes: every kernel has some, and the GPU's own come first."""

import json
import math
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import pytest

from pallas_kernels import launch, tuning

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))


def test_every_specimen_has_block_sizes():
    import specimens

    names, asked = set(), []
    for specimen in (*specimens.all_of(), *specimens.of_mosaic()):
        for kernel in specimen.kernels:
            assert tuning.config(kernel, **specimen.when).blocks
            names.add(kernel)
            asked.append((kernel, specimen.when.items()))
    tables = {path.stem: json.loads(path.read_text()) for path in (ROOT / "pallas_kernels" / "tuned").glob("*.json")}
    assert names == set(tables["default"]), "a kernel that nothing compiles"
    for name, table in tables.items():
        for kernel, entries in table.items():
            for entry in entries:
                met = any(kernel == other and entry["when"].items() <= when for other, when in asked)
                assert met or name == "default", f"{name}: nothing compiles {kernel} when {entry['when']}"


def test_a_gpus_own_table_comes_before_its_capabilitys_its_familys_and_the_default(tmp_path, monkeypatch):
    def entry(rows, **when):
        return {"when": when, "blocks": {"BLOCK_R": rows}, "num_warps": 4, "num_stages": 2}

    (tmp_path / "tuned").mkdir()
    for name, entries in {
        "default": [entry(1, dtype="float32"), entry(2)],
        "sm80": [entry(5, channels=64), entry(6, channels=128)],
        "sm86": [entry(7, channels=64)],
        "sm90": [entry(3, channels=128)],
        "nvidia_h200": [entry(4, channels=64)],
    }.items():
        (tmp_path / "tuned" / f"{name}.json").write_text(json.dumps({"kernel": entries}))
    monkeypatch.setattr(tuning.resources, "files", lambda package: tmp_path)
    tuning._table.cache_clear()
    try:
        with launch.compiling_for(90, "NVIDIA H200"):
            sizes = [
                tuning.config("kernel", dtype=dtype, channels=channels).blocks["BLOCK_R"]
                for dtype, channels in [("float32", 64), ("float32", 128), ("float32", 32), ("bfloat16", 32)]
            ]
            with pytest.raises(LookupError, match="no block sizes for other"):
                tuning.config("other")
        with launch.compiling_for(86):
            sizes += [tuning.config("kernel", channels=channels).blocks["BLOCK_R"] for channels in (64, 128, 32)]
    finally:
        tuning._table.cache_clear()
    assert sizes == [4, 3, 1, 2, 7, 6, 2]


def test_kernels_compile_where_sizes_are_one():
    """jax-triton makes such a size a constant, and what was a tensor in the kernel becomes a number."""
    import compile_kernels
    import jax.numpy as jnp

    from pallas_kernels.attention import triton as attention
    from pallas_kernels.layer_norm import triton as layer_norm
    from pallas_kernels.outer_product_mean import triton as outer
    from pallas_kernels.softmax import triton as softmax
    from pallas_kernels.transition import triton as transition
    from pallas_kernels.triangle_multiplication import triton as triangle

    def array(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype)

    def narrow(*shape):
        return array(*shape, dtype=jnp.bfloat16)

    q, vector, affine = narrow(1, 16, 1, 16), array(32), (array(32, 32), array(32))
    arrays, statistics = (q, q, q, narrow(1, 16, 16), array(1, 16), q), array(1, 1, 16)
    norm, z, row = (vector, vector), narrow(4, 4, 32), narrow(1, 32)
    double = array(32, 64), array(64)
    wide = (array(32, 128), array(128)), (array(128, 32), vector)
    calls = [
        (attention.attention, arrays, {}),
        (attention.attention_backward, (arrays, (q, statistics, statistics), q), {"wanted": (0, 1, 2, 3)}),
        (layer_norm.layer_norm, (row, vector, vector), {}),
        (layer_norm.layer_norm_backward, ((row, *norm), (), row), {"wanted": (0, 1, 2)}),
        (softmax.softmax, (array(1, 1, 1, 16), None, None), {}),
        (transition.transition, (row, norm, *wide), {}),
        (triangle.producer, (z, array(4, 4), norm, double, double), {}),
        (triangle.consumer, (narrow(32, 4, 4), z, (norm, norm), affine, affine), {}),
        (outer.outer_product_mean, (narrow(1, 1, 32), narrow(1, 1, 32), array(32, 32, 32), vector, array(1, 1)), {}),
    ]
    with launch.compiling_for(90):
        requests = [r for function, args, static in calls for r in compile_kernels.launches(function, *args, **static)]
    assert len(requests) == 11 and all(1 in request.sizes for request in requests)
    for request in requests:
        assert compile_kernels.compile_launch(request, 90).spill_bytes == 0, request.kernel.__name__


def test_mosaic_kernels_compile_and_spill_nothing():
    import compile_kernels
    import specimens

    pytest.importorskip("jax_cuda12_plugin", reason="needs the extra `aot`")
    for specimen in specimens.of_mosaic():
        if specimen.note != "q, k, v alone":
            usage = compile_kernels.compile_mosaic(specimen)
            assert usage.spill_bytes == 0 and 128 <= usage.registers <= 168, specimen.kernels
            assert usage.shared_bytes <= compile_kernels.SHARED_LIMIT[90], specimen.kernels


@pytest.mark.parametrize(("capability", "newest"), [(90, 8.7), (103, 8.8), (121, 8.8)])
def test_kernels_are_written_for_the_cuda_that_jax_runs_on(capability, newest):
    """CUDA 12 ends with PTX 8.8; Triton by itself may write for CUDA 13."""
    import compile_kernels
    import specimens

    specimen = next(s for s in specimens.all_of() if s.kernels == ("softmax_forward",))
    (request,) = compile_kernels.launches(specimen.function, *specimen.arrays)
    ptx, _ = compile_kernels.assembly(request, capability)
    assert f".version {newest}\n" in ptx and f".target sm_{capability}a" in ptx
    assert compile_kernels.compile_launch(request, capability).spill_bytes == 0
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["cuda"]
    (floor,) = (found[1] for x in extra if (found := re.match(r"nvidia-cuda-nvcc-cu12>=([\d.]+)", x)))
    assert float(floor) >= {8.7: 12.8, 8.8: 12.9}[newest], "that CUDA knows no such PTX"


def _usual(kernel, capability, **when):
    """What the network's form of a kernel compiles to in bfloat16, its blocks and its warps."""
    import compile_kernels
    import specimens

    when = {"dtype": "bfloat16", **when}
    specimen = next(s for s in specimens.all_of() if kernel in s.kernels and s.usual and s.when == when)
    with launch.compiling_for(capability):
        requests = compile_kernels.launches(specimen.function, *specimen.arrays, **specimen.static)
    request = requests[specimen.kernels.index(kernel)]
    usage = compile_kernels.compile_launch(request, capability)
    assert usage.spill_bytes == 0 and usage.shared_bytes <= compile_kernels.SHARED_LIMIT[capability]
    return usage, request.config.blocks, request.config.num_warps


@pytest.mark.parametrize("capability", [80, 90])
def test_no_two_warps_make_the_same_scores(capability):
    """Where there are more warps than rows of a tile for them, Triton has them repeat each other's work."""
    for kernel in ("attention_backward_keys", "attention_backward_bias", "attention_backward_queries"):
        usage, blocks, warps = _usual(kernel, capability, dim=32)
        assert f"{blocks['BLOCK_Q'] * blocks['BLOCK_K'] // (32 * warps)} ex2" in usage.instructions.split(", "), kernel


@pytest.mark.parametrize("channels", [64, 128])
def test_hopper_multiplies_by_warpgroups_and_nothing_twice(channels):
    usage, blocks, warps = _usual("transition_forward", 90, channels=channels)
    found = re.findall(r"(\d+) wgmma\.mma_async m(\d+)n(\d+)k(\d+)", usage.instructions)
    made = warps // 4 * sum(math.prod(map(int, numbers)) for numbers in found)
    assert made == 2 * channels * blocks["BLOCK_R"] * blocks["BLOCK_F"]
    usage, _, _ = _usual("triangle_producer", 90, channels=channels)
    assert "wgmma" in usage.instructions and " mma " not in usage.instructions


def test_one_form_of_a_kernel_is_tuned_for_each_entry_of_a_table():
    """The one with bias and mask, and no entry for two types: the last tuned would stand for both."""
    import specimens

    kernels = [
        (kernel, tuple(specimen.when.items()), specimen)
        for specimen in (*specimens.all_of(), *specimens.of_mosaic())
        for kernel in specimen.kernels
    ]
    usual = [(kernel, when) for kernel, when, specimen in kernels if specimen.usual]
    assert len(usual) == len(set(usual)) and set(usual) == {(kernel, when) for kernel, when, _ in kernels}
    for kernel, _, specimen in kernels:
        if specimen.usual and kernel.startswith("attention"):
            assert specimen.note == "" and None not in jax.tree.leaves(specimen.arrays, is_leaf=lambda x: x is None)


def test_tuning_leaves_out_a_candidate_that_fails_and_keeps_what_it_found(tmp_path, monkeypatch, capsys):
    import specimens
    import tune_kernels

    def specimen(kernel):
        def function(x):
            if tuning.config(kernel).num_warps == 8:
                raise RuntimeError("too many warps\nand more")
            return x + 1

        x = jax.ShapeDtypeStruct((4,), "float32")
        return specimens.Specimen(kernels=(kernel,), when={"dtype": "float32"}, function=function, arrays=(x,))

    four, eight = (launch.Config(blocks={"BLOCK_R": 1}, num_warps=n, num_stages=2) for n in (4, 8))
    found = {"some": [four, eight], "none": [eight], "other": [four]}
    monkeypatch.setattr(tune_kernels, "TABLES", tmp_path)
    (tmp_path / "nvidia_h200.json").write_text(json.dumps({"other": [{"when": {}, "blocks": {}}]}))
    monkeypatch.setattr(specimens, "all_of", lambda n: map(specimen, found))
    monkeypatch.setattr(tune_kernels, "candidates", lambda kernel, when: found[kernel])
    monkeypatch.setattr(tune_kernels, "fits", lambda *_: True)
    monkeypatch.setattr("sys.argv", ["tune_kernels.py", "--rounds", "1"])
    with launch.compiling_for(80, "NVIDIA H200"):
        tune_kernels.main()
    table = json.loads((tmp_path / "nvidia_h200.json").read_text())
    assert [e["num_warps"] for e in table["some"]] == [4] and "none" not in table
    assert table["other"][0]["when"] == {"dtype": "float32"}, "an entry for everything hides the one that was tuned"
    said = capsys.readouterr().out
    assert said.count("left out: RuntimeError: too many warps\n") == 2
    assert "none {'dtype': 'float32'}: not tuned: LookupError: no candidate runs" in said


def test_tuning_drops_what_does_not_fit():
    """A candidate whose tiles exceed shared memory compiles to nothing that could run."""
    import specimens
    import tune_kernels

    specimen = next(s for s in specimens.all_of() if s.kernels == ("softmax_forward",))
    small, huge = (launch.Config(blocks={"BLOCK_K": size}, num_warps=4, num_stages=2) for size in (256, 2**21))
    assert tune_kernels.fits(specimen, "softmax_forward", small, 90)
    assert not tune_kernels.fits(specimen, "softmax_forward", huge, 90)


def test_the_report_compiles_and_the_benchmark_needs_neither_flax_nor_orbax():
    command = [sys.executable, "benchmarks/compile_kernels.py", "--capabilities", "80", "--only", "softmax"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("softmax_forward") == 2 and "spill_bytes" in done.stdout
    code = "import sys; sys.path.insert(0, 'benchmarks'); import kernels; print({'flax', 'orbax'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
