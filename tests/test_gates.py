"""Gates on compiled code: each catches a fault planted for it, and passes what has none."""

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT

pytest.importorskip("triton")

from bench.compiler import hazards, ptx, walk
from stylenerf.kernels.base import linear
from stylenerf.kernels.base.launch import record_launches

HEAD = """
.version 8.7
.target sm_90a
.extern .shared .align 16 .b8 global_smem[];
.visible .entry _kernel(
	.param .u64 .ptr .global .align 1 _kernel_param_0,
	.param .u64 .ptr .global .align 1 _kernel_param_1,
	.param .u32 _kernel_param_2
)
.reqntid 128
{
	.reg .pred 	%p<9>;
	.loc	1 6 0                           // kernel.py:6:0
	mov.u32 	%r1, %tid.x;
	ld.param.b32 	%r2, [_kernel_param_2];
	ld.param.b64 	%rd1, [_kernel_param_0];
	ld.param.b64 	%rd2, [_kernel_param_1];
"""
END = "\tret;\n}\n"


def code(*lines: str) -> ptx.Code:
    return ptx.parse(HEAD + "\n".join("\t" + line for line in lines) + "\n" + END)


def walked(*lines: str, shared: int = 2048, count: int = 5) -> walk.Walk:
    parameters = {0: 1 << 40, 1: 2 << 40, 2: count}
    return walk.walk(code(*lines), parameters, shared, threads=128, block=(3,), grid=(8,))


ROW = ("shl.b32 %r3, %r1, 4;", "mov.b32 %r4, global_smem;", "add.s32 %r5, %r4, %r3;")  # 16 bytes a thread
LOOP = ("mov.b32 %r6, 0;", "$L__BB0_1:", "st.shared.v4.b32 [ %r5 + 0 ], { %r1, %r1, %r1, %r1 };")
NEXT = ("add.s32 %r5, %r5, 64;", "add.s32 %r6, %r6, 1;", "setp.lt.s32 %p1, %r6, %r2;", "@%p1 bra $L__BB0_1;")
ADDRESSES: dict[str, tuple[tuple[str, ...], int, int]] = {  # statements, accesses, faults
    "inside": ((*ROW, "st.shared.v4.b32 [ %r5 + 0 ], { %r1, %r1, %r1, %r1 };"), 1, 0),
    "outside": ((*ROW, "st.shared.v4.b32 [ %r5 + 16 ], { %r1, %r1, %r1, %r1 };"), 1, 1),
    "below": ((*ROW, "ld.shared.b32 %r7, [%r5+-4];"), 1, 1),
    "misaligned": ((*ROW, "ld.shared.v2.b32 {%r7, %r8}, [%r5+4];"), 1, 1),
    "masked": ((*ROW, "setp.lt.u32 %p1, %r1, 127;", "@%p1 ld.shared.v4.b32 {%r6, %r7, %r8, %r9}, [%r5+16];"), 1, 0),
    "asynchronous copy": ((*ROW, "cp.async.cg.shared.global [ %r5 + 2032 ], [ %rd1 + 0 ], 0x10, %r1;"), 1, 1),
    "matrix": ((*ROW, "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r6, %r7, %r8, %r9}, [%r5+1024];"), 1, 1),
    "rows of eight lanes": ((*ROW, "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r6}, [%r5+384];"), 1, 0),
    "a slot further every round": ((*ROW, *LOOP, *NEXT), 5, 1),
    "by a guarded step": ((*ROW, "@%p1 add.s32 %r5, %r5, 4096;", "ld.shared.b32 %r7, [%r5];"), 1, 0),
}


@pytest.mark.parametrize(("lines", "accesses", "faults"), ADDRESSES.values(), ids=ADDRESSES)
def test_addresses_in_shared_memory(lines: tuple[str, ...], accesses: int, faults: int) -> None:
    result = walked(*lines)
    assert (result.accesses, len(result.faults)) == (accesses, faults)


def test_an_address_from_data_is_unknown() -> None:
    result = walked("ld.global.b32 %r3, [ %rd1 + 0 ];", "ld.shared.b32 %r4, [%r3];")
    assert (result.accesses, result.unknown, result.faults) == (1, 1, [])


def test_threads_that_branch_apart_meet_again() -> None:
    apart = ("setp.lt.u32 %p1, %r1, 64;", "mov.b32 %r5, 16;", "@%p1 bra $L__BB0_1;", "mov.b32 %r5, 4096;")
    result = walked(*apart, "$L__BB0_1:", "ld.shared.b32 %r7, [%r5];")
    assert result.accesses == 1
    assert result.faults == ["bytes 16 to 4100 of 2048 shared, or misaligned: ld.shared.b32 %r7, [%r5]"]


def descriptor(start: int, lead: int, stride: int, swizzle: int) -> int:
    return start >> 4 | lead >> 4 << 16 | stride >> 4 << 32 | swizzle << 62


def test_a_matrix_of_64_rows_covers_what_it_reads() -> None:
    """Rows of 128 bytes, of which 32 are read: 8 KiB less the last row's rest, wherever the swizzle puts them."""
    at_byte = walk.matrix_bytes(descriptor(1024, 16, 1024, 1), rows=64, size=2, turned=False)
    assert len(np.unique(at_byte)) == 128
    assert at_byte.min() >= 1024 and 1024 + 8192 - 128 <= at_byte.max() < 1024 + 8192


@pytest.mark.parametrize(("start", "faults"), [(8192, 0), (9216, 1)])
@pytest.mark.parametrize("turned", ["0", "1"])
def test_matrices_of_a_warp_group_product(start: int, faults: int, turned: str) -> None:
    at = descriptor(start, 8192, 1024, 1)
    product = f"wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {{%r10}}, {{%r11}}, %rd5, 1, 1, 1, {turned};"
    result = walked(f"mov.b64 %rd5, {at};", product, shared=16384 if turned == "0" else 10240)
    assert result.accesses == 1
    assert len(result.faults) == (faults if turned == "0" else int(start == 9216))


STORE, LOAD, BARRIER = "st.global.b32 [ %rd4 + 0 ], %r1;", "ld.global.b32 %r9, [ %rd4 + 0 ];", "bar.sync 0;"
AGAIN = ("setp.lt.s32 %p1, %r6, %r2;", "@%p1 bra $L__BB0_1;")
SLOTS: dict[str, tuple[tuple[str, ...], list[str]]] = {
    "barrier": ((STORE, BARRIER, LOAD), []),
    "no barrier": ((STORE, LOAD), ["loads a slot with no barrier"]),
    "barrier on one path": ((STORE, "@%p1 bra $L__BB0_2;", BARRIER, "$L__BB0_2:", LOAD), ["loads a slot with no"]),
    "loop": (("$L__BB0_1:", STORE, BARRIER, LOAD, BARRIER, *AGAIN), []),
    "loop that overwrites": (("$L__BB0_1:", STORE, BARRIER, LOAD, *AGAIN), ["stores to a slot with no barrier"]),
    "read-only cache": ((STORE, BARRIER, LOAD.replace("global", "global.nc")), ["loads a slot through the read-only"]),
    "other memory": ((STORE.replace("%rd4", "%rd2"), LOAD), []),
    "asynchronous copy": ((STORE, "cp.async.cg.shared.global [ %r5 + 0 ], [ %rd4 + 0 ], 0x10;"), ["loads a slot"]),
}


@pytest.mark.parametrize(("lines", "faults"), SLOTS.values(), ids=SLOTS)
def test_order_of_accesses_to_a_slot(lines: tuple[str, ...], faults: list[str]) -> None:
    found = ptx.slot_faults(code("mul.wide.u32 %rd3, %r1, 4;", "add.s64 %rd4, %rd1, %rd3;", *lines), [0])
    assert len(found) == len(faults)
    assert all(line.startswith(start) for line, start in zip(found, faults))


def listing(*lines: str) -> str:
    return "\n".join(
        line if line.endswith(":") else f"        /*{16 * i:04x}*/  {line} ;" for i, line in enumerate(lines)
    )


IN_REGISTERS = "HGMMA.64x64x16.F32 R24, R56, gdesc[UR20], R24, gsb0"
WAIT, EARLY = "WARPGROUP.DEPBAR.LE gsb0, 0x0", "WARPGROUP.DEPBAR.LE gsb0, 0x1"
HAZARDS: dict[str, tuple[tuple[str, ...], int]] = {
    "waited for": ((IN_REGISTERS, WAIT, "LDS.64 R56, [R5]"), 0),
    "left operand overwritten": ((IN_REGISTERS, "LDS.64 R58, [R5]", WAIT), 1),
    "accumulator overwritten": ((IN_REGISTERS, "FADD R55, R1, R2", WAIT), 1),
    "next to its registers": ((IN_REGISTERS, "FADD R60, R1, R2", "MOV R23, R1", WAIT), 0),
    "by the half of a wide result": ((IN_REGISTERS, "IMAD.WIDE R54, R2, 0x4, R6", WAIT), 1),
    "a group too early": ((IN_REGISTERS, EARLY, "LDS.64 R56, [R5]"), 1),
    "the group before": ((IN_REGISTERS, "HGMMA.64x8x16.F32 R88, R92, gdesc[UR8], R88, gsb0", EARLY, "MOV R56, R1"), 0),
    "in the next round": ((".L_x_1:", "LDS.64 R56, [R5]", IN_REGISTERS, EARLY, "@!P5 BRA `(.L_x_1)", WAIT), 1),
    "the next round waits": ((".L_x_1:", WAIT, "LDS.64 R56, [R5]", IN_REGISTERS, "@!P5 BRA `(.L_x_1)"), 0),
    "operands in shared memory": (("HGMMA.64x64x16.F32 R24, gdesc[UR8], R24, gsb0", "MOV R56, R1", WAIT), 0),
    "a store reads": ((IN_REGISTERS, "STG.E.64 [R2.64], R56", WAIT), 0),
}


@pytest.mark.parametrize(("lines", "faults"), HAZARDS.values(), ids=HAZARDS)
def test_registers_in_use(lines: tuple[str, ...], faults: int) -> None:
    assert len(hazards.overwritten(listing(*lines))) == faults


STAGES = {"sm_90, converted": (90, "float32", 1), "sm_90": (90, "float16", 3), "sm_80, converted": (80, "float32", 3)}


@pytest.mark.parametrize(("target", "dtype", "stages"), STAGES.values(), ids=STAGES)
def test_a_left_operand_in_registers_is_not_pending(target: int, dtype: str, stages: int) -> None:
    """``pending_operand`` of kernels/base/faults.py: another way is taken on sm_90."""
    import torch

    with torch.device("meta"):
        x, out = torch.empty(1, 256, 64, dtype=getattr(torch, dtype)), torch.empty(1, 256, 64)
        weight = torch.empty(1, 64, 64, dtype=torch.float16)
    with record_launches(target) as launches:
        linear.launch_linear(out, x, weight, None, slope=None, precision="fp16")
    (launch,) = launches
    assert (launch.num_stages, launch.args["STAGES"]) == (stages, stages)


def compiled(module: str, *argv: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", module, *argv]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_gates_see_the_code_of_a_kernel(tmp_path: Any) -> None:
    """A kernel that exchanges data through a slot, with and without its barrier, and one that turns a result."""
    file = tmp_path / "found.json"
    done = compiled("tests.bad_kernels", "--target", "90", "--only", "gates", "--json", str(file))
    assert done.returncode == 1, done.stdout + done.stderr
    kernels = {kernel["configurations"][0]: kernel for kernel in json.loads(file.read_text())["kernels"]}
    faults = {name.removeprefix("bad/gates "): kernel["findings"]["faults"] for name, kernel in kernels.items()}
    assert faults["slot"] == []
    assert faults["slot without barrier"][0].startswith("loads a slot with no barrier")
    assert any(fault.startswith("turned_product") for fault in faults["turned"])
    assert kernels["bad/gates turned"]["findings"]["shared_accesses"] > 0
