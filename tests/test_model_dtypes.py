"""Models in a host program: under autocast, in another default dtype, cast as a whole, with an empty batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stylenerf.models import CameraPrior, Discriminator, Generator
from stylenerf.models.camera import Camera
from tests.tiny import tiny_config

CFG = tiny_config()
Run = Callable[[nn.Module, Any], Tensor]


def generator(kind: str = "nn_cat") -> Generator:
    torch.manual_seed(0)
    return Generator(tiny_config(f"generator.upsampler.mode={kind}", "loss.nerf_path_weight=0").generator).eval()


def discriminator() -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(CFG.discriminator_config(0)).eval()


def picture(model: nn.Module, z: Tensor) -> Tensor:
    camera = CFG.camera.sample(len(z), torch.Generator().manual_seed(1))
    image: Tensor = model(z, camera, generator=torch.Generator().manual_seed(2)).image
    return image


def logits(model: nn.Module, image: Tensor) -> Tensor:
    out: Tensor = model(image)
    return out


MODELS: dict[str, tuple[Callable[[], nn.Module], Run, tuple[int, ...]]] = {
    "generator": (generator, picture, (8,)),
    "discriminator": (discriminator, logits, (3, 16, 16)),
}
SHAPES = {"generator": (3, 16, 16), "discriminator": (1,)}


@pytest.fixture
def float64_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def given(name: str, batch: int = 4) -> Tensor:
    return torch.randn(batch, *MODELS[name][2], generator=torch.Generator().manual_seed(3), dtype=torch.float32)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_autocast_changes_nothing(name: str, half: torch.dtype) -> None:
    make, run, _ = MODELS[name]
    model, x = make(), given(name)
    want = run(model, x)
    with torch.autocast("cpu", half):
        got = run(model, x)
        (grad,) = torch.autograd.grad(got.square().sum(), next(model.parameters()))
    assert got.dtype == grad.dtype == torch.float32
    assert torch.equal(got, want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_inputs_of_another_dtype_become_float32(name: str, dtype: torch.dtype) -> None:
    make, run, _ = MODELS[name]
    model, x = make(), given(name).half()
    assert torch.equal(run(model, x.to(dtype)), run(model, x.to(dtype).float()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_a_model_cast_as_a_whole_says_what_to_do(name: str, dtype: torch.dtype) -> None:
    make, run, _ = MODELS[name]
    model = make().to(dtype)
    with pytest.raises(TypeError, match=rf"parameters must be float32, got {dtype}; call .float\(\)"):
        run(model, given(name).to(dtype))
    assert run(model.float(), given(name)).dtype == torch.float32


@pytest.mark.parametrize("name", MODELS)
def test_results_do_not_depend_on_the_default_dtype(name: str, float64_default: None) -> None:
    make, run, _ = MODELS[name]
    model = make()
    tensors = [*model.parameters(), *model.buffers()]
    assert {t.dtype for t in tensors if t.is_floating_point()} == {torch.float32}
    got = run(model, given(name))
    torch.set_default_dtype(torch.float32)
    assert got.dtype == torch.float32 and torch.equal(got, run(make(), given(name)))


def test_cameras_do_not_depend_on_the_default_dtype(float64_default: None) -> None:
    cameras = CameraPrior().sample(3, torch.Generator().manual_seed(0))
    again = Camera.from_json(cameras.to_json())
    assert cameras.cam2world.dtype == again.cam2world.dtype == torch.float32
    assert cameras.tan_half_fov.dtype == again.tan_half_fov.dtype == torch.float32


@pytest.mark.parametrize("name", MODELS)
def test_an_empty_batch_gives_an_empty_result_and_no_gradient(name: str) -> None:
    make, run, _ = MODELS[name]
    model = make()
    out = run(model, given(name, 0))
    assert tuple(out.shape) == (0, *SHAPES[name])
    for grad in torch.autograd.grad(out.sum(), list(model.parameters()), allow_unused=True):
        assert grad is None or not grad.any()


@pytest.mark.parametrize("mode", ["nn_cat", "pixelshuffle", "bilinear", "default"])
def test_an_empty_batch_through_every_upsampler(mode: str) -> None:
    assert picture(generator(mode), given("generator", 0)).shape == (0, 3, 16, 16)
