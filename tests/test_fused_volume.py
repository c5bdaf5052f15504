"""volume_weights as a kernel, rays of one length: against the plain form, at the ends of its range, errors."""

from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stylenerf.kernels.rays.volume import FarEnd, volume_weights
from stylenerf.kernels.rays.volume_triton import volume_weights as registered
from tests.gradients import DEVICE, assert_derivatives_match, assert_kernel_matches, outputs_and_gradients
from tests.inputs import source

ENDS: tuple[FarEnd, FarEnd] = ("open", "opaque")


class Case(NamedTuple):
    rays: tuple[int, ...]
    samples: int
    density: float = 8.0  # standard deviation, on a ray of unit length
    strided: bool = False


CASES = {
    "one": Case((1,), 1),
    "no ray dims": Case((), 5),
    "odd": Case((2, 3), 7),
    "released": Case((5,), 14),
    "block - 1": Case((15,), 28),  # 16 rays a block
    "block": Case((16,), 28),
    "block + 1": Case((17,), 28),
    "chunk - 1": Case((2,), 127),
    "chunk": Case((5,), 128),
    "chunk + 1": Case((5,), 129),
    "long": Case((2,), 300),
    "thin": Case((3,), 9, density=1e-3),
    "surface": Case((3,), 9, density=1e5),
    "overflow": Case((3,), 9, density=1e38),
    "strided": Case((4, 3), 6, strided=True),
    "no rays": Case((0,), 5),
    "empty batch": Case((2, 0), 3),
}


def make(case: Case, *, norm: bool = True, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Densities of both signs, ascending depths, ray norms."""
    g = source(0)
    shape = (*case.rays, case.samples)
    density = case.density * (torch.randn(shape, generator=g, dtype=torch.float64) + 0.5)
    depths = (1 + torch.rand(shape, generator=g, dtype=torch.float64)).sort(-1).values
    if case.strided:
        density = density.movedim(-1, 0).contiguous().movedim(0, -1)
        depths = depths[:1].expand(shape)
    inputs = {"density": density, "depths": depths}
    if norm:
        inputs["ray_norm"] = 0.5 + torch.rand(case.rays, generator=g, dtype=torch.float64)
    return {name: x.to(DEVICE, dtype) for name, x in inputs.items()}


def weights(end: FarEnd, impl: Any, density: Tensor, depths: Tensor, norm: Tensor | None = None) -> tuple[Tensor, ...]:
    return tuple(volume_weights(density, depths, ray_norm=norm, far_end=end, impl=impl))


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("case", CASES)
def test_matches_the_plain_form(case: str, end: FarEnd) -> None:
    assert_kernel_matches(partial(weights, end, "triton"), partial(weights, end, "ref"), make(CASES[case]))


@pytest.mark.parametrize("case", ["odd", "chunk + 1"])
def test_matches_without_a_norm(case: str) -> None:
    inputs = make(CASES[case], norm=False)
    assert_kernel_matches(partial(weights, "open", "triton"), partial(weights, "open", "ref"), inputs)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("output", [0, 1], ids=["weights", "transmittance"])
def test_one_output_alone(output: int, end: FarEnd) -> None:
    def pick(impl: Any, *args: Tensor) -> Tensor:
        return weights(end, impl, *args)[output]

    assert_kernel_matches(partial(pick, "triton"), partial(pick, "ref"), make(CASES["odd"]))


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(rays=st.integers(0, 40), samples=st.integers(1, 140), end=st.sampled_from(ENDS), density=st.floats(0.1, 1e3))
def test_matches_at_any_size(rays: int, samples: int, end: FarEnd, density: float) -> None:
    inputs = make(Case((rays,), samples, density))
    assert_kernel_matches(partial(weights, end, "triton"), partial(weights, end, "ref"), inputs)


@pytest.mark.parametrize("end", ENDS)
def test_nothing_is_lost(end: FarEnd) -> None:
    got, trans = weights(end, "triton", *make(CASES["long"]).values())
    total = got.sum(-1) + (trans if end == "open" else 0)
    torch.testing.assert_close(total, torch.ones_like(trans), atol=3e-7, rtol=0)


@pytest.mark.parametrize("needed", ["density", "depths", "ray_norm"])
def test_gradient_of_one_input_alone(needed: str) -> None:
    inputs = make(CASES["odd"])
    every = outputs_and_gradients(partial(weights, "open", "triton"), inputs)

    def alone(x: Tensor) -> tuple[Tensor, ...]:
        return weights("open", "triton", *(inputs | {needed: x}).values())

    got = outputs_and_gradients(alone, {needed: inputs[needed]})
    assert torch.equal(got[f"gradient of {needed}"], every[f"gradient of {needed}"])


@pytest.mark.parametrize("name", ["density", "depths"])
@pytest.mark.parametrize("case", ["released", "long"])
def test_a_nan_stays_on_its_ray_and_behind(case: str, name: str) -> None:
    clean = make(CASES[case])
    broken = {n: x.clone() for n, x in clean.items()}
    broken[name][1, 9] = torch.nan
    want = outputs_and_gradients(partial(weights, "open", "triton"), clean)
    got = outputs_and_gradients(partial(weights, "open", "triton"), broken)
    others = torch.arange(len(clean["density"])) != 1
    assert all(torch.equal(got[key][others], want[key][others]) for key in want)
    # the interval before a depth, behind a density
    start = 8 if name == "depths" else 9
    assert torch.equal(got["output 0"][1, :start], want["output 0"][1, :start])
    assert got["output 0"][1, start:].isnan().all() and got["output 1"][1].isnan()
    assert got["gradient of density"][1, :-1].isnan().any()


def test_second_order() -> None:
    kernel, plain = (partial(weights, "opaque", impl) for impl in ("triton", "ref"))
    assert_derivatives_match(kernel, plain, make(CASES["odd"]))


@pytest.mark.parametrize("norm", [False, True])
def test_registered_as_torch_wants_it(norm: bool) -> None:
    inputs = make(CASES["odd"], norm=norm)
    args = [x.requires_grad_() for x in inputs.values()]
    args = (*args, *([] if norm else [None]), True, None)
    torch.library.opcheck(registered, args, test_utils=("test_schema", "test_faketensor", "test_autograd_registration"))


def test_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="volume_weights: impl='triton' does not cover float64; use impl='ref'"):
        weights("open", "triton", *make(CASES["one"], dtype=torch.float64).values())
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match="volume_weights: impl='triton' needs CUDA tensors, got device cpu"):
        weights("open", "triton", *(x.cpu() for x in make(CASES["one"]).values()))
