"""patch: networks with the call sites of StyleGAN2, StyleGAN3 and EG3D give the same on our ops, to second order."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from stylenerf.kernels.compat import patch
from stylenerf.kernels.compat.stylegan import arguments
from tests.closeness import assert_relative
from tests.inputs import seeded, source
from tests.standins.torch_utils import misc
from tests.standins.torch_utils.ops import bias_act, conv2d_gradfix, upfirdn2d
from tests.standins.training import networks_stylegan2, networks_stylegan3, triplane
from tests.standins.training.volumetric_rendering import ray_marcher, renderer

OPS, TRAINING = "tests.standins.torch_utils", "tests.standins.training"
Run = Callable[[nn.Module, Tensor], Tensor]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=source(seed))


def stylegan3(layer: nn.Module, w: Tensor) -> Tensor:
    out: Tensor = layer(normal(2, 4, 6, 6, seed=3), w)
    return out


def eg3d(generator: nn.Module, w: Tensor, **options: bool) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)  # the same draws for fine samples
        return torch.cat([part.flatten() for part in generator(w, **options)])


W = normal(2, 5, seed=1)
RUNS: dict[str, tuple[Callable[[], nn.Module], Run, Tensor]] = {
    "generator": (networks_stylegan2.Generator, lambda g, w: g(w), W),
    "generator, not fused": (networks_stylegan2.Generator, lambda g, w: g(w, fused_modconv=False), W),
    "discriminator": (networks_stylegan2.Discriminator, lambda d, image: d(image), normal(2, 3, 8, 8)),
    "StyleGAN3": (partial(networks_stylegan3.SynthesisLayer, 4, 3, 5), stylegan3, W),
    "EG3D": (triplane.TriPlaneGenerator, eg3d, W),
    "EG3D, white": (triplane.TriPlaneGenerator, partial(eg3d, white_back=True), W),
}


def everything(name: str) -> dict[str, Tensor]:
    """Output, gradients of input and parameters, and those of the squared gradient of the input (R1, path length)."""
    make, run, x = RUNS[name]
    network, x = seeded(make), x.clone().requires_grad_()
    network.requires_grad_()
    out = run(network, x)
    named = dict(network.named_parameters())
    cotangent = normal(*out.shape, seed=9)
    with conv2d_gradfix.no_weight_gradients(disable=name == "discriminator"):  # as training does for R1
        (slope,) = torch.autograd.grad(out, x, cotangent, create_graph=True)
    first = torch.autograd.grad(out, [*named.values()], cotangent, retain_graph=True)
    second = torch.autograd.grad(slope.square().sum(), [*named.values()], allow_unused=True, materialize_grads=True)
    results = {"output": out, "slope": slope}
    results |= {f"gradient of {n}": g for n, g in zip(named, first)}
    results |= {f"second gradient of {n}": g for n, g in zip(named, second)}
    return {n: t.detach() for n, t in results.items()}


@pytest.mark.parametrize("name", RUNS)
def test_networks_give_the_same(name: str) -> None:
    want = everything(name)
    with patch(OPS, TRAINING):
        got = everything(name)
    for key in want:
        assert_relative(key, got[key], want[key], 1e-5)
    assert any(not torch.equal(got[key], want[key]) for key in want)  # other ops did run


@pytest.mark.slow
def test_networks_give_the_same_on_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(arguments.IMPLS, "cuda", "triton")
    want = everything("StyleGAN3")
    with patch(OPS):
        got = everything("StyleGAN3")
    for key in want:
        assert_relative(key, got[key], want[key], 1e-5)


SWAPPED = {
    f"{OPS}.ops.bias_act.bias_act",
    f"{OPS}.ops.conv2d_gradfix.conv2d",
    f"{OPS}.ops.conv2d_gradfix.conv_transpose2d",
    f"{OPS}.ops.conv2d_gradfix.no_weight_gradients",
    f"{OPS}.ops.conv2d_resample.conv2d_resample",
    f"{OPS}.ops.filtered_lrelu.filtered_lrelu",
    f"{OPS}.ops.fma.fma",
    f"{OPS}.ops.grid_sample_gradfix.grid_sample",
    f"{OPS}.ops.upfirdn2d.downsample2d",
    f"{OPS}.ops.upfirdn2d.filter2d",
    f"{OPS}.ops.upfirdn2d.setup_filter",
    f"{OPS}.ops.upfirdn2d.upfirdn2d",
    f"{OPS}.ops.upfirdn2d.upsample2d",
    f"{TRAINING}.networks_stylegan2.modulated_conv2d",
    f"{TRAINING}.networks_stylegan3.modulated_conv2d",
    f"{TRAINING}.volumetric_rendering.ray_marcher.MipRayMarcher2.run_forward",
    f"{TRAINING}.volumetric_rendering.renderer.ImportanceRenderer.sample_importance",
    f"{TRAINING}.volumetric_rendering.renderer.ImportanceRenderer.sample_pdf",
    f"{TRAINING}.volumetric_rendering.renderer.grid_sample, imported by name",
    f"{TRAINING}.volumetric_rendering.renderer.project_onto_planes",
    f"{TRAINING}.volumetric_rendering.renderer.sample_from_planes",
}
THEIRS = [
    (bias_act, "bias_act"),
    (upfirdn2d, "upfirdn2d"),
    (networks_stylegan2, "modulated_conv2d"),
    (renderer, "grid_sample"),
    (ray_marcher.MipRayMarcher2, "run_forward"),
]


def test_says_what_it_swapped() -> None:
    done = patch(OPS, TRAINING)
    done.undo()
    assert set(done.swapped) == SWAPPED and len(done.swapped) == len(SWAPPED)
    assert done.left == []
    assert str(done).startswith("21 swapped:\n  tests.standins.torch_utils.ops.bias_act.bias_act\n")


def test_undo_puts_everything_back() -> None:
    before = [vars(owner)[name] for owner, name in THEIRS]
    with patch(OPS, TRAINING):
        assert all(vars(owner)[name] is not old for (owner, name), old in zip(THEIRS, before))
    assert all(vars(owner)[name] is old for (owner, name), old in zip(THEIRS, before))


@pytest.fixture
def script() -> Iterator[ModuleType]:
    """A module of the reader's own."""
    module = ModuleType("readers_script")
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


def test_names_imported_elsewhere(script: ModuleType) -> None:
    theirs, script.activate = bias_act.bias_act, bias_act.bias_act
    with patch(OPS) as done:
        assert script.activate is not theirs
        assert "readers_script.activate, imported by name" in done.swapped
        script.late = bias_act.bias_act  # imported meanwhile
    assert script.activate is script.late is bias_act.bias_act is theirs


def test_reports_what_it_cannot_reach() -> None:
    held = {"act": bias_act.bias_act}
    bound = partial(upfirdn2d.upsample2d, up=2)
    with patch(OPS) as done:
        assert held["act"] is not bias_act.bias_act and bound.func is not upfirdn2d.upsample2d
    assert f"{OPS}.ops.bias_act.bias_act: a dict holds theirs" in done.left
    assert f"{OPS}.ops.upfirdn2d.upsample2d: a partial holds theirs" in done.left


def test_a_second_time() -> None:
    with patch(OPS):
        again = patch(OPS)
    assert again.swapped == [] and f"{OPS}.ops.bias_act.bias_act: is ours already" in again.left


def test_leaves_functions_with_other_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    def bias_act_of_a_fork(x: Tensor, b: Tensor, dropout: float) -> Tensor:
        return x

    bias_act_of_a_fork.__module__ = bias_act.__name__
    monkeypatch.setattr(bias_act, "bias_act", bias_act_of_a_fork)
    with patch(OPS) as done:
        assert bias_act.bias_act is bias_act_of_a_fork
    assert f"{OPS}.ops.bias_act.bias_act: its parameters are x, b, dropout" in done.left


def test_leaves_functions_from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name for one of torch's own functions: swapping it by name would change torch."""
    own = torch.nn.functional.grid_sample
    monkeypatch.setattr(sys.modules[f"{OPS}.ops.grid_sample_gradfix"], "grid_sample", own)
    with patch(OPS):
        assert torch.nn.functional.grid_sample is own


@pytest.mark.parametrize("package", [misc.__name__, "tests.closeness"])
def test_nothing_to_swap(package: str) -> None:
    with pytest.raises(ValueError, match=f"packages must hold ops of StyleGAN2, .* got \\['{package}'\\]"):
        patch(package)


def test_no_such_package() -> None:
    before = bias_act.bias_act
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        patch(OPS, "no_such_package")
    assert bias_act.bias_act is before
