"""filtered_lrelu by kernels: against the plain form, derivatives, what it refuses."""

from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from stylenerf.kernels.filters.filtered_lrelu import filtered_lrelu
from tests.gradients import DEVICE, Op, assert_derivatives_match, assert_kernel_matches, outputs_and_gradients
from tests.inputs import source
from tests.sweeps import sweep

LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}


class Case(NamedTuple):
    shape: tuple[int, int, int, int]
    taps: tuple[int, ...]
    taps_down: tuple[int, ...]
    options: dict[str, Any]


CASES = {
    "defaults": Case((2, 3, 2, 3), (1,), (1, 1), {}),
    "up 2 down 2": Case((1, 3, 3, 4), (4,), (4,), {"up": 2, "down": 2, "padding": [4, 5, 4, 5]}),
    "clamped": Case((1, 2, 3, 2), (3, 2), (2, 3), {"up": 2, "padding": 2, "clamp": 1.0, "slope": 0.1}),
    "flipped": Case((2, 2, 2, 4), (3, 3), (2,), {"down": 2, "padding": 2, "gain": -1.0, "flip_filter": True}),
    "StyleGAN3": Case((1, 2, 2, 2), (12,), (12,), {"up": 2, "down": 2, "padding": [10, 9, 10, 9], "clamp": 256.0}),
    "empty": Case((0, 3, 4, 5), (4,), (4,), {"up": 2, "down": 2, "padding": 5}),
}


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=source(seed), dtype=torch.float64).to(DEVICE, dtype)


def make(case: Case, layout: str = "NCHW", dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    x = random(*case.shape, dtype=dtype).contiguous(memory_format=LAYOUTS[layout])
    return {"x": x, "b": random(case.shape[1], seed=1, dtype=dtype)}


def op(case: Case, impl: Any, power: int = 1) -> Op:
    filters = {"fu": random(*case.taps, seed=2).abs(), "fd": random(*case.taps_down, seed=3).abs()}
    filters = {name: f / f.sum() for name, f in filters.items()}
    return lambda x, b: filtered_lrelu(x, b=b, **filters, **case.options, impl=impl) ** power


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", sweep(list(CASES), always=CASES.keys() - {"StyleGAN3"}))
def test_matches_the_plain_form(case: str, layout: str) -> None:
    chosen = CASES[case]
    assert_kernel_matches(op(chosen, "triton"), op(chosen, "ref"), make(chosen, layout))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_matches_in_half_precision(dtype: torch.dtype) -> None:
    case = CASES["up 2 down 2"]
    assert_kernel_matches(op(case, "triton"), op(case, "ref"), make(case, "NHWC", dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_format_is_kept(layout: str) -> None:
    got = outputs_and_gradients(op(CASES["clamped"], "triton"), make(CASES["clamped"], layout))
    assert got["output 0"].is_contiguous(memory_format=LAYOUTS[layout])
    assert got["gradient of x"].is_contiguous(memory_format=LAYOUTS[layout])


@pytest.mark.parametrize("case", ["up 2 down 2", "clamped"])
def test_second_derivatives(case: str) -> None:
    chosen = CASES[case]
    assert_derivatives_match(op(chosen, "triton", power=2), op(chosen, "ref", power=2), make(chosen))


def test_gradient_of_the_filters() -> None:
    inputs = {"x": random(1, 2, 3, 3), "fu": random(3, seed=2), "fd": random(2, 2, seed=3)}
    kernel, plain = (partial(filtered_lrelu, up=2, down=2, padding=2, impl=impl) for impl in ("triton", "ref"))
    assert_kernel_matches(kernel, plain, inputs)


def test_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    x, large = random(1, 1, 40, 40), torch.ones(9, 9, device=DEVICE)
    with pytest.raises(RuntimeError, match=r"filtered_lrelu: impl='triton' does not cover a filter \[9, 9\] of more"):
        filtered_lrelu(x, fd=large, impl="triton")
    with pytest.raises(RuntimeError, match="filtered_lrelu: impl='triton' does not cover float64; use impl='ref'"):
        filtered_lrelu(x.double(), impl="triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match="filtered_lrelu: impl='triton' needs CUDA tensors, got device cpu"):
        filtered_lrelu(x.cpu(), impl="triton")
