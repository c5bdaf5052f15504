"""Whole networks as they run on a CUDA device: every op by its kernel that has one, interpreted where there is none."""

import pkgutil
from functools import partial
from importlib import import_module
from typing import Any

import pytest
import torch
import triton
from torch import Tensor

from stylenerf import kernels
from stylenerf.kernels.base import dispatch, linear
from stylenerf.kernels.blocks import upsample_block_forward, upsample_block_whole
from stylenerf.kernels.blocks import upsample_block_triton as upsample_block
from stylenerf.kernels.rays import field_triton as field
from stylenerf.kernels.rays import hierarchical
from stylenerf.kernels.rays import single_pass as rays
from tests.conftest import Fixture
from tests.gradients import DEVICE

upfirdn2d = import_module("stylenerf.kernels.filters.upfirdn2d_triton")  # the op of that name hides the module
OPS = [import_module(m.name) for m in pkgutil.walk_packages(kernels.__path__, "stylenerf.kernels.") if not m.ispkg]


def ops_as_on_a_device(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """From now on "auto" means the kernel wherever it covers the call; the names of those that ran."""
    ran: set[str] = set()
    decide = dispatch.resolve

    def resolve(op: str, impl: Any, x: Tensor, *, unsupported: str | None = None) -> str:
        if impl == "auto" and op in dispatch.TRITON_OPS and unsupported is None:
            impl = "triton"
        chosen = decide(op, impl, x, unsupported=unsupported)
        if chosen == "triton":
            ran.add(op)
        return chosen

    for module in OPS:
        if hasattr(module, "resolve"):
            monkeypatch.setattr(module, "resolve", resolve)
    if DEVICE.type == "cpu":
        large_tiles(monkeypatch)
    return ran


def large_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreted program costs time by its operations, not by its numbers: few programs, each with many."""
    ray = partial(field.RowTile, 512, 8, 2)
    monkeypatch.setattr(hierarchical, "hierarchical_tile", lambda *_: ray())
    monkeypatch.setattr(rays, "ray_tile", lambda *_: ray())
    monkeypatch.setattr(linear, "rows_tile", lambda *_: linear.ProductTile(1024, 64, 64, 8, 2))
    tile = upsample_block_forward.PixelTile(32, 32, 16, 32, 4)
    monkeypatch.setattr(upsample_block_forward, "combine_tiling", lambda *_: tile)
    monkeypatch.setattr(upsample_block, "plan_whole", _one_program)
    monkeypatch.setattr(import_module("stylenerf.kernels.filters.bias_act_triton"), "BLOCK", 2**20)
    monkeypatch.setattr(upfirdn2d, "_tile", _whole_image)


def _one_program(*args: Any) -> Any:
    plan = upsample_block_whole.plan_whole(*args)
    return plan and plan._replace(height=32, width=32, programs=1)


def _whole_image(Y: Any, X: Any, planar: bool, images: int, C: int, periods_y: int, periods_x: int) -> dict[str, int]:
    sizes = {"BLOCK_Y": periods_y, "BLOCK_X": periods_x, "BLOCK_C": C}
    return {"RUN": 1, "num_warps": 4} | {name: triton.next_power_of_2(size) for name, size in sizes.items()}


def numbers_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference numbers are read to, and networks are made on, the device that kernels run on; no TF32."""
    if DEVICE.type == "cpu":
        return
    read = Fixture.__getitem__
    monkeypatch.setattr(Fixture, "__getitem__", lambda f, name: read(f, name).to(DEVICE))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.set_default_device(DEVICE)
