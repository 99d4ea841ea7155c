"""The benchmark of kernels loses nothing that it measured, and compares with peaks of the very GPU and type."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import kernel_cases  # noqa: E402
import kernels  # noqa: E402


def _case(operation, shape=(8, 8), **sides):
    return kernel_cases.Case(
        operation=operation,
        size="8 x 8",
        arrays=(jax.ShapeDtypeStruct(shape, "float32"),),
        differentiated=(0,),
        work=kernel_cases.Work(flops=1024, exponentials=0, bytes=512),
        sides={"xla": lambda x: x @ x, **sides},
    )


@pytest.fixture
def run(monkeypatch, tmp_path):
    """The benchmark's report on cases and other flags, on the CPU under a GPU's name."""

    def run(cases, *flags, name="NVIDIA H200"):
        device = jax.devices("cpu")[0]
        place = jax.sharding.SingleDeviceSharding(device)
        monkeypatch.setattr(kernels, "target", lambda capability: (jax.default_device(device), place, name))
        monkeypatch.setattr(kernel_cases, "all_of", lambda *_: cases)
        path = tmp_path / "report.json"
        monkeypatch.setattr("sys.argv", ["kernels.py", "--rounds", "2", "--json", str(path), *flags])
        try:
            kernels.main()
        finally:
            run.rows = json.loads(path.read_text())["results"]
        return run.rows

    return run


def test_what_fails_is_a_row_and_the_rest_goes_on(run):
    def refuses(x):
        raise ValueError("no such shape\nand more")

    huge = _case("huge", (2**40, 2**10))
    rows = run([_case("small", peer=refuses), huge, _case("last")])
    assert [(row["operation"], row.get("side")) for row in rows] == [
        *[("small", "xla"), ("small", "peer")] * 2,
        *[("huge", None)] * 2,
        *[("last", "xla")] * 2,
    ]
    assert rows[1]["note"] == "ValueError: no such shape" and "ms" in rows[0] and "ms" in rows[-1]
    assert rows[4]["note"] and "\n" not in rows[4]["note"]


def test_the_report_is_written_after_every_case(run):
    def cases():
        yield _case("first")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(cases())
    assert [row["operation"] for row in run.rows] == ["first", "first"]


def test_a_side_that_fails_in_a_later_round_does_not_stop_the_others():
    calls = []

    def fails_late(x):
        calls.append(None)
        if len(calls) > 2:
            raise RuntimeError("RESOURCE_EXHAUSTED")
        return x

    times = kernels.time_sides({"a": fails_late, "b": jnp.sin, "c": "not installed"}, (jnp.ones(4),), 3)
    assert times["a"] == "RuntimeError: RESOURCE_EXHAUSTED" and times["c"] == "not installed"
    assert isinstance(times["b"], float)


def test_no_result_is_held_while_the_next_is_made():
    alive = []

    class Result:
        def __init__(self):
            alive.append(self.__class__)

        def __del__(self):
            alive.pop()

    def program():
        assert not alive
        return Result()

    assert kernels.seconds_each(program, (), 4) > 0 and not alive


def test_float32_is_float32_on_all_sides_and_measured_by_its_own_peak(run):
    seen = []

    def peer(x):
        seen.append(jax.config.jax_default_matmul_precision)
        return x @ x

    bfloat16, float32 = (run([_case("product", peer=peer)], "--dtype", kind) for kind in ("bfloat16", "float32"))
    assert seen[0] is None and seen[-1] == "highest"
    peaks = kernels.PEAKS["NVIDIA H200"][0]
    for rows, peak in ((bfloat16, peaks["bfloat16"]), (float32, peaks["float32"])):
        for row in rows:
            flops = 1024 if row["pass"] == "forward" else 3.5 * 1024
            floor = max(flops / peak, (512 if row["pass"] == "forward" else 1536) / 4.8) / 1e12
            assert row["floor"] * row["ms"] / 1e3 == pytest.approx(floor)


@pytest.mark.parametrize("name", ["NVIDIA H100 PCIe", "NVIDIA GH200 480GB"])
def test_a_gpu_whose_peaks_are_not_known_has_no_fraction_of_them(run, name):
    assert all("floor" not in row and "ms" in row for row in run([_case("product")], name=name))
