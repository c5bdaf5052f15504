"""Packed rays in the kernels: against the plain form, rays of any length beside each other."""

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stylenerf.kernels.rays.composite_triton import composite as registered_composite
from stylenerf.kernels.rays.volume import FarEnd, composite, render_volume, volume_weights
from stylenerf.kernels.rays.volume_triton import volume_weights as registered_weights
from tests.gradients import CHECKS, DEVICE, assert_derivatives_match, assert_kernel_matches, outputs_and_gradients
from tests.inputs import source

ENDS: tuple[FarEnd, FarEnd] = ("open", "opaque")
LENGTHS = {
    "one": [1],
    "mixed": [3, 0, 1, 5, 2],
    "block - 1": [2, 9, 4],  # 4 rays a block
    "block": [2, 9, 4, 1],
    "block + 1": [2, 9, 4, 1, 7],
    "chunk - 1": [31, 2],  # 32 samples a chunk
    "chunk": [32, 0, 2],
    "chunk + 1": [33, 2],
    "long beside short": [1, 200, 0, 3, 65],
    "all empty": [0, 0],
    "no rays": [],
}


def make(lengths: list[int], channels: int = 3) -> tuple[dict[str, Tensor], Tensor]:
    """Density, depths, features and ray norms; offsets."""
    g = source(3)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    density = 8 * torch.randn(sum(lengths), generator=g) + 4
    depths = torch.cat([torch.zeros(0), *(1 + torch.rand(n, generator=g).sort().values for n in lengths)])
    features = torch.randn(sum(lengths), channels, generator=g)
    norm = 0.5 + torch.rand(len(lengths), generator=g)
    inputs = {"density": density, "depths": depths, "features": features, "ray_norm": norm}
    return {name: x.to(DEVICE) for name, x in inputs.items()}, offsets.to(DEVICE)


def render(
    end: FarEnd, offsets: Tensor, impl: Any, density: Tensor, depths: Tensor, features: Tensor, norm: Tensor
) -> tuple[Tensor, ...]:
    return tuple(render_volume(density, depths, features, ray_norm=norm, far_end=end, offsets=offsets, impl=impl))


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("case", LENGTHS)
def test_matches_the_plain_form(case: str, end: FarEnd) -> None:
    inputs, offsets = make(LENGTHS[case])
    assert_kernel_matches(partial(render, end, offsets, "triton"), partial(render, end, offsets, "ref"), inputs)


@pytest.mark.parametrize("channels", [1, 64, 129])
def test_composite_of_any_width(channels: int) -> None:
    inputs, offsets = make(LENGTHS["long beside short"], channels)
    picked = {"weights": inputs["depths"], "features": inputs["features"]}
    assert_kernel_matches(*(partial(composite, offsets=offsets, impl=impl) for impl in ("triton", "ref")), picked)


@settings(max_examples=6, deadline=None)
@given(lengths=st.lists(st.integers(0, 70), max_size=9), end=st.sampled_from(ENDS))
def test_matches_for_any_lengths(lengths: list[int], end: FarEnd) -> None:
    inputs, offsets = make(lengths)
    assert_kernel_matches(partial(render, end, offsets, "triton"), partial(render, end, offsets, "ref"), inputs)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_offsets_of_any_kind(dtype: torch.dtype, stride: int) -> None:
    inputs, offsets = make(LENGTHS["mixed"])
    other = offsets.to(dtype).repeat_interleave(stride)[::stride]
    want = outputs_and_gradients(partial(render, "open", offsets, "triton"), inputs)
    got = outputs_and_gradients(partial(render, "open", other, "triton"), inputs)
    torch.testing.assert_close(got, want, atol=0, rtol=0)


def test_without_a_norm() -> None:
    inputs, offsets = make(LENGTHS["chunk + 1"])
    picked = {"density": inputs["density"], "depths": inputs["depths"]}

    def weights(impl: Any, *args: Tensor) -> tuple[Tensor, ...]:
        return tuple(volume_weights(*args, offsets=offsets, impl=impl))

    assert_kernel_matches(partial(weights, "triton"), partial(weights, "ref"), picked)


@pytest.mark.parametrize("end", ENDS)
def test_rays_of_one_length_are_the_fixed_form(end: FarEnd) -> None:
    inputs, offsets = make([40] * 5)
    packed = render(end, offsets, "triton", *inputs.values())
    grid = {name: x if name == "ray_norm" else x.view(5, 40, *x.shape[1:]) for name, x in inputs.items()}
    fixed = render_volume(**grid, far_end=end, impl="triton")
    torch.testing.assert_close(packed, tuple(fixed._replace(weights=fixed.weights.flatten())), atol=1e-6, rtol=1e-6)


def test_a_nan_stays_on_its_ray() -> None:
    lengths = LENGTHS["long beside short"]
    clean, offsets = make(lengths)
    broken = {name: x.clone() for name, x in clean.items()}
    broken["depths"][100] = torch.nan  # in the middle of the second ray
    want = outputs_and_gradients(partial(render, "open", offsets, "triton"), clean)
    got = outputs_and_gradients(partial(render, "open", offsets, "triton"), broken)
    rays = torch.arange(len(lengths), device=DEVICE) != 1
    samples = rays.repeat_interleave(torch.tensor(lengths, device=DEVICE))
    others = {key: samples if x.shape[:1] == samples.shape else rays for key, x in want.items()}
    assert all(torch.equal(got[key][others[key]], want[key][others[key]]) for key in want)
    assert got["output 1"][99:201].isnan().all() and not got["output 1"][:99].isnan().any()


def test_second_order() -> None:
    inputs, offsets = make(LENGTHS["mixed"])
    kernel, plain = (partial(render, "opaque", offsets, impl) for impl in ("triton", "ref"))
    assert_derivatives_match(kernel, plain, inputs)


def test_registered_as_torch_wants_it() -> None:
    inputs, offsets = make(LENGTHS["mixed"])
    density, depths, features, norm = (x.requires_grad_() for x in inputs.values())
    torch.library.opcheck(registered_weights, (density, depths, norm, False, offsets), test_utils=CHECKS)
    torch.library.opcheck(registered_composite, (density, features, offsets), test_utils=CHECKS)
