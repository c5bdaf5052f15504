"""Images by the FFHQ generator: random weights, evaluation mode, no gradients, batch 1 and 16."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch

from bench.harness import Measure, dispatched, skip_reason
from bench.machine import DEVICE
from stylenerf.engine.training.graphs import Captured
from stylenerf.models.camera import Camera, CameraPrior
from stylenerf.models.config import GeneratorConfig
from stylenerf.models.generator import Generator, Rendered, RenderOptions
from stylenerf.models.layers import Precision

OPS = ("render_rays", "render_points", "upsample_block", "refine_to_rgb", "modulated_layer")
RESOLUTIONS = (256, 512, 1024)
BATCHES = (1, 16)


class Variant(NamedTuple):
    """An implementation: "ref", "compile" (of the plain forms), "triton", "graph" (the kernels as a CUDA graph)."""

    impl: str
    precision: Precision

    def __str__(self) -> str:
        return f"{self.impl} {self.precision}"


# Seconds per image of the public implementation, same configuration; its default precision is float16 in every
# upsampler block but the first, as "fp16" is here.
PUBLIC_S = {
    "fp16": {256: 0.56, 512: 1.03, 1024: 1.91},
    "fp32": {256: 0.57, 512: 1.25, 1024: 2.67},
}
PUBLIC_NOTE = (
    "its figures were measured elsewhere: a 2-core CPU, 2 threads, medians; they compare with such a machine only"
)
TOLERANCE = {"fp16": 1e-2, "fp32": 2e-3}  # mean |image - plain float32 image| over the latter's standard deviation


def variants(batch: int) -> list[Variant]:
    half = [Variant("ref", "fp16"), Variant("triton", "fp16"), Variant("graph", "fp16"), Variant("compile", "fp16")]
    return [*half, Variant("ref", "fp32"), Variant("triton", "fp32")] if batch == 1 else half


def _mark(resolution: int, batch: int, variant: Variant) -> Any:
    # a minute or more to compile on top of a few seconds to measure
    return pytest.mark.slow if variant.impl == "compile" and (resolution, batch) != (1024, 16) else ()


ROWS = [
    pytest.param(r, b, v, marks=_mark(r, b, v), id=f"{r} px-batch {b}-{v}")
    for r in RESOLUTIONS
    for b in BATCHES
    for v in variants(b)
]


def prepare(resolution: int, precision: Precision, batch: int = 1, impl: str = "triton") -> Callable[[], Rendered]:
    """A function that renders one batch by a generator on this device."""
    torch.manual_seed(0)
    g = Generator(GeneratorConfig(resolution=resolution)).eval().requires_grad_(False).to(DEVICE)
    camera = CameraPrior().at(torch.linspace(0.3, 0.7, batch), torch.full((batch,), 0.5))
    camera = Camera(camera.cam2world.to(DEVICE), camera.tan_half_fov.to(DEVICE))
    z, z_bg = (torch.randn(batch, size).to(DEVICE) for size in (g.cfg.z_dim, g.cfg.background.z_dim))
    options = RenderOptions(alpha=1.0, precision=precision)  # reading alpha's buffer would synchronise a GPU
    model = torch.compile(g, dynamic=False) if impl == "compile" else g

    def run() -> Rendered:
        with torch.no_grad(), dispatched(impl):
            rendered: Rendered = model(z, camera, z_bg=z_bg, options=options)
            return rendered

    return Captured(run).replay if impl == "graph" else run


def check(result: object, resolution: int, batch: int, variant: Variant) -> None:
    assert isinstance(result, Rendered)
    image = result.image
    assert image.shape == (batch, 3, resolution, resolution), f"image: got shape {list(image.shape)}"
    assert torch.isfinite(image).all(), "image: not finite"
    if variant != Variant("ref", "fp32"):
        exact = prepare(resolution, "fp32", batch, "ref")().image
        error, allowed = ((image - exact).abs().mean() / exact.std()).item(), TOLERANCE[variant.precision]
        assert error < allowed, f"image: {variant} differs from plain float32 by {error:.1e} of its deviation"


@pytest.mark.parametrize(("resolution", "batch", "variant"), ROWS)
def test_generator(measure: Measure, resolution: int, batch: int, variant: Variant) -> None:
    reason = skip_reason(OPS, variant.impl)
    if reason:
        pytest.skip(reason)
    if DEVICE.type == "cpu" and batch > 1:
        pytest.skip("on a CPU one image is rendered at a time: 16 at 1024 px take half a minute and 7 GiB")
    public = {}
    if batch == 1 and DEVICE.type == "cpu":
        public = {
            "public_implementation_s": PUBLIC_S[variant.precision][resolution],
            "public_implementation_note": PUBLIC_NOTE,
        }
    measure.model(
        partial(prepare, resolution, variant.precision, batch, variant.impl),
        partial(check, resolution=resolution, batch=batch, variant=variant),
        op="generator",
        direction="fwd",
        shape=f"FFHQ {resolution} px, batch {batch}, {variant.precision}",
        impl=variant.impl,
        baseline=variant.impl == "ref",
        precision=variant.precision,
        images=batch,
        **public,
    )
