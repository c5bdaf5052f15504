"""The whole discriminator on kernels: R1 with every parameter's gradient against the plain form, reference numbers."""

import json
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stylenerf.engine.training.losses import r1_penalty
from stylenerf.kernels.base.register import namespace
from stylenerf.models.discriminator import Discriminator, DiscriminatorOptions
from stylenerf.models.growth import Growth
from stylenerf.models.official import discriminator_from_official, discriminator_name
from tests.closeness import assert_relative
from tests.conftest import Fixture, at_hand, load_fixture
from tests.gradients import DEVICE
from tests.inputs import make_image, seeded, tiny_discriminator_config
from tests.on_kernels import ops_as_on_a_device
from tests.recorded import discriminator as recorded
from tests.recorded.phases import compare_r1_step
from tests.sweeps import sweep

KERNELS = {"upfirdn2d", "bias_act", "bias_act_grad"}  # what a discriminator's passes of any order are made of
REPLACED = {"aten::leaky_relu", "aten::leaky_relu_backward", "aten::clamp"}  # what the plain forms are made of


class Seen(TorchDispatchMode):
    """The names of the ops that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name().partition(".")[0].replace(f"{namespace()}::", ""))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def on_kernels(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call it, and from then on every op of a discriminator that has a kernel runs it."""
    return lambda: ops_as_on_a_device(monkeypatch)


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


class Case(NamedTuple):
    config: dict[str, Any] | None = None
    level: int = 1  # of growth: 8 or 16 px
    blend: float | None = None
    twice: bool = False


CASES = {
    "skip, fading in": Case(blend=0.3),
    "skip, bound reached, two groups of two maps": Case({"clamp": 0.5, "group_size": 2, "group_channels": 2}, level=0),
    "resnet": Case({"architecture": "resnet"}, level=0),
}
MORE = {
    "skip": Case(),
    "skip, as the public code": Case(level=0, twice=True),
    "skip, not growing": Case({"progressive": False}),
    "skip, 32 px": Case({"resolution": 32}, level=2, blend=0.7),
    "resnet, fading in": Case({"architecture": "resnet"}, blend=0.3),
    "resnet, not growing": Case({"architecture": "resnet", "progressive": False}),
    "resnet, labels": Case({"architecture": "resnet", "label_dim": 3}, level=0),
    "orig, without statistics": Case({"architecture": "orig", "group_channels": 0}),
}


def r1(case: Case) -> dict[str, Tensor]:
    """Logits, penalty, and the gradient of the loss of a step with R1 in every parameter that has a share in it."""
    d = seeded(lambda: Discriminator(tiny_discriminator_config(**{"resolution": 16} | (case.config or {})))).to(DEVICE)
    edge = 8 * 2**case.level
    growth = Growth(edge, max(edge // 2, 8), case.level, case.blend)
    images = make_image((4, 3, edge, edge), device=DEVICE).requires_grad_()
    label = torch.eye(4, 3, device=DEVICE) if d.cfg.label_dim else None
    logits = d(images, label, options=DiscriminatorOptions(growth=growth, entry_rgb_twice=case.twice))
    penalty = r1_penalty(images, logits)
    (penalty.mean() + torch.nn.functional.softplus(-logits).mean()).backward()
    found = {"logits": logits, "penalty": penalty}
    return found | {name: p.grad for name, p in d.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("case", MORE.values(), ids=MORE)
def test_r1_in_more_forms(case: Case, on_kernels: Any) -> None:
    test_r1_is_that_of_the_plain_form(case, on_kernels)


@pytest.mark.parametrize("case", sweep(CASES, always=("resnet",)))
def test_r1_is_that_of_the_plain_form(case: Case, on_kernels: Any) -> None:
    want = r1(case)
    on_kernels()
    with Seen() as seen:
        got = r1(case)
    assert seen.names >= KERNELS and not seen.names & REPLACED
    assert got.keys() == want.keys() and "epilogue.conv.weight" in got
    for name, exact in want.items():
        assert_relative(name, got[name] / exact.abs().max(), exact / exact.abs().max())


@pytest.fixture
def reference(on_kernels: Any) -> tuple[Fixture, Discriminator]:
    f = load_fixture(recorded.FIXTURE)
    on_kernels()
    return f, discriminator_from_official(json.loads(f.text("meta/config_json")), f.state("sd/")).to(DEVICE)


SMALL = ("a0_16", "a025_32_tuple")


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in recorded.CASES if case not in SMALL])
def test_more_reference_logits(case: str, reference: tuple[Fixture, Discriminator]) -> None:
    test_reference_logits(case, reference)


@pytest.mark.parametrize("case", sweep(SMALL, always=SMALL[:1]))
def test_reference_logits(case: str, reference: tuple[Fixture, Discriminator]) -> None:
    f, d = reference
    logits = d(f[f"img{case.split('_')[1]}"].to(DEVICE), options=recorded.options_of(f, case))
    assert_relative(case, logits.cpu(), f[f"{case}/logits"])


@pytest.mark.slow
@pytest.mark.parametrize("case", at_hand(recorded.FIXTURE, recorded.TAPPED, "b8_img"))
def test_reference_blocks(case: str, reference: tuple[Fixture, Discriminator]) -> None:
    f, d = reference
    taps: dict[str, tuple[Tensor, Tensor]] = {}
    for name, block in d.blocks.items():
        block.register_forward_hook(lambda _m, _i, out, name=name: taps.__setitem__(name, out))
    d(f[f"img{case.split('_')[1]}"].to(DEVICE), options=recorded.options_of(f, case))
    assert tuple(int(name[1:]) for name in taps) == recorded.TAPPED[case]
    for name, (x, image) in taps.items():
        assert_relative(f"{name}_x", x[:, :4].cpu(), f[f"{case}/{name}_x_c4"])
        assert_relative(f"{name}_img", image.cpu(), f[f"{case}/{name}_img"])


@pytest.mark.slow
def test_reference_r1(reference: tuple[Fixture, Discriminator]) -> None:
    f, d = reference
    own = dict(d.requires_grad_(True).named_parameters())
    image = f["img64"].to(DEVICE).requires_grad_()
    penalty = r1_penalty(image, d(image))
    assert_relative("penalty", penalty.cpu(), f["r1/penalty"])
    (penalty * (f["r1/gamma"].to(DEVICE) / 2)).mean().backward()
    grads = [own[str(discriminator_name(name))].grad for name in json.loads(f.text("r1/param_names"))]
    norms = torch.stack([torch.tensor(-1.0) if g is None else g.norm().cpu() for g in grads])
    assert_relative("norms", norms.clamp_min(0), f["r1/param_grad_norms"].clamp_min(0))
    for name in f.keys("r1/grad/"):
        grad = own[str(discriminator_name(name))].grad
        assert grad is not None
        assert_relative(name, grad.cpu(), f[f"r1/grad/{name}"])


@pytest.mark.slow
@pytest.mark.skipif(DEVICE.type != "cpu", reason="these phases are written for the CPU")
@pytest.mark.parametrize("case", ["dreg_a1", "dreg_a025"])
def test_r1_step(case: str, on_kernels: Any) -> None:
    on_kernels()
    compare_r1_step(case)
