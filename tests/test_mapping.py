"""The mapping network: hand-computed values, reference numbers, truncation, the average, errors."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stylenerf.models.mapping import MappingNetwork
from stylenerf.models.official import generator_name
from tests.closeness import assert_relative
from tests.conftest import Fixture, load_fixture
from tests.inputs import seeded, source

PSI = {"out_psi1": {}, "out_psi07": {"truncation_psi": 0.7}}
OUTPUTS = {
    "uncond": PSI
    | {"out_psi07_cut2": {"truncation_psi": 0.7, "truncation_cutoff": 2}, "out_psi0": {"truncation_psi": 0}},
    "cond": PSI,
    "conly": {"out_y": {}},
}
COMPARED = {
    "units.npz": [
        *(f"mapping/{case}/{output}" for case in OUTPUTS for output in OUTPUTS[case]),
        *(f"mapping/{case}/{field}" for case in OUTPUTS for field in ("sd/*", "in0")),
        *("mapping/cond/in1", "mapping/conly/in1", "mapping/uncond/w_avg_after_train"),
    ]
}


def reference(f: Fixture, case: str) -> tuple[MappingNetwork, Tensor | None, Tensor | None]:
    z, label = f[f"mapping/{case}/in0"], f[f"mapping/{case}/in1"] if case != "uncond" else None
    state = {f"mapping.{name}": value for name, value in f.state(f"mapping/{case}/sd/").items()}
    layers = sum(name.startswith("mapping.fc") for name in state) // 2
    width = 0 if label is None else label.shape[1]
    rows = None if case == "conly" else 5
    net = MappingNetwork(z.shape[1], width, 16, rows, num_layers=layers)
    net.load_state_dict({str(generator_name(name)).removeprefix("mapping."): value for name, value in state.items()})
    return net.eval(), z if z.shape[1] else None, label


def latents(n: int = 4) -> Tensor:
    return torch.randn(n, 6, generator=source(0))


def tiny() -> MappingNetwork:
    return seeded(lambda: MappingNetwork(6, 0, 5, 3, num_layers=2)).eval()


def test_hand_computed() -> None:
    net = MappingNetwork(2, 0, 1, 2, num_layers=1)
    net.load_state_dict({"layers.0.weight": torch.tensor([[100.0, 300.0]]), "layers.0.bias": torch.tensor([100.0]),
                         "w_avg": torch.tensor([3.0])})  # fmt: skip
    # z / sqrt((1 + 49) / 2) = (0.2, 1.4); (1 * 0.2 + 3 * 1.4) / sqrt 2 + 1, times sqrt 2
    w = 4.4 + math.sqrt(2)
    z = torch.tensor([[1.0, 7.0]])
    torch.testing.assert_close(net(z), torch.full((1, 2, 1), w))
    truncated = net.eval()(z, truncation_psi=0.5, truncation_cutoff=1)
    moved = 3.0 + 0.005 * (w - 3.0)  # the call in training mode has moved the average
    torch.testing.assert_close(truncated.flatten(), torch.tensor([(moved + w) / 2, w]))


@pytest.mark.parametrize("case, output", [(case, output) for case in OUTPUTS for output in OUTPUTS[case]])
def test_reference_numbers(case: str, output: str) -> None:
    f = load_fixture("units.npz")
    net, z, label = reference(f, case)
    assert_relative(output, net(z, label, **OUTPUTS[case][output]), f[f"mapping/{case}/{output}"])


def test_average_reference_numbers() -> None:
    f = load_fixture("units.npz")
    net, z, label = reference(f, "uncond")
    net.train()(z, label)
    assert_relative("w_avg", net.w_avg, f["mapping/uncond/w_avg_after_train"])


def test_average_moves_in_training_only() -> None:
    net, before = tiny(), tiny().w_avg.clone()
    net(latents())
    net.train()(latents(), update_average=False)
    assert torch.equal(net.w_avg, before)
    w = net(latents())[:, 0]
    torch.testing.assert_close(net.w_avg, 0.995 * before + 0.005 * w.mean(0).detach())
    assert not net.w_avg.requires_grad


def test_full_truncation_is_the_average() -> None:
    net = tiny()
    torch.testing.assert_close(net(latents(), truncation_psi=0), net.w_avg.expand(4, 3, 5))


def test_length_of_z_does_not_matter() -> None:
    torch.testing.assert_close(tiny()(latents()), tiny()(7 * latents()))


def test_label_matters() -> None:
    net = seeded(lambda: MappingNetwork(6, 2, 5, 3)).eval()
    a, b = net(latents(), torch.tensor([[1.0, 0]] * 4)), net(latents(), torch.tensor([[0, 1.0]] * 4))
    assert (a - b).abs().max() > 1e-3


def test_derivatives() -> None:
    net = tiny()
    z = latents(2).requires_grad_()
    (grad,) = torch.autograd.grad(net(z).square().sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(grad.square().sum(), z)
    assert torch.isfinite(second).all() and second.abs().max() > 0


Z = torch.zeros(2, 6)
BAD: dict[str, tuple[str, Callable[[], Tensor]]] = {
    "width": (r"z must be \[B, 6\], got \[2, 5\]", lambda: tiny()(Z[:, :5])),
    "absent": (r"z must be \[B, 6\], got None", lambda: tiny()(None)),
    "no label": (r"label must be \[B, 2\], got None", lambda: MappingNetwork(6, 2, 5, 3)(Z)),
    "label": (r"label must be \[B, 2\], got \[2, 6\]", lambda: MappingNetwork(6, 2, 5, 3)(Z, Z)),
    "nothing to map": ("needs z_dim > 0 or label_dim > 0", lambda: MappingNetwork(0, 0, 5, 3)(None)),
    "no average": (
        "truncation_psi must be 1 for a mapping network without an average",
        lambda: MappingNetwork(6, 0, 5, 3, w_avg_decay=None)(Z, truncation_psi=0.5),
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_errors(name: str) -> None:
    text, call = BAD[name]
    with pytest.raises(ValueError, match=text):
        call()
