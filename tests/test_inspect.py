"""``python -m bench.compiler.inspect``: how it reads, what it refuses, and the budget of every kernel we ship."""

import ast
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
from typing import Any

import pytest
import torch

from bench.compiler import inspect
from bench.compiler.shipped import SHIPPED
from tests.conftest import ROOT

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

from bench.compiler import aot, ttir  # noqa: E402
from stylenerf.kernels.base.launch import Launch  # noqa: E402

LISTING = """
.text._kernel:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0020*/              @UP1 UMOV UR6, 0x400 ;
        /*0030*/                   LDGSTS.E.BYPASS.128 [R6], desc[UR4][R2.64] ;
        /*0040*/                   HGMMA.64x64x16.F32 R24, gdesc[UR8], R24 ;
        /*0050*/                   HMMA.16816.F32 R8, R4, R12, R8 ;
        /*0060*/                   UTCHMMA gdesc[UR6], gdesc[UR12], tmem[UR10], tmem[UR14], idesc[UR15] ;
        /*0070*/                   UTCBAR [UR7], URZ ;
        /*0080*/                   UTMALDG.2D [UR8], [UR4] ;
        /*0090*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*00a0*/                   STL [R1], R3 ;
        /*00b0*/                   LDL.64 R2, [R1] ;
        /*00c0*/               @P2 BRA `(.L_x_1) ;
.L_x_1:
        /*00d0*/                   EXIT ;
        /*00e0*/                   NOP;
"""


def test_counts_instructions() -> None:
    ones = ("local_loads", "local_stores", "barriers", "hmma", "hgmma", "utcmma", "ldgsts", "utmaldg")
    assert aot.count_instructions(LISTING) == {**dict.fromkeys(ones, 1), "instructions": 14}


def test_reads_resources_of_the_largest_function() -> None:
    text = (
        " Function callee:\n  REG:12 STACK:16 SHARED:0 LOCAL:0 CONSTANT[0]:0\n"
        " Function _kernel:\n  REG:254 STACK:8 SHARED:1024 LOCAL:0 CONSTANT[0]:600\n"
    )
    assert aot.parse_resources(text) == (254, 16)


def test_refuses_unreadable_resources() -> None:
    with pytest.raises(ValueError, match="no line with REG and STACK in 'nothing'"):
        aot.parse_resources("nothing")


HALF = "tensor<128x32xf16> * tensor<32x64xf16> -> tensor<128x64xf32>"
SINGLE = "tensor<128x32xf32> * tensor<32x64xf32> -> tensor<128x64xf32>"
DOTS = {
    "half": (f"%c = tt.dot %a, %b, %acc : {HALF} loc(#loc1)", ttir.Dot(False, 128, 64, 32, "f16", "ieee")),
    "tf32": (
        f"%c = tt.dot %a, %b, %acc, inputPrecision = tf32 : {SINGLE} loc(#loc1)",
        ttir.Dot(False, 128, 64, 32, "f32", "tf32"),
    ),
    "attributes": (
        f"%c = tt.dot %a, %b, %acc, inputPrecision = tf32x3 {{maxNumImpreciseAcc = 0 : i32}} : {SINGLE}",
        ttir.Dot(False, 128, 64, 32, "f32", "tf32x3"),
    ),
    "batch": (
        "%c = tt.dot %a, %b, %acc : tensor<2x16x32xbf16> * tensor<2x32x8xbf16> -> tensor<2x16x8xf32>",
        ttir.Dot(True, 16, 8, 32, "bf16", "ieee"),
    ),
}


@pytest.mark.parametrize(("line", "dot"), DOTS.values(), ids=DOTS)
def test_reads_dots(line: str, dot: ttir.Dot) -> None:
    assert ttir.parse_dots(f"module {{\n  {line}\n}}") == [dot]


def test_refuses_unreadable_dots() -> None:
    with pytest.raises(ValueError, match=r"cannot read this tt\.dot"):
        ttir.parse_dots("  %c = tt.dot %a, %b")


BASE = ttir.Dot(False, 64, 64, 64, "f16", "ieee")
UNITS = {
    "sm_80": (80, 4, {}, "HMMA"),
    "sm_120": (120, 4, {}, "HMMA"),
    "sm_90": (90, 4, {}, "HGMMA"),
    "sm_90, few rows": (90, 4, {"rows": 32}, "HMMA"),
    "sm_90, few warps": (90, 2, {}, "HMMA"),
    "sm_90, short": (90, 4, {"depth": 8}, "HMMA"),
    "sm_90, batch": (90, 4, {"batched": True}, "HMMA"),
    "sm_90, tf32": (90, 4, {"dtype": "f32", "precision": "tf32"}, "HGMMA"),
    "sm_90, float32": (90, 4, {"dtype": "f32"}, None),
    "sm_90, float64": (90, 4, {"dtype": "f64"}, None),
    "sm_100": (100, 8, {}, "UTCMMA"),
    "sm_100, narrow": (100, 8, {"cols": 8}, "HMMA"),
    "sm_100, many warps": (100, 16, {}, "HMMA"),
}


@pytest.mark.parametrize(("target", "warps", "change", "unit"), UNITS.values(), ids=UNITS)
def test_tensor_cores_follow_from_the_dot(target: int, warps: int, change: dict[str, Any], unit: str | None) -> None:
    assert ttir.tensor_cores(dataclasses.replace(BASE, **change), target, warps) == unit


def loop(body: str, end: str = "}") -> str:
    return f"""module {{
  tt.func public @_kernel(%w_ptr: !tt.ptr<f16> {{tt.divisibility = 16 : i32}} loc("w_ptr"(#loc)), \
%N: i32 loc("N"(#loc)), %D: i32 {{tt.divisibility = 16 : i32}} loc("D"(#loc))) attributes {{noinline = false}} {{
    %c0 = arith.constant 0 : i32
    %c64 = arith.constant 64 : i32
    %range = tt.make_range {{end = 64 : i32, start = 0 : i32}} : tensor<64xi32>
    %w_1 = tt.splat %w_ptr : x
    %n = arith.extsi %N : i32 to i64
    %d = arith.extsi %D : i32 to i64
    %acc = scf.for %k = %c0 to %D step %c64 iter_args(%acc_1 = %acc_0) -> (tensor<128x64xf32>)  : i32 {{
      {body}
      scf.yield %acc_9 : tensor<128x64xf32> loc(#loc1)
    {end} loc(#loc1)
    tt.return loc(#loc1)
  }} loc(#loc1)
}} loc(#loc1)
"""


LOAD = "%w = tt.load %w_1 : tensor<32x64x!tt.ptr<f16>> loc(#loc1)\n"
DOT = f"%acc_9 = tt.dot %h, %b, %acc_1 : {HALF} loc(#loc1)\n"
BRANCH = (
    "%b:2 = scf.if %flag -> (tensor<32x64xf16>, i32) {\n scf.yield %w, %k : tensor<32x64xf16>, i32 loc(#loc1)\n"
    "} else {\n scf.yield %cst, %k : tensor<32x64xf16>, i32 loc(#loc1)\n} loc(#loc1)\n"
)
REDUCE = '%s = "tt.reduce"(%h) <{axis = 1 : i32}> ({\n^bb0(%x: f32, %y: f32):\n%z = arith.addf %x, %y : f32\n}) : f32\n'
ROW = (  # the pointers of LOAD, by rows of length %n
    "%w_2 = arith.muli %range, %n : x\n%w_3 = arith.addi %w_2, %range : x\n"
    "%w_4 = tt.splat %w_ptr : x\n%w_1 = tt.addptr %w_4, %w_3, %k : x\n"
)
PLACE = "%w_1 = tt.addptr %w_ptr, %k : x\n"  # the pointer of LOAD, by the loop's counter
INNER = "%i = scf.for %j = %c0 to %c8 step %c1 iter_args(%i_1 = %acc_1) -> (tensor<128x64xf32>) : i32 {\n"
STREAMS = {
    "loaded and multiplied": (loop(LOAD + "%b = arith.extf %w : x\n" + DOT), 2, True),
    "one stage": (loop(LOAD + "%b = arith.extf %w : x\n" + DOT), 1, False),
    "one stage, but the loop has two": (
        loop(LOAD + "%b = arith.extf %w : x\n" + DOT, "} {tt.num_stages = 2 : i32}"),
        1,
        True,
    ),
    "two stages, but the loop has one": (
        loop(LOAD + "%b = arith.extf %w : x\n" + DOT, "} {tt.num_stages = 1 : i32}"),
        2,
        False,
    ),
    "by descriptor": (loop("%b = tt.descriptor_load %w[%k] : x\n" + DOT), 2, True),
    "through a branch": (loop(LOAD + BRANCH + DOT.replace("%b", "%b#0")), 2, True),
    "beside a reduction": (loop(LOAD + REDUCE + "%b = arith.extf %w : x\n" + DOT), 2, True),
    "rows of any length": (loop(ROW + LOAD + DOT.replace("%b", "%w")), 2, False),
    "rows of any length, float32": (loop(ROW + LOAD.replace("f16", "f32") + DOT.replace("%b", "%w")), 2, True),
    "rows of 16": (loop(ROW.replace("%n", "%d") + LOAD + DOT.replace("%b", "%w")), 2, True),
    "rows of any length, a declared multiple": (
        loop(ROW.replace("%k :", "%k {tt.divisibility = dense<2> : tensor<1xi32>} :") + LOAD + DOT.replace("%b", "%w")),
        2,
        True,
    ),
    "any number of rows of 16": (
        loop("%r = arith.muli %n, %d : x\n" + ROW.replace("%n", "%r") + LOAD + DOT.replace("%b", "%w")),
        2,
        True,
    ),
    "masked at any length": (loop(LOAD.replace("%w_1", "%w_ptr, %n") + DOT.replace("%b", "%w")), 2, True),
    "from any place": (loop(PLACE + LOAD + DOT.replace("%b", "%w")).replace("%k = %c0", "%k = %n"), 2, False),
    "in steps of any length": (loop(PLACE + LOAD + DOT.replace("%b", "%w")).replace("%c64", "%n"), 2, False),
    "in steps of 64": (loop(PLACE + LOAD + DOT.replace("%b", "%w")), 2, True),
    "carried from any place": (
        loop(PLACE.replace("%k", "%p") + LOAD + DOT.replace("%b", "%w")).replace("(%acc_1", "(%p = %n, %acc_1"),
        2,
        False,
    ),
    "loaded for the epilogue": (loop(LOAD + DOT + "%o = arith.addf %acc_9, %w : x\n"), 2, False),
    "multiplied in an inner loop": (loop(LOAD + INNER + DOT.replace("%b", "%w") + "} loc(#loc1)\n"), 2, False),
    "loaded before the loop": (LOAD + loop(DOT.replace("%b", "%w")), 2, False),
}


@pytest.mark.parametrize(("text", "stages", "expected"), STREAMS.values(), ids=STREAMS)
def test_finds_streaming_loops(text: str, stages: int, expected: bool) -> None:
    assert ttir.streams_operands(text, stages) is expected


def test_expects_the_best_unit_of_all_dots() -> None:
    text = loop(LOAD + DOT.replace("%b", "%w")) + DOTS["batch"][0]
    assert ttir.expectations(text, 90, 4, 2) == ttir.Expectations("HGMMA", asynchronous=True)


def test_expects_nothing_where_nothing_is_multiplied() -> None:
    assert ttir.expectations(loop(LOAD), 90, 4, 2) == ttir.Expectations(None, asynchronous=False)


GOOD = aot.Report("_k", 90, 4, 2, {}, registers=128, stack=0, shared=1024, instructions=4000, hgmma=8, ldgsts=4)
STREAMED = ttir.Expectations("HGMMA", asynchronous=True)
FAULTS: dict[str, tuple[dict[str, int], str]] = {
    "stack": ({"stack": 8}, "8 bytes of stack, 0 LDL, 0 STL"),
    "loads": ({"local_loads": 3}, "3 LDL"),
    "stores": ({"local_stores": 2}, "2 STL"),
    "shared": ({"shared": 232449}, "232449 bytes of shared memory, sm_90 has 232448"),
    "shared of a smaller GPU": ({"target": 89, "shared": 101377}, "sm_89 has 101376"),
    "registers": ({"registers": 256}, "256 registers, a thread has 255 at most"),
    "gave up": ({"registers": 40, "instructions": 3001}, "40 registers for 3001 instructions: ptxas gave up"),
    "no tensor cores": ({"hgmma": 0}, "no HGMMA for its tl.dot, has none at all"),
    "slower tensor cores": ({"hgmma": 0, "hmma": 16}, "no HGMMA for its tl.dot, has 16 HMMA"),
    "not asynchronous": ({"ldgsts": 0}, "no LDGSTS or UTMALDG"),
}


@pytest.mark.parametrize(("change", "line"), FAULTS.values(), ids=FAULTS)
def test_reports_each_fault_once(change: dict[str, Any], line: str) -> None:
    (found,) = aot.violations(dataclasses.replace(GOOD, **change), STREAMED)
    assert line in found


EDGES: dict[str, dict[str, int]] = {
    "good": {},
    "all the memory": {"shared": 232448},
    "all the registers": {"registers": 255},
    "few registers, short": {"registers": 16, "instructions": 3000},
    "long": {"registers": 41, "instructions": 9999},
    "copy engine": {"ldgsts": 0, "utmaldg": 1},
}


@pytest.mark.parametrize("change", EDGES.values(), ids=EDGES)
def test_accepts_up_to_the_edge(change: dict[str, Any]) -> None:
    assert aot.violations(dataclasses.replace(GOOD, **change), STREAMED) == []


def test_expects_no_more_than_the_ir_does() -> None:
    assert aot.violations(dataclasses.replace(GOOD, hgmma=0, ldgsts=0), ttir.Expectations()) == []


def _arguments(a_ptr, none_ptr, N, M, one, long, gain, flag, dims: tl.int64, free, DT: tl.constexpr, K: tl.constexpr):
    pass


KERNEL = JITFunction(_arguments, do_not_specialize=["free"])  # triton.jit would make an interpreted one under pytest
ARGUMENTS = {
    "a_ptr": torch.empty(4, dtype=torch.float16, device="meta"),
    "none_ptr": None,
    "N": 48,
    "M": 50,
    "one": 1,
    "long": 2**31,
    "gain": 0.5,
    "flag": True,
    "dims": 7,
    "free": 16,
    "DT": tl.float16,
    "K": 3,
}


def launched(**change: Any) -> Launch:
    return Launch(KERNEL, (1,), {**ARGUMENTS, **change}, num_warps=4, num_stages=2)


def test_signature_is_the_runtimes() -> None:
    assert aot.specialization(launched(), 90)["signature"] == {
        "a_ptr": "*fp16",
        "none_ptr": "constexpr",
        "N": "i32",
        "M": "i32",
        "one": "constexpr",
        "long": "i64",
        "gain": "fp32",
        "flag": "u1",
        "dims": "i64",
        "free": "i32",
        "DT": "constexpr",
        "K": "constexpr",
    }


def test_divisible_arguments_are_the_runtimes() -> None:
    (attributes,) = aot.specialization(launched(), 90)["configs"]
    divisible = {KERNEL.arg_names[i] for (i,), value in attributes.items() if value == [["tt.divisibility", 16]]}
    assert divisible == {"a_ptr", "N", "long"}


CHANGES: dict[str, tuple[dict[str, Any], bool]] = {
    "same divisibility": ({"N": 64, "M": 49}, True),
    "other divisibility": ({"N": 49}, False),
    "other type": ({"a_ptr": torch.empty(4, device="meta")}, False),
    "other shape": ({"a_ptr": torch.empty(9, dtype=torch.float16, device="meta")}, True),
    "other constexpr": ({"K": 4}, False),
    "other one": ({"one": 2}, False),
    "other float": ({"gain": 2.0}, True),
}


@pytest.mark.parametrize(("change", "same"), CHANGES.values(), ids=CHANGES)
def test_same_code_has_the_same_key(change: dict[str, Any], same: bool) -> None:
    keys = [aot.specialization(launch, 90)["key"] for launch in (launched(), launched(**change))]
    assert (keys[0] == keys[1]) is same


def test_warps_and_stages_are_part_of_the_key() -> None:
    launch = launched()
    variants = [launch, dataclasses.replace(launch, num_warps=8), dataclasses.replace(launch, num_stages=3)]
    assert len({aot.specialization(variant, 90)["key"] for variant in variants}) == 3


def test_constexprs_become_plain_values() -> None:
    assert aot.constexprs(launched()) == {"DT": "fp16", "K": 3}


def test_missing_disassembler_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing() -> tuple[str, str]:
        raise FileNotFoundError("Cannot find nvdisasm")

    monkeypatch.setattr(aot, "tools", missing)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert inspect.main(["--target", "90"], shipped={}) == 2
    assert capsys.readouterr().err == "bench.compiler.inspect: Cannot find nvdisasm\n"


def _dies() -> None:
    os.write(2, b"LLVM ERROR: out of ideas\n")
    os._exit(6)


def _raises() -> None:
    raise ValueError("at 12:4:\n\nwrong shape")


def test_a_crash_costs_one_result() -> None:
    results = dict(inspect.run_forked([_dies, lambda: 1, _raises, lambda: 2], processes=2))
    assert results == {
        0: "the compiler ended with exit status 6: LLVM ERROR: out of ideas",
        1: 1,
        2: "does not compile: ValueError: wrong shape",
        3: 2,
    }


def test_core_is_the_first_and_the_largest() -> None:
    jobs = [inspect.Job(launched(K=k), 90, [f"m/{k}"]) for k in (3, 1, 8, 5)]
    assert [job.configurations for job in inspect._core(jobs)] == [["m/3"], ["m/8"]]


REFUSED = {
    "target": (["--target", "75"], "invalid choice: 75"),
    "jobs": (["--jobs", "0"], "must be a positive integer, got '0'"),
    "pattern": (["--only", "("], "not a regular expression"),
}


@pytest.mark.parametrize(("argv", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses_nonsense(
    argv: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(SystemExit, match="2"):
        inspect.main(argv, shipped={})
    assert message in capsys.readouterr().err


def test_refuses_to_match_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert inspect.main(["--only", "nothing"], shipped={}) == 2
    assert "no kernel of module/configuration/kernel matches 'nothing'" in capsys.readouterr().err


def run(module: str, *argv: str, interpret: str | None = None) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if interpret:
        env["TRITON_INTERPRET"] = interpret
    command = [sys.executable, "-m", module, *argv]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=1800)


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What is found out about ``tests/bad_kernels.py`` on sm_90."""
    file = tmp_path_factory.mktemp("bad") / "found.json"
    done = run("tests.bad_kernels", "--target", "90", "--json", str(file))
    assert done.returncode == 1, done.stdout + done.stderr
    return {"stdout": done.stdout, **json.loads(file.read_text())}


CONTROLS = {
    "spills": "bytes of stack",
    "sine": "bytes of stack",
    "too much shared": "bytes of shared memory, sm_90 has 232448",
    "strided": "no LDGSTS or UTMALDG",
    "wrong shapes": "does not compile: CompilationError",
    "empty": "RuntimeError: launches no kernel",
    "refused": "ValueError: block must be [M, N, D]",
    "gates slot without barrier": "loads a slot with no barrier since it was stored to",
    "gates turned": "turned_product: ",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTROLS)
def test_a_bad_kernel_is_reported_once(bad: dict[str, Any], name: str) -> None:
    (line,) = [problem for problem in bad["problems"] if problem.startswith(f"sm_90 bad/{name}")]
    assert CONTROLS[name] in line
    assert line in bad["stdout"].splitlines()


@pytest.mark.slow
def test_only_bad_kernels_are_reported(bad: dict[str, Any]) -> None:
    assert len(bad["problems"]) == len(CONTROLS)
    (good,) = [kernel for kernel in bad["kernels"] if kernel["configurations"] == ["bad/good"]]
    assert good["expected"] == {"tensor_cores": "HGMMA", "asynchronous": True}
    assert good["report"]["hgmma"] > 0 and good["report"]["ldgsts"] > 0


@pytest.mark.slow
def test_runs_where_triton_would_interpret() -> None:
    done = run("bench.compiler.inspect", "--help", interpret="1")
    assert done.returncode == 0 and done.stdout.startswith("usage: python -m bench.compiler.inspect"), done.stderr


def _kernels_in_the_sources() -> set[str]:
    """Names of the functions that a grid calls."""
    return {
        name
        for path in (ROOT / "kernels").rglob("*.py")
        for name in re.findall(r"@triton\.jit(?:\(.*\))?\ndef (_\w+_kernel)\(", path.read_text())
    }


def _gate(folder: pathlib.Path, *argv: str) -> None:
    file = folder / "found.json"
    done = run("bench.compiler.inspect", *argv, "--json", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    kernels = json.loads(file.read_text())["kernels"]
    assert {name.split("/")[0] for kernel in kernels for name in kernel["configurations"]} == set(SHIPPED)
    assert {kernel["kernel"] for kernel in kernels} == _kernels_in_the_sources()


@pytest.mark.slow
def test_every_kernel_keeps_the_budget(tmp_path: pathlib.Path) -> None:
    _gate(tmp_path, "--core", "--target", "80", "--target", "90")


# neither first nor largest, and yet the first to spill when their kernels grow
TIGHT = "(field 64 fp16 density/_field_kernel|hierarchical 128 fp16 render/_hierarchical_kernel)$"


@pytest.mark.slow
def test_the_configurations_closest_to_spilling_keep_the_budget() -> None:
    done = run("bench.compiler.inspect", "--only", TIGHT, "--target", "80", "--target", "86")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 kernels, all within the budget" in done.stdout


@pytest.mark.slow
def test_every_configuration_keeps_the_budget(tmp_path: pathlib.Path) -> None:
    _gate(tmp_path, "--target", "80", "--target", "86", "--target", "89", "--target", "90")


def kernels_of(path: pathlib.Path) -> list[tuple[str, int]]:
    """Name and number of lines of every function that Triton compiles in a file."""
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    compiled = [f for f in functions if any("jit" in ast.unparse(d) for d in f.decorator_list)]
    return [(f.name, (f.end_lineno or 0) - f.lineno + 1) for f in compiled]


def test_no_kernel_is_longer_than_a_person_reads() -> None:
    lengths = [(f, *row) for f in (ROOT / "kernels").rglob("*.py") for row in kernels_of(f)]
    assert len(lengths) > 50
    assert [row for row in lengths if row[2] > 120] == []
