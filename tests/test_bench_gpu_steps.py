"""What the steps of ``python -m bench.gpu`` compute, on small inputs: interpreted on a CPU, compiled on a GPU."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.gradients import DEVICE

if not (torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"):
    pytest.skip("kernels cannot run here", allow_module_level=True)

from bench.gpu import checks, environment, experiments, lines, probes
from bench.ray_cases import RayCase

SMALL: dict[str, Any] = {"width": 32, "depth": 2, "octaves": 3}


def once(call: Any, calls: int = 1, rounds: int = 1) -> tuple[float, str]:
    call()
    return 8.0, "stream"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Small inputs on this machine's device, every call made once; where the lines go."""
    monkeypatch.setattr(experiments, "CUDA", DEVICE)
    monkeypatch.setattr(experiments, "device_us", once)
    monkeypatch.setattr(experiments, "GRID", 150)
    monkeypatch.setattr(experiments, "TRAINING", RayCase(2, rays=5, samples=4, fine=4, emit=2, noise=True, **SMALL))
    swept = {
        "rays": RayCase(2, rays=5, samples=20, **SMALL),
        "hierarchical": RayCase(2, rays=9, samples=5, fine=4, **SMALL),
    }
    monkeypatch.setattr(experiments, "SWEPT", swept)
    if not torch.cuda.is_available():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *args: (9, 0))
        monkeypatch.setattr(torch.cuda, "synchronize", lambda *args: None)
    yield tmp_path / "lines"


@pytest.mark.parametrize(
    ("kind", "tiles"),
    [
        ("rays", [(128, 4, 2), (64, 4, 1)]),
        ("hierarchical", [(128, 8, 2), (32, 4, 2)]),
        ("field", [(128, 4, 2), (64, 8, 1)]),
    ],
)
def test_sweep_of_tiles(path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, tiles: list[Any]) -> None:
    monkeypatch.setattr(experiments, "TILES", {kind: tiles})
    experiments.sweep_tiles(path)
    found = lines.read(path)
    assert [(line["kind"], tuple(line["tile"])) for line in found] == [(kind, tile) for tile in tiles]
    images = 1 if kind == "field" else 2
    assert all(line["us_per_image"] == 8.0 / images and line["difference"] < 1e-3 for line in found)


def test_a_tile_is_used_and_then_forgotten(path: Path) -> None:
    plain, _ = experiments._launch("rays", None)
    narrow, images = experiments._launch("rays", (64, 8, 3))
    again, _ = experiments._launch("rays", None)
    assert images == 2 and (narrow.args["BLOCK_R"], narrow.num_warps, narrow.num_stages) == (2, 8, 3)
    assert (again.args["BLOCK_R"], again.num_warps) == (plain.args["BLOCK_R"], plain.num_warps) != (2, 8)


def test_sweep_goes_on_after_a_tile_that_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments, "TILES", {"rays": [(128, 4, 2), (100, 4, 2), (64, 4, 2)]})  # no power of two
    compiled = path.with_name("compiled")
    for tile in ((128, 4, 2), (100, 4, 2)):
        lines.emit(compiled, compiled="rays", tile=tile)
    experiments.sweep_tiles(path, compiled)
    good, bad, missing = lines.read(path)
    assert "us_per_image" in good and bad["error"] and missing["error"] == "did not compile in time"


def test_shipped_tiles_are_those_that_lead_the_sweep() -> None:
    from stylenerf.kernels.rays import field, hierarchical
    from stylenerf.kernels.rays import single_pass as rays

    device = torch.device("cpu")  # stands for sm_90
    assert experiments.TILES["rays"][0] == tuple(rays.ray_tile(128, 28, "fp16", device))
    assert experiments.TILES["hierarchical"][0] == tuple(hierarchical.hierarchical_tile(128, "fp16", device))
    assert experiments.TILES["field"][0] == tuple(field.field_tile(128, "fp16", device, keep=False))


def test_sines_are_measured(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "linspace", lambda a, b, n, device: torch.tensor([-1.0, -0.3, 0.5], device=device))
    monkeypatch.setattr(torch, "rand", lambda n, generator, device: torch.tensor([0.1, 0.9], device=device))
    monkeypatch.setattr(torch, "Generator", lambda device: SimpleNamespace(manual_seed=lambda seed: None))
    experiments.sin_cos_errors(path)
    found = lines.read(path)
    assert [line["octave"] for line in found] == [None, *range(10)] and all(line["error"] < 1e-6 for line in found)


def test_sine_error_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor([1.25], device=t.device), torch.tensor([0.0], device=t.device)

    monkeypatch.setattr(probes, "sin_cos", wrong)
    assert probes.sin_cos_error(torch.tensor([0.5], device=DEVICE)) == pytest.approx(0.25, abs=1e-6)  # sin(pi / 2) = 1


def test_reads_read_everything() -> None:
    x = torch.randn(6 * probes.BLOCK, device=DEVICE)
    out = torch.empty(3, probes.BLOCK, device=DEVICE)
    assert probes.read(out, x, 12) == 3 * 12 * probes.BLOCK * 4
    want = 2 * x.view(6, probes.BLOCK).sum(0)  # every block twice
    assert all(torch.allclose(row, want, atol=1e-4) for row in out)


def test_fused_and_two_passes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stylenerf.kernels.rays import hierarchical
    from stylenerf.kernels.rays import render_forward as passes

    seen = []
    monkeypatch.setattr(experiments, "RayCase", lambda batch, fine: RayCase(batch, rays=3, samples=4, fine=4, **SMALL))
    real = hierarchical.launch_hierarchical
    monkeypatch.setattr(hierarchical, "launch_hierarchical", lambda *a, **k: (seen.append("fused"), real(*a, **k)))
    sort = torch.sort
    monkeypatch.setattr(passes.torch, "sort", lambda *a, **k: (seen.append("two passes"), sort(*a, **k))[1])
    experiments.fused_or_two_passes(path)
    found = lines.read(path)
    assert [line["batch"] for line in found] == [1, 4, 16]
    assert found[1]["us_per_image"] == {"fused": 2.0, "two passes": 2.0}
    assert seen == ["fused", "two passes"] * 3


def test_three_forms_of_the_trunk_backward(path: Path) -> None:
    experiments.trunk_backward(path)
    assert [line["us_per_image"] for line in lines.read(path)] == [4.0] * 3  # 8 us for two images


def test_profiles_count_kernels_only() -> None:
    def event(name: str, us: float, kind: str) -> Any:
        return SimpleNamespace(name=name, device_type=kind, time_range=SimpleNamespace(elapsed_us=lambda: us))

    events = [
        event("a", 3.0, "DeviceType.CUDA"),
        event("b", 9.0, "DeviceType.CUDA"),
        event("a", 1.0, "DeviceType.CUDA"),
    ]
    assert experiments._kernels([*events, event("aten::mm", 99.0, "DeviceType.CPU")], 2) == [
        ("b", 0.5, 4.5),
        ("a", 1.0, 2.0),
    ]


def test_every_part_of_the_environment_is_worth_having(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "smi", lambda: "a card")
    monkeypatch.setattr(environment, "properties", lambda: 1 / 0)
    monkeypatch.setattr(environment, "ceilings", lambda: {"copy_GB_per_s": 1.0})
    monkeypatch.setattr(environment, "reads", lambda: {"256 KiB": 2.0})
    assert environment.main(["--lines", str(tmp_path / "l")]) == 1
    found = {line["name"]: line for line in lines.read(tmp_path / "l")}
    assert found["properties"]["error"] == "ZeroDivisionError: division by zero"
    assert found["packages"]["value"]["torch"] == torch.__version__ and found["reads_GB_per_s"]["value"] == {
        "256 KiB": 2.0
    }


def test_repeated_calls_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "DEVICE", DEVICE)
    monkeypatch.setattr(checks, "CASES", {"tiny": RayCase(1, rays=3, samples=4, fine=4, **SMALL)})
    monkeypatch.setattr(checks, "FORWARDS", 2)
    monkeypatch.setattr(checks, "BACKWARDS", 2)
    checks.repeat(tmp_path / "l", tmp_path)
    found = lines.read(tmp_path / "l")
    assert [(line["call"], line["unequal"], line["finite"]) for line in found] == [
        ("tiny, fwd", 0, True),
        ("tiny, fwd+bwd", 0, True),
    ]
    shaky = iter(range(9))
    monkeypatch.setattr(checks, "render", lambda args, **how: (torch.tensor([float(next(shaky))]),))
    monkeypatch.setattr(checks.gate, "backward", checks.gate.forward)
    checks.repeat(tmp_path / "m", tmp_path)
    assert [line["unequal"] for line in lines.read(tmp_path / "m")] == [1, 1]


def test_states_are_compared_bit_for_bit() -> None:
    nan = float("nan")
    one = {"a": {"w": torch.tensor([1.0, nan])}, "n": [3, {"s": torch.zeros(2)}], "text": "x"}
    flat = dict(checks.flatten(one))
    assert set(flat) == {"/a/w", "/n/0", "/n/1/s"}
    assert checks.differing(flat, dict(flat)) == []
    other = {**flat, "/a/w": torch.tensor([1.0 + 2e-7, nan]), "/more": torch.zeros(1)}
    assert checks.differing(flat, other) == ["/more", "/a/w"]
