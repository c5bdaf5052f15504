"""Bytes counted from launches: by hand for small kernels and torch ops, and the bound that upsampling blocks keep."""

from typing import Any
from unittest.mock import patch

import pytest
import torch
import triton
import triton.language as tl

from bench import bench_bias_act, bench_upsample_block, report
from bench.compiler import moved
from stylenerf.kernels.base.launch import Launch
from stylenerf.kernels.base.operands import INTERPRETED
from stylenerf.kernels.blocks import upsample_block_forward
from stylenerf.kernels.blocks import upsample_block_triton as upsample_block
from tests.sweeps import sweep

pytestmark = pytest.mark.skipif(
    not INTERPRETED, reason="bytes are counted by Triton's interpreter, with TRITON_INTERPRET=1"
)
BOUND = 1.3  # halos of a block's output kernel, times what it must read and write
LARGE = ("256 px, 256 -> 128 ch", "512 px, 128 -> 64 ch", "1024 px, 64 -> 32 ch")


@triton.jit
def _smooth_kernel(out_ptr, x_ptr, weight_ptr, count, BLOCK: tl.constexpr, K: tl.constexpr):  # type: ignore[no-untyped-def]
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.sum(tl.load(weight_ptr + tl.arange(0, K)), axis=0)
    for shift in range(-8, 9, 8):
        total += tl.load(x_ptr + offs + shift, mask=(offs + shift >= 0) & (offs + shift < count), other=0.0)
    tl.store(out_ptr + offs, total, mask=offs < count)


def smooth(count: int, block: int) -> moved.Moved:
    x, weight = torch.empty(count, device="meta"), torch.empty(16, device="meta")
    args = {"out_ptr": torch.empty_like(x), "x_ptr": x, "weight_ptr": weight, "count": count}
    launch = Launch(_smooth_kernel, (count // block,), {**args, "BLOCK": block, "K": 16}, 1, 1)
    return moved.count_launch(launch, sampled=count // block)


def test_halos_and_weights_by_hand() -> None:
    found = smooth(1024, 64)
    assert found.memory == 4 * (1024 + 1024 + 16)
    # 16 programs read 8 numbers, a sector, on each side, but for the image's ends; the 16 weights are read by each
    assert found.halos == 4 * (1024 + 1024 + 16) + 32 * 2 * 15
    assert found.programs == found.halos + 4 * 16 * 15


def test_smaller_tiles_have_larger_halos() -> None:
    assert smooth(1024, 32).halos - smooth(1024, 64).halos == 32 * 2 * 16


def test_samples_stand_for_all() -> None:
    x = torch.empty(2**20, device="meta")
    args = {"out_ptr": torch.empty_like(x), "x_ptr": x, "weight_ptr": x[:16], "count": 2**20, "BLOCK": 64, "K": 16}
    found = moved.count_launch(Launch(_smooth_kernel, (2**14,), args, 1, 1))
    assert found.memory == 8 * 2**20
    assert found.programs == pytest.approx(2**14 * (4 * 64 * 2 + 2 * 32 + 64), rel=0.05)


class Counting(moved._Recorder):
    def total(self) -> int:
        return sum(self.bytes.values())


@pytest.mark.parametrize(
    ("run", "numbers"),
    [
        (lambda x: x.clone(), 2),
        (lambda x: x + x.t(), 3),
        (lambda x: x.sum(0), 1 + 1 / 8),
        (lambda x: x.view(-1).t().expand(5, 64), 0),
        (lambda x: x.contiguous(), 0),
        (lambda x: x.t().contiguous(), 2),
        (lambda x: torch.empty_like(x), 0),
        (lambda x: x.new_ones(8), 1 / 8),
        (lambda x: x.mul_(2), 2),
        (lambda x: torch.empty_like(x).copy_(x), 2),
        (lambda x: x[:1].expand(8, 8).clone(), 1 + 1 / 8),
    ],
)
def test_torch_ops_by_hand(run: Any, numbers: float) -> None:
    x = torch.empty(8, 8, device="meta")
    with Counting() as counted:
        run(x)
    assert counted.total() == numbers * 64 * 4


def test_an_activation_moves_the_minimum() -> None:
    subject = bench_bias_act.subject("64 ch, 512 px", "fp16")
    for plan in moved.plans(subject).values():
        assert plan.launches == 1 and plan.minimum <= plan.memory < 1.01 * plan.minimum


def block(shape: str, direction: str = "fwd", sampled: int = 2) -> moved.Plan:
    return moved.plans(bench_upsample_block.subject(shape, "fp16"), sampled=sampled, directions=(direction,))[direction]


@pytest.mark.parametrize("shape", sweep(LARGE, always=LARGE[:2]))
def test_blocks_keep_the_bound(shape: str) -> None:
    plan = block(shape)
    assert plan.launches == 1
    kernel = plan.part("_whole_kernel")
    assert plan.minimum <= plan.memory < 1.12 * plan.minimum  # x and the output once, and the layer's weights by torch
    assert kernel.halos <= BOUND * kernel.memory


@pytest.mark.slow
def test_the_backward_makes_little_of_the_map_again() -> None:
    """Times the minimum at 1024 px; with the output, whose signs are the gate, that is 1.5 times as much."""
    plan = block(LARGE[-1], "bwd")
    assert plan.launches == 5 and plan.memory < 2.75 * plan.minimum


def two_launches(shape: str) -> moved.Plan:
    with patch.object(upsample_block, "plan_whole", lambda *args: None):
        return block(shape, sampled=moved.SAMPLED)


@pytest.mark.parametrize("shape", LARGE)
def test_two_launches_write_and_read_the_map(shape: str) -> None:
    plan = two_launches(shape)
    kernel = plan.part("_combine_kernel")
    assert plan.launches == 2 and kernel.halos <= BOUND * kernel.memory
    # 0.5 times the minimum; the weights' share shrinks with size
    assert 1.49 * plan.minimum < plan.memory < 1.65 * plan.minimum


def test_a_bad_tile_breaks_the_bound() -> None:
    good = upsample_block_forward.combine_tiling

    def flat(*args: Any) -> Any:
        return good(*args)._replace(height=1, width=16)

    with patch.object(upsample_block_forward, "combine_tiling", flat):
        kernel = two_launches(LARGE[0]).part("_combine_kernel")
    assert kernel.halos > BOUND * kernel.memory


def test_section_of_the_report(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert report.main(["--bytes", "--only", "mean_square 64", "--launches"]) == 0
    text = capsys.readouterr().out
    assert "Bytes by the launch plan of sm_90" in text
    row = "| mean_square | 64 ch, 512 px | fwd       |        1 |       67.1 |   1.00 |       1.00 |         1.00 |"
    assert row in text and "| _square_sum_kernel |" in text


def test_nothing_to_count(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert report.main(["--bytes", "--only", "a barn"]) == 2
    assert "wanted a part of an op's or a shape's name, got 'a barn'" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["--bytes", "results.json"]])
def test_files_or_bytes(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        report.main(argv)
    assert "wanted one or two result files, or --bytes" in capsys.readouterr().err
