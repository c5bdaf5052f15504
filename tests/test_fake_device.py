"""Presets at their real size on fake tensors of a device: a training step by phases, a render, a projection step.

They fail on tensors of two devices, a fake that is not what its op makes, a launch that no device takes, an access
outside a tensor, a wait, an upload, and a backward that adds in no fixed order. Faults of each kind are planted below.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch._subclasses.fake_tensor import DynamicOutputShapeException

from stylenerf import kernels
from stylenerf.engine.applications.project.projection import Projector
from stylenerf.engine.applications.project.projection_options import ProjectionOptions
from stylenerf.engine.model_io import Model
from stylenerf.engine.planning.stand_in import GROWN, PHASES, DeviceGenerator, Pictures, by_phase, one_round, stepper_of
from stylenerf.engine.training.config import AUGMENT_KINDS, Config, load_config
from stylenerf.engine.training.step import Stepper
from stylenerf.kernels.base import constants
from stylenerf.kernels.base.launch import launch
from stylenerf.kernels.base.register import namespace
from stylenerf.models import camera as camera_module
from stylenerf.models.generator import RenderOptions
from tests.fake_device import DEVICE, Watch, fake_device
from tests.sweeps import sweep

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="stands in for a CUDA device, and there is one")

PRESETS = ("quickstart", "ffhq256", "ffhq256_public", "ffhq512", "ffhq1024", "afhq512", "metfaces512", "compcars256")
BLENDING = 4_900_000  # images shown: the last level is being blended in
CASES = [("quickstart", GROWN), *((name, shown) for name in PRESETS[1:] for shown in (GROWN, BLENDING))]
TILE_RAYS = 8192
COLUMNS = ("kernels", "torch ops", "waits", "uploads", "pinned copies", "constants", "atomic")
# what an application may wait for: which samples of a strict rendering are visible; the scale of the latent space, a
# frame of the record
WAITS = {"render": 0, "strict tile": 2, "projection step": 2}


class Cameras(Pictures):
    """One whose labels are cameras."""

    label_kind = "camera"


Table = dict[str, Counter[str]]


def counted(watch: Watch, table: Table, name: str, run: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        before = watch.counts.copy()
        try:
            return run(*args)
        finally:
            table[name] = watch.counts - before

    return call


def step(watch: Watch, stepper: Stepper) -> Table:
    """One step, counted by phase."""
    table: Table = {}
    with watch:
        by_phase(stepper, lambda name, phase: counted(watch, table, name, phase)())
    return table


def round_of(cfg: Config, data: Pictures, shown: int = GROWN) -> Stepper:
    return stepper_of(one_round(cfg), data, DEVICE, shown)


def applications(watch: Watch, stepper: Stepper) -> Table:
    """A render, a tile of a strict rendering and a step of a projection with the averaged generator, counted."""
    g, cfg, table = stepper.state.average, stepper.cfg, dict[str, Counter[str]]()
    ws = torch.zeros(1, g.synthesis.num_ws, g.cfg.w_dim, device=DEVICE)
    camera = cfg.camera.at(torch.full((1,), 0.4, device=DEVICE), torch.full((1,), 0.5, device=DEVICE))
    z_bg, options = torch.zeros(1, g.cfg.background.z_dim, device=DEVICE), RenderOptions(precision=cfg.train.precision)
    pixels = torch.zeros(TILE_RAYS, 2, device=DEVICE)
    edge = g.cfg.resolution
    model = Model(g, cfg.camera, Path("fake"), {})
    with watch:
        projector = Projector(model, torch.zeros(1, 3, edge, edge), ProjectionOptions())
    runs: dict[str, Callable[[], Any]] = {
        "render": lambda: g.synthesis(ws, camera, z_bg=z_bg, options=options),
        "strict tile": lambda: g.synthesis.strict(ws, camera, pixels, z_bg=z_bg, options=options),
        "projection step": lambda: projector._descend("descent", 0, 10),
    }
    for name, run in runs.items():
        with watch, torch.set_grad_enabled(name == "projection step"):
            counted(watch, table, name, run)()
    return table


def lines(table: Table) -> str:
    rows = [f"{'':20s}" + "".join(f"{column:>15s}" for column in COLUMNS)]
    return "\n".join(rows + [f"{n:20s}" + "".join(f"{c[column]:15d}" for column in COLUMNS) for n, c in table.items()])


@pytest.mark.parametrize(("preset", "shown"), sweep(CASES, always=[("quickstart", GROWN)]))
def test_preset(preset: str, shown: int) -> None:
    with fake_device() as watch:
        stepper = round_of(load_config(preset, None, []), Pictures(), shown)
        table = step(watch, stepper)
        made = len(constants._kept)
        used = applications(watch, stepper)
    print(f"\n{preset}\n{lines(table | used)}\n", *watch.places.items(), sep="\n")
    assert not watch.faults
    assert made and watch.kernels["_upfirdn2d_kernel"]
    due = [n for n, on in zip(PHASES, (True, stepper.cfg.loss.path_length_weight > 0, True, True, True)) if on]
    assert list(table) == [name.strip("_") for name in due]
    for counts in table.values():
        assert counts["waits"] == counts["uploads"] == counts["atomic"] == 0
    for name, counts in used.items():
        assert counts["waits"] <= WAITS[name] and counts["uploads"] == 0, name
        assert counts["kernels"]


@pytest.mark.slow
def test_camera_labels() -> None:
    with fake_device() as watch:
        stepper = round_of(load_config("quickstart", None, []), Cameras(label_dim=25))
        table = step(watch, stepper)
    assert not watch.faults
    for counts in table.values():
        assert counts["waits"] == counts["uploads"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("data", [Pictures(), Cameras(label_dim=25)], ids=["plain", "camera labels"])
def test_augmentation(data: Pictures) -> None:
    """Every transform, p adapting at every step."""
    kinds = "augment.kinds=[" + ", ".join(AUGMENT_KINDS) + "]"
    with fake_device() as watch:
        cfg = load_config("quickstart", None, ["augment.mode=ada", "augment.interval=1", kinds])
        stepper = round_of(cfg, data)
        table = step(watch, stepper)
        assert stepper.state.augment is not None and stepper.state.augment.looked == 0
    print(f"\naugmentation\n{lines(table)}\n", *watch.places.items(), sep="\n")
    assert not watch.faults
    for counts in table.values():
        assert counts["waits"] == counts["uploads"] == counts["atomic"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS[:1] + PRESETS[4:5])
def test_every_launch_stays_inside_its_tensors(preset: str) -> None:
    """The first and the last program of one launch of each kernel with each set of sizes."""
    with fake_device() as watch:
        step(watch, round_of(load_config(preset, None, []), Pictures()))
        seen = set()
        for made in watch.launches:
            key = (made.kernel.__name__, made.grid, tuple(getattr(v, "shape", v) for v in made.args.values()))
            if key not in seen:
                seen.add(key)
                watch.check(made)
    assert not watch.faults


@triton.jit
def _narrow_kernel(out_ptr, size, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + offs, tl.zeros([BLOCK], tl.float32), mask=offs < size)


@triton.jit
def _wide_kernel(out_ptr, size, BLOCK: tl.constexpr):
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + offs, tl.zeros([BLOCK], tl.float32), mask=offs < size)


def _fill(kernel: Any, elements: int, **other: Any) -> None:
    out = torch.empty(elements, device=DEVICE)
    launch(kernel, (triton.cdiv(elements, 64),), out_ptr=out, size=elements, BLOCK=64, **other)
    out.add(0)  # the next op sees what was launched


def on(*shape: int, **how: Any) -> Tensor:
    return torch.empty(shape, device=DEVICE, **how)


WAITING: dict[str, Callable[[], Any]] = {
    "item": lambda: on(1).item(),
    "tolist": lambda: on(2).tolist(),
    "bool": lambda: bool(on(1) > 0),
    "float": lambda: float(on(1)),
    "nonzero": lambda: on(3).nonzero(),
    "mask": lambda: on(3)[on(3) > 0],
    "cpu": lambda: on(3).cpu(),
    "equal": lambda: torch.equal(on(3), on(3)),
}
UPLOADING: dict[str, Callable[[], Any]] = {
    "tensor": lambda: torch.tensor([1.0, 2.0], device=DEVICE),
    "new_tensor": lambda: on(2).new_tensor([1.0]),
    "to": lambda: torch.zeros(3).to(DEVICE),
    "copy": lambda: on(3).copy_(torch.zeros(3)),
    "not blocking, not pinned": lambda: torch.zeros(3).to(DEVICE, non_blocking=True),
    "pinned, blocking": lambda: torch.zeros(3).pin_memory().to(DEVICE),
}


@pytest.mark.parametrize(("kind", "name"), [("waits", n) for n in WAITING] + [("uploads", n) for n in UPLOADING])
def test_planted_wait_or_upload(kind: str, name: str) -> None:
    with fake_device() as watch, watch, suppress(DynamicOutputShapeException):
        (WAITING | UPLOADING)[name]()
    assert watch.counts[kind] == 1 and watch.counts["waits"] + watch.counts["uploads"] == 1
    assert next(iter(watch.places)).startswith(kind) and "test_fake_device.py" in next(iter(watch.places))


def test_what_is_neither() -> None:
    with fake_device() as watch, watch:
        torch.zeros(3).pin_memory().to(DEVICE, non_blocking=True)
        torch.full((3,), 2.0, device=DEVICE)
        constants.constant((1.0, 2.0), like=on(1))
        bool(torch.zeros(1) > 0)
        torch.rand(2, generator=torch.Generator()).tolist()
    assert not watch.faults and watch.counts["waits"] == watch.counts["uploads"] == 0
    assert watch.counts["pinned copies"] == watch.counts["constants"] == 1


def test_planted_constant_of_the_cpu() -> None:
    with fake_device() as watch, watch, pytest.raises(RuntimeError, match="device"):
        on(3) + torch.ones(3)
    assert "add mixes devices at test_fake_device.py" in next(iter(watch.faults))


def test_planted_index_of_the_cpu() -> None:
    with fake_device() as watch, watch:
        on(3)[torch.arange(2)]
    assert "index mixes devices" in next(iter(watch.faults))


def test_planted_generator_of_the_cpu() -> None:
    with fake_device() as watch, watch, pytest.raises(RuntimeError, match="generator"):
        torch.randn(3, generator=torch.Generator(), device=DEVICE)


def test_planted_upload_in_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cameras of a step, with constants made anew as they once were."""
    prior, made = load_config("quickstart", None, []).camera, DeviceGenerator(DEVICE)
    with fake_device() as watch:
        with watch:
            prior.sample(2, made)
        assert watch.counts["uploads"] == 0 and watch.counts["constants"] > 0
        monkeypatch.setattr(camera_module, "constant", lambda values, like: like.new_tensor(values))
        with watch:
            prior.sample(2, made)
    assert watch.counts["uploads"] == 3 and "camera.py" in next(iter(watch.places))


@pytest.mark.parametrize("fault", ["strides", "shape", "dtype"])
def test_planted_fake(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {
        "strides": lambda y: y.to(memory_format=torch.channels_last),
        "shape": lambda y: y[..., 1:].contiguous(),
        "dtype": lambda y: y.half(),
    }
    op = OPDEFS[f"{namespace()}::upfirdn2d"]
    right = op._abstract_fn
    assert right is not None
    with fake_device() as watch:
        x, f = on(2, 3, 8, 8), kernels.setup_filter([1, 3, 3, 1], device=DEVICE)
        with watch:
            kernels.filter2d(x, f)
        assert not watch.faults and watch.counts["kernels"] == 1
        monkeypatch.setattr(op, "_abstract_fn", lambda *args: wrong[fault](right(*args)))
        with watch:
            kernels.filter2d(on(2, 3, 8, 9), f)
    assert "fake of" in next(iter(watch.faults))


def test_planted_tensor_of_another_device() -> None:
    with fake_device() as watch, watch, pytest.raises(ValueError, match="other_ptr must be on lazy:0 like out_ptr"):
        _fill(_wide_kernel, 64, other_ptr=torch.zeros(1))


def test_planted_grid() -> None:
    with fake_device() as watch, watch, pytest.raises(RuntimeError, match="a launch may have"):
        launch(_wide_kernel, (1, 65536), out_ptr=on(1), size=1, BLOCK=64)


@pytest.mark.parametrize(("kernel", "elements", "strays"), [
    (_narrow_kernel, 2**31 - 64, False), (_narrow_kernel, 2**31 + 64, True), (_wide_kernel, 2**31 + 64, False),
])  # fmt: skip
def test_planted_offset_of_32_bits(kernel: Any, elements: int, strays: bool) -> None:
    with fake_device() as watch, watch:
        _fill(kernel, elements)
    assert bool(watch.faults) is strays
    assert all("_narrow_kernel reaches out_ptr at byte" in fault for fault in watch.faults)


@pytest.mark.parametrize("name", ["bilinear", "gather"])
def test_planted_backward_with_atomics(name: str) -> None:
    with fake_device() as watch, watch:
        x = on(2, 3, 4, 4).requires_grad_()
        if name == "bilinear":
            torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear").sum().backward()
        else:
            x.flatten().gather(0, on(5, dtype=torch.long)).sum().backward()
    assert watch.counts["atomic"] == 1
