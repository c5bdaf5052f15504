"""composite as a kernel, rays of one length: against the plain form, mixed dtypes of its launcher, errors."""

from functools import partial
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stylenerf.kernels.rays.composite_triton import composite as registered
from stylenerf.kernels.rays.composite_triton import launch_composite, launch_composite_backward
from stylenerf.kernels.rays.volume import composite
from tests.closeness import assert_no_worse_than_torch
from tests.gradients import DEVICE, assert_derivatives_match, assert_kernel_matches, outputs_and_gradients
from tests.inputs import source
from tests.roundings import several_roundings

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TRITON, REF = partial(composite, impl="triton"), partial(composite, impl="ref")


class Case(NamedTuple):
    rays: tuple[int, ...]
    samples: int
    channels: int
    strided: bool = False


CASES = {
    "one": Case((1,), 1, 1),
    "no ray dims": Case((), 5, 3),
    "odd": Case((2, 3), 7, 5),
    "released": Case((3,), 28, 128),
    "depths": Case((17,), 14, 1),
    "block - 1": Case((15,), 4, 3),  # 16 rays a block
    "block + 1": Case((17,), 4, 3),
    "chunk - 1": Case((2,), 15, 100),  # 16 samples a chunk
    "chunk": Case((2,), 16, 100),
    "chunk + 1": Case((2,), 17, 100),
    "channels - 1": Case((2,), 3, 127),
    "channels": Case((2,), 3, 128),
    "channels + 1": Case((2,), 3, 129),
    "wide": Case((2,), 5, 300),
    "strided": Case((3, 2), 6, 4, strided=True),
    "no rays": Case((0,), 5, 2),
    "no samples": Case((3,), 0, 2),
    "no channels": Case((3,), 2, 0),
}


def make(case: Case, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    g = source(1)
    weights = torch.rand(*case.rays, case.samples, generator=g, dtype=torch.float64)
    features = torch.randn(*case.rays, case.samples, case.channels, generator=g, dtype=torch.float64)
    if case.strided:
        weights = weights[:1].expand_as(weights)
        features = features.transpose(0, -1).contiguous().transpose(0, -1)
    return {"weights": weights.to(DEVICE, dtype), "features": features.to(DEVICE, dtype)}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_matches_the_plain_form(case: str, dtype: torch.dtype) -> None:
    assert_kernel_matches(TRITON, REF, make(CASES[case], dtype))


@settings(max_examples=15, deadline=None)
@given(rays=st.integers(0, 20), samples=st.integers(0, 40), channels=st.integers(0, 140))
def test_matches_at_any_size(rays: int, samples: int, channels: int) -> None:
    assert_kernel_matches(TRITON, REF, make(Case((rays,), samples, channels)))


@pytest.mark.parametrize("needed", ["weights", "features"])
def test_gradient_of_one_input_alone(needed: str) -> None:
    inputs = make(CASES["chunk + 1"])
    every = outputs_and_gradients(TRITON, inputs)
    got = outputs_and_gradients(lambda x: TRITON(*(inputs | {needed: x}).values()), {needed: inputs[needed]})
    assert torch.equal(got[f"gradient of {needed}"], every[f"gradient of {needed}"])


@pytest.mark.parametrize("case", ["odd", "no samples"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_launcher_adds_features_of_another_dtype(case: str, dtype: torch.dtype) -> None:
    inputs = make(CASES[case])
    features = inputs["features"].to(dtype)
    before = torch.ones(*CASES[case].rays, CASES[case].channels, device=DEVICE)
    out = launch_composite(inputs["weights"], features, before.clone(), accumulate=True)
    plain = several_roundings(lambda: before + REF(inputs["weights"], features.float()))
    exact = before.double() + REF(inputs["weights"].double(), features.double())
    assert_no_worse_than_torch("sum", out, plain, exact)
    torch.testing.assert_close(launch_composite(inputs["weights"], features), out - 1, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_launcher_returns_each_gradient_in_its_own_dtype(dtype: torch.dtype) -> None:
    inputs = make(CASES["odd"])
    weights, features = inputs["weights"], inputs["features"].to(dtype)
    grad = torch.randn(2, 3, 5, generator=source(2)).to(DEVICE)
    got_weights, got_features = launch_composite_backward(grad, weights, features)
    exact_weights = (grad.double()[..., None, :] * features.double()).sum(-1)
    exact_features = grad.double()[..., None, :] * weights.double()[..., None]
    assert got_weights.dtype == torch.float32 and got_features.dtype == dtype
    assert_no_worse_than_torch("weights", got_weights, [exact_weights.float()], exact_weights)
    assert_no_worse_than_torch("features", got_features, [exact_features.to(dtype)], exact_features)


def test_second_order() -> None:
    inputs = make(CASES["odd"])
    assert_derivatives_match(TRITON, REF, inputs)


def test_registered_as_torch_wants_it() -> None:
    args = [x.requires_grad_() for x in make(CASES["odd"]).values()]
    torch.library.opcheck(
        registered, (*args, None), test_utils=("test_schema", "test_faketensor", "test_autograd_registration")
    )


def test_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="composite: impl='triton' does not cover float64; use impl='ref'"):
        TRITON(*make(CASES["one"], torch.float64).values())
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match="composite: impl='triton' needs CUDA tensors, got device cpu"):
        TRITON(*(x.cpu() for x in make(CASES["one"]).values()))
