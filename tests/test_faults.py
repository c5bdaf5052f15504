"""Known faults of the compilers: which versions have them, and that no kernel contains their patterns."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from stylenerf.kernels.base.faults import FAULTS, known_faults, parse_version
from tests.conftest import ROOT

pytest.importorskip("triton")

from bench.compiler import patterns

NAMES = {
    "3.6.0 on an H100": ("triton", "3.6.0", 90, ["turned_product", "pending_operand"]),
    "3.7.1 on an H100": ("triton", "3.7.1", 90, ["turned_product", "pending_operand"]),
    "3.7.1 on a B200": ("triton", "3.7.1+git5e8a3b1c", 100, ["chained_accumulation"]),
    "3.8.0 on a B200": ("triton", "3.8.0", 100, []),
    "3.7.1 on an A100": ("triton", "3.7.1", 80, []),
    "3.3.1 on an H100": ("triton", "3.3.1", 90, []),
    "ptxas 12.8 for an H100": ("ptxas", "12.8", 90, ["overwritten_operand"]),
    "ptxas 13.3 for an H100": ("ptxas", "13.3", 90, []),
    "ptxas 12.8 for an L40": ("ptxas", "12.8", 89, []),
}


@pytest.mark.parametrize(("compiler", "version", "target", "names"), NAMES.values(), ids=NAMES)
def test_faults_of_a_version(compiler: str, version: str, target: int, names: list[str]) -> None:
    assert [fault.name for fault in known_faults(compiler, version, target)] == names


def test_versions_compare_as_numbers() -> None:
    assert parse_version("3.10.0") > parse_version("3.9.1") > parse_version("3.9")
    assert parse_version("unknown") == (0,)


def test_every_fault_says_what_is_done_instead() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert all(fault.pattern and fault.symptom and fault.instead and fault.source for fault in FAULTS)


def program(body: str, loop: str = "} loc(#loc1)") -> str:
    """TTIR of a kernel whose loop carries ``%acc``; ``body`` computes ``%acc_9``."""
    return f"""module {{
  tt.func public @_kernel(%n: i32 loc("n"(#loc))) attributes {{noinline = false}} {{
    %x = tt.load %p : tensor<64x64x!tt.ptr<f16>> loc(#loc1)
    %w = tt.load %q : tensor<64x64x!tt.ptr<f16>> loc(#loc1)
    %zero = arith.constant dense<0.000000e+00> : tensor<64x64xf32> loc(#loc1)
    %sum:2 = scf.for %i = %c0 to %n step %c1 iter_args(%acc = %zero, %j = %c0) -> (tensor<64x64xf32>, i32)  : i32 {{
{body}
      scf.yield %acc_9, %j : tensor<64x64xf32>, i32 loc(#loc1)
    {loop}
    %s = arith.truncf %sum#0 : tensor<64x64xf32> to tensor<64x64xf16> loc(#loc1)
    %t = tt.trans %s {{order = array<i32: 1, 0>}} : tensor<64x64xf16> -> tensor<64x64xf16> loc(#loc1)
    EPILOGUE
    tt.return loc(#loc1)
  }} loc(#loc1)
}} loc(#loc1)
"""


SHAPES = "tensor<64x64xf16> * tensor<64x64xf16> -> tensor<64x64xf32> loc(#loc1)"
ONE = f"%acc_9 = tt.dot %x, %w, %acc : {SHAPES}"
TWO = f"%acc_8 = tt.dot %x, %w, %acc : {SHAPES}\n%acc_9 = tt.dot %w, %x, %acc_8 : {SHAPES}"
APART = f"%a = tt.dot %x, %w, %zero : {SHAPES}\n%b = tt.dot %w, %x, %acc : {SHAPES}\n%acc_9 = arith.addf %a, %b : x"
CHAINS: dict[str, tuple[str, int, int, int]] = {
    "two into one": (TWO, 100, 2, 2),
    "one stage": (TWO, 100, 1, 0),
    "another generation": (TWO, 90, 2, 0),
    "one product": (ONE, 100, 2, 0),
    "a sum of two": (APART, 100, 2, 0),
}


@pytest.mark.parametrize(("body", "target", "stages", "count"), CHAINS.values(), ids=CHAINS)
def test_finds_chained_accumulations(body: str, target: int, stages: int, count: int) -> None:
    text = program(body).replace("EPILOGUE", "")
    assert len(patterns.chained_accumulations(text, target, 4, stages)) == count


def test_the_stages_of_a_loop_come_before_those_of_the_launch() -> None:
    own = program(TWO, "} {tt.num_stages = 1 : i32} loc(#loc1)")
    assert patterns.chained_accumulations(own, 100, 4, 2) == []


TURNED = f"%o = tt.dot %t, %x, %zero : {SHAPES}"
LOADED = f"%u = tt.trans %x {{order = array<i32: 1, 0>}} : y -> tensor<64x64xf16>\n%o = tt.dot %u, %s, %zero : {SHAPES}"
RIGHT = f"%o = tt.dot %x, %t, %zero : {SHAPES}"
SHORT = "%o = tt.dot %t, %v, %z : tensor<32x64xf16> * tensor<64x16xf16> -> tensor<32x16xf32> loc(#loc1)"
PRODUCTS: dict[str, tuple[str, int, int, int]] = {
    "a result turned": (TURNED, 90, 4, 1),
    "by two warps": (TURNED, 90, 2, 0),
    "another generation": (TURNED, 80, 4, 0),
    "a loaded factor turned": (LOADED, 90, 4, 0),
    "on the right": (RIGHT, 90, 4, 0),
    "few rows": (SHORT, 90, 4, 0),
}


@pytest.mark.parametrize(("epilogue", "target", "warps", "count"), PRODUCTS.values(), ids=PRODUCTS)
def test_finds_turned_products(epilogue: str, target: int, warps: int, count: int) -> None:
    text = program(ONE).replace("EPILOGUE", epilogue)
    assert len(patterns.turned_products(text, target, warps)) == count


def look(*argv: str) -> dict[str, Any]:
    """``python -m bench.compiler.patterns`` in a process of its own, which compiles instead of interpreting."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "bench.compiler.patterns", *argv]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert done.stdout, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


# kernels whose products have once contained it, at their widest
SUSPECTS = r"(block (256 at 128|64 at 512) px float16/_(wide|narrow)|rays 128 fp16 S14 D3/_ray)_kernel"


@pytest.mark.slow
@pytest.mark.parametrize(("target", "only"), [(90, SUSPECTS), (90, ""), (100, "")], ids=["suspects", "sm_90", "sm_100"])
def test_no_kernel_contains_a_pattern(target: int, only: str) -> None:
    result = look("--target", str(target), "--only", only)
    assert result["kernels"] >= 3
    assert result["found"] == {}
