"""One image by the FFHQ generator: random weights, evaluation mode, no gradients, batch 1."""

from collections.abc import Callable
from functools import partial

import pytest
import torch

from bench.harness import Measure
from bench.machine import DEVICE
from models.camera import CameraPrior
from models.config import GeneratorConfig
from models.generator import Generator, Rendered, RenderOptions
from models.layers import Precision

RESOLUTIONS = (256, 512, 1024)
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
# Seconds per image of the public implementation, same configuration; its default precision is float16 in every
# upsampler block but the first, as "fp16" is here.
PUBLIC_S = {
    "fp16": {256: 0.56, 512: 1.03, 1024: 1.91},
    "fp32": {256: 0.57, 512: 1.25, 1024: 2.67},
}
PUBLIC_NOTE = (
    "its figures were measured elsewhere: a 2-core CPU, 2 threads, medians; they compare with such a machine only"
)
HALF_TOLERANCE = 1e-2  # mean |fp16 - fp32| over the image's standard deviation


def prepare(resolution: int, precision: Precision) -> Callable[[], Rendered]:
    torch.manual_seed(0)
    g = Generator(GeneratorConfig(resolution=resolution)).eval().requires_grad_(False).to(DEVICE)
    camera = CameraPrior().at(0.3, 0.5)
    camera = type(camera)(camera.cam2world.to(DEVICE), camera.tan_half_fov.to(DEVICE))
    z, z_bg = torch.randn(1, g.cfg.z_dim).to(DEVICE), torch.randn(1, g.cfg.background.z_dim).to(DEVICE)
    options = RenderOptions(precision=precision)

    def run() -> Rendered:
        with torch.no_grad():
            return g(z, camera, z_bg=z_bg, options=options)

    return run


def check(result: object, resolution: int, precision: Precision) -> None:
    assert isinstance(result, Rendered)
    image = result.image
    assert image.shape == (1, 3, resolution, resolution), f"image: got shape {list(image.shape)}"
    assert torch.isfinite(image).all(), "image: not finite"
    if precision != "fp32":
        exact = prepare(resolution, "fp32")().image
        error = ((image - exact).abs().mean() / exact.std()).item()
        assert error < HALF_TOLERANCE, f"image: {precision} differs from fp32 by {error:.1e} of its deviation"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_generator(measure: Measure, resolution: int, precision: Precision) -> None:
    measure.model(
        partial(prepare, resolution, precision),
        partial(check, resolution=resolution, precision=precision),
        op="generator",
        direction="fwd",
        shape=f"FFHQ {resolution} px, batch 1, {precision}",
        precision=precision,
        public_implementation_s=PUBLIC_S[precision][resolution],
        public_implementation_note=PUBLIC_NOTE,
    )
