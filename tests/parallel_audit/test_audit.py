"""The audit on small programs whose answer is known: text written by hand, and programs compiled for an H200."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from parallel import make_mesh
from parallel.audit import target
from parallel.audit.cost import Machine, Work, bytes_sent, collective_seconds, compute, within_operations
from parallel.audit.hlo import Shape, parse
from parallel.audit.profile import compile_profiled, profile_text
from parallel.audit.schedule import durations, play

# 1 TFLOP/s, 1 TB/s of memory, 1 GB/s links, 1 ms latency: easy numbers.
EASY = Machine(
    matmul_tflops=1.0,
    matmul_float32_tflops=0.5,
    memory_tbs=1.0,
    link_gbs=1.0,
    network_gbs=0.1,
    latency_us=1000.0,
    devices_per_node=4,
)

PROGRAM = """HloModule jit_f, is_scheduled=true, entry_computation_layout={()->()}, num_partitions=4

%gemm (a: bf16[1000,1000], b: bf16[1000,1000]) -> bf16[1000,1000] {
  %a = bf16[1000,1000]{1,0} parameter(0)
  %b = bf16[1000,1000]{1,0} parameter(1)
  ROOT %dot.1 = bf16[1000,1000]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (p: (s32[], bf16[1000,1000])) -> (s32[], bf16[1000,1000]) {
  %p = (s32[], bf16[1000,1000]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = bf16[1000,1000]{1,0} get-tuple-element(%p), index=1
  %all-to-all-start = ((bf16[1000,1000]{1,0}), bf16[1000,1000]{1,0}) all-to-all-start(%x), EXCHANGE
  %product = bf16[1000,1000]{1,0} fusion(%x, %x), kind=kCustom, calls=%gemm
  %all-to-all-done = bf16[1000,1000]{1,0} all-to-all-done(%all-to-all-start)
  %all-gather-start = (bf16[1000,250]{1,0}, bf16[1000,1000]{1,0}) all-gather-start(%part), replica_groups=[2,2]<=[4]
  %part = bf16[1000,250]{1,0} parameter(1)
  %all-gather-done = bf16[1000,1000]{1,0} all-gather-done(%all-gather-start)
  ROOT %t = (s32[], bf16[1000,1000]{1,0}) tuple(%i, %product)
}

%cond (q: (s32[], bf16[1000,1000])) -> pred[] {
  %q = (s32[], bf16[1000,1000]{1,0}) parameter(0)
  ROOT %less = pred[] constant(true)
}

ENTRY %main (arg: (s32[], bf16[1000,1000])) -> (s32[], bf16[1000,1000]) {
  %arg = (s32[], bf16[1000,1000]{1,0}) parameter(0)
  ROOT %loop = (s32[], bf16[1000,1000]{1,0}) while(%arg), condition=%cond, body=%body, TRIPS
}
"""
PROGRAM = PROGRAM.replace(
    "EXCHANGE", 'channel_id=1, replica_groups={{0,1,2,3}}, metadata={op_name="jit(f)/while/body/exchange"}'
).replace("TRIPS", 'backend_config={"known_trip_count":{"n":"3"}}')


def test_reads_what_is_there():
    module = parse(PROGRAM)
    assert module.entry == "main" and module.num_partitions == 4
    assert set(module.computations) == {"gemm", "body", "cond", "main"}
    body = module.computations["body"].by_name()
    exchange = body["all-to-all-start"]
    assert exchange.opcode == "all-to-all-start" and exchange.operands == ("x",)
    assert exchange.groups == ((0, 1, 2, 3),) and exchange.source == "jit(f)/while/body/exchange"
    assert exchange.shapes == (Shape("bf16", (1000, 1000)),) * 2
    assert body["all-gather-start"].groups == ((0, 1), (2, 3))
    assert module.computations["body"].root == "t"
    loop = module.computations["main"].instructions[-1]
    assert loop.trip_count == 3 and set(loop.called) == {"cond", "body"}


def test_counts_hidden_and_exposed():
    """2 GFLOP take 2 ms, beside an exchange of 1.5 MB in 2.5 ms; then a gather has nothing to hide behind."""
    whole = play(parse(PROGRAM), EASY)
    (loop,) = whole.loops
    exchange, gather = loop.collectives
    assert loop.trips == 3 and exchange.kind == "all-to-all" and exchange.devices == 4
    assert exchange.bytes == pytest.approx(2e6 * 3 / 4)
    assert exchange.seconds == pytest.approx(1.5e-3 + 1e-3)
    assert exchange.between == pytest.approx(2e-3)
    assert exchange.exposed == pytest.approx(0.5e-3)
    assert exchange.hidden_bytes == pytest.approx(1.5e6 * 0.8)
    assert gather.devices == 2 and gather.bytes == pytest.approx(2e6 / 2)
    assert gather.exposed == pytest.approx(gather.seconds) == pytest.approx(2e-3)
    assert loop.seconds == pytest.approx(2.5e-3 + 2e-3)
    assert whole.seconds == pytest.approx(3 * loop.seconds)
    assert [(times, line.name) for times, line in whole.all()] == [(1, "main"), (3, "body")]


def test_collectives_wait_for_each_other():
    """Two exchanges in flight share the links: the second ends one exchange later."""
    text = PROGRAM.replace(
        "  %all-to-all-done =",
        "  %second-start = ((bf16[1000,1000]{1,0}), bf16[1000,1000]{1,0}) all-to-all-start(%x), "
        "replica_groups={{0,1,2,3}}, dimensions={0}\n  %all-to-all-done =",
    ).replace("  ROOT %t =", "  %second-done = bf16[1000,1000]{1,0} all-to-all-done(%second-start)\n  ROOT %t =")
    first, gather, second = play(parse(text), EASY).loops[0].collectives
    assert first.exposed == pytest.approx(0.5e-3)
    # Begins at 2.5 ms and ends at 5; the gather begins then and is waited for until 7, by when the second is long done.
    assert gather.exposed == pytest.approx(5e-3 + 2e-3 - 2.5e-3)
    assert second.exposed == 0.0


def test_a_profile_holds_what_each_instruction_takes():
    seconds = durations(parse(PROGRAM), EASY)
    assert seconds["all-to-all-start"] == pytest.approx(2.5e-3)
    assert seconds["product"] == pytest.approx(2e-3)
    assert 'costs { name: "product" cost_us: 2000.000 }\n' in profile_text(seconds)


def test_xla_takes_the_profile(capfd):
    pytest.importorskip("jax_cuda12_plugin", reason="needs the extra `aot`")
    mesh = make_mesh(dap=2, devices=target.devices("h200", 2))
    rows = jax.P("dap")

    def local(x):
        def body(x, _):
            return jax.lax.all_to_all(jnp.tanh(x @ x.T) @ x, "dap", 0, 0, tiled=True), None

        return jax.lax.scan(body, x, length=3)[0]

    x = jax.ShapeDtypeStruct((512, 256), jnp.bfloat16, sharding=jax.NamedSharding(mesh, rows))
    compiled = compile_profiled(jax.jit(jax.shard_map(local, mesh=mesh, in_specs=rows, out_specs=rows)).lower(x), EASY)
    (loop,) = play(parse(compiled.as_text()), EASY).loops
    assert loop.trips == 3 and [item.kind for item in loop.collectives] == ["all-to-all"]
    # The loop's condition has no time of its own: XLA says what else it found.
    assert "instructions from the profile" in capfd.readouterr().err


def _work(text: str, name: str) -> Work:
    module = parse("HloModule m, is_scheduled=true\n\n" + text)
    computation = module.computations[module.entry]
    return compute(computation.by_name()[name], computation, module)


def test_a_fusion_reads_of_a_large_array_what_it_slices_and_writes_in_place():
    text = """%f (p0: f32[48,128], p1: s32[], p2: f32[1,128]) -> f32[48,128] {
  %p0 = f32[48,128]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %p2 = f32[1,128]{1,0} parameter(2)
  %zero = s32[] constant(0)
  %old = f32[1,128]{1,0} dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,128}
  %sum = f32[1,128]{1,0} add(%old, %p2)
  ROOT %new = f32[48,128]{1,0} dynamic-update-slice(%p0, %sum, %p1, %zero)
}

ENTRY %main (x: f32[48,128], i: s32[], y: f32[1,128]) -> f32[48,128] {
  %x = f32[48,128]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %y = f32[1,128]{1,0} parameter(2)
  ROOT %out = f32[48,128]{1,0} fusion(%x, %i, %y), kind=kLoop, calls=%f
}
"""
    assert _work(text, "out") == Work(bytes=3 * 128 * 4 + 4)


@pytest.mark.parametrize(
    ("target", "precision", "kind"),
    [("__cublas$gemm", "DEFAULT", "tf32_flops"), ("__cublas$lt$matmul", "HIGHEST", "float32_flops")],
)
def test_library_products_count_like_any(target, precision, kind):
    attributes = f'custom_call_target="{target}", backend_config={{"operand_precision":["{precision}","{precision}"]}}'
    text = f"""ENTRY %main (a: f32[4,8,16], b: f32[4,16,32]) -> f32[4,8,32] {{
  %a = f32[4,8,16]{{2,1,0}} parameter(0)
  %b = f32[4,16,32]{{2,1,0}} parameter(1)
  ROOT %c = (f32[4,8,32]{{2,1,0}}, s8[1024]{{0}}) custom-call(%a, %b), {attributes}
}}
"""
    work = _work(text, "c")
    assert getattr(work, kind) == pytest.approx(2 * 4 * 8 * 16 * 32)
    assert work.flops + work.tf32_flops + work.float32_flops == getattr(work, kind)


@pytest.mark.parametrize(
    ("attribute", "kind"), [("", "tf32_flops"), (", operand_precision={highest,highest}", "float32_flops")]
)
def test_float32_products_are_rated_by_their_precision(attribute, kind):
    text = f"""ENTRY %main (a: f32[8,16], b: f32[16,32]) -> f32[8,32] {{
  %a = f32[8,16]{{1,0}} parameter(0)
  %b = f32[16,32]{{1,0}} parameter(1)
  ROOT %c = f32[8,32]{{1,0}} dot(%a, %b), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}{attribute}
}}
"""
    assert getattr(_work(text, "c"), kind) == 2 * 8 * 16 * 32


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("all-to-all", 7.0),
        ("all-gather", 7.0),
        ("reduce-scatter", 7.0),
        ("all-reduce", 14.0),
        ("collective-permute", 8),
    ],
)
def test_bytes_of_collectives(kind, sent):
    assert bytes_sent(kind, 8, 8) == sent
    assert bytes_sent(kind, 8, 1) == 0


def test_links_between_nodes_are_slower():
    """Nodes of four with 0.1 GB/s a device between them: one device a node has its own share, four share the load."""
    assert collective_seconds(1e6, (0, 1, 2, 3), EASY) == pytest.approx(1e-3 + 1e-3)
    assert collective_seconds(1e6, (0, 4), EASY) == pytest.approx(10e-3 + 1e-3)
    assert collective_seconds(1e6, tuple(range(8)), EASY) == pytest.approx(2.5e-3 + 1e-3)


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("{{0,2},{1,3}}", ((0, 2), (1, 3))),
        ("[2,4]<=[8]", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("[4,2]<=[2,4]T(1,0)", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("mesh['data'=2,'dap'=2] {'dap'}", ((0, 1), (2, 3))),
        ("mesh['data'=2,'dap'=2] {'data'}", ((0, 2), (1, 3))),
        ("mesh['data'=2,'dap'=2] {'data','dap'}", ((0, 1, 2, 3),)),
    ],
)
def test_replica_groups(text, groups):
    assert _reduction(text).groups == groups


def test_replica_groups_of_an_unknown_form_are_not_taken_for_all_devices():
    with pytest.raises(ValueError, match="unknown form: replica_groups=new"):
        _ = _reduction("new(4)").groups


def _reduction(groups):
    line = f"  ROOT %r = f32[8]{{0}} all-reduce(%x), replica_groups={groups}, to_apply=%add"
    module = parse(f"HloModule m, is_scheduled=true\n\nENTRY %main (x: f32[8]) -> f32[8] {{\n{line}\n}}\n")
    return module.computations["main"].instructions[0]


SCOPES = """ENTRY %main (q: bf16[8,8], k: bf16[8,8]) -> bf16[8,8] {
  %q = bf16[8,8]{1,0} parameter(0)
  %k = bf16[8,8]{1,0} parameter(1)
  %scores = f32[8,8]{1,0} multiply(%q, %k), metadata={op_name="jit(f)/op.attention/qk"}
  %view = f32[64]{0} bitcast(%scores)
  %weights = bf16[8,8]{1,0} exponential(%view), metadata={op_name="jit(f)/op.attention/exp"}
  %out = bf16[8,8]{1,0} multiply(%weights, %k), metadata={op_name="jit(f)/op.attention/av"}
  %other = bf16[8,8]{1,0} add(%out, %q), metadata={op_name="jit(f)/op.transition/add"}
  ROOT %sum = bf16[8,8]{1,0} add(%other, %out)
}
"""


def test_what_one_operation_alone_reads_costs_a_fused_kernel_nothing():
    module = parse("HloModule m, is_scheduled=true\n\n" + SCOPES)
    computation = module.computations["main"]
    kept = within_operations(computation)
    assert kept == {"scores", "view", "weights"}
    by_name = computation.by_name()
    sizes = {name: compute(by_name[name], computation, module, kept).bytes for name in ("scores", "weights", "out")}
    assert sizes == {"scores": 2 * 128, "weights": 0, "out": 2 * 128}
    assert compute(by_name["weights"], computation, module).bytes == 256 + 128


def test_other_text_is_refused():
    with pytest.raises(ValueError, match="not the text of a compiled program"):
        parse("module @jit_f { }")
    with pytest.raises(ValueError, match="accepted are numbers above 0"):
        Machine(link_gbs=0)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The command on two blocks, 64 residues, two H200s."""
    pytest.importorskip("jax_cuda12_plugin", reason="needs the extra `aot`")
    out = tmp_path_factory.mktemp("audit") / "audit.json"
    command = [sys.executable, "-m", "parallel.audit", "--part", "block-training", "--blocks", "2", "--residues", "64"]
    command += ["--rows", "16", "--dap", "2", "--data", "2", "--remat", "--json", str(out)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(out.read_text())


def test_the_command_prints_and_writes(compiled):
    text, report = compiled
    assert "all-to-all" in text and "memory a device" in text and "efficiency on 2" in text
    assert report["audit"]["devices"] == 2 and 0 < report["efficiency"] < 1
    assert report["machine"]["matmul_tflops"] == 790.0


def test_parameter_gradients_reduce_once_outside_the_blocks(compiled):
    """Over all four devices, in the program's entry; inside the scans only activations are exchanged."""
    computations = compiled[1]["audit"]["computations"]
    loops = [line for line in computations if line["runs"] == 2]
    assert len(loops) == 2  # forward, backward
    for line in loops:
        assert not any(item["kind"] == "all-reduce" for item in line["collectives"])
        assert all(item["devices"] == 2 for item in line["collectives"])
    (entry,) = [line for line in computations if line["runs"] == 1]
    reductions = [item for item in entry["collectives"] if item["kind"] == "all-reduce"]
    assert reductions and all(item["devices"] == 4 for item in reductions)
