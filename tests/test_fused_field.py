"""A field at points as kernels: evaluate_field and evaluate_density, how weights are packed, which fields fit."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stylenerf.kernels.base.launch import launch, record_launches
from stylenerf.kernels.rays import render_backward as passes_backward
from stylenerf.kernels.rays.field_triton import field_tile, pack, padded_width, unpack, unsupported
from stylenerf.kernels.rays.render import FieldWeights, evaluate_density, evaluate_field
from tests.closeness import assert_each_no_worse_than_torch
from tests.gradients import DEVICE, assert_kernel_matches, outputs_and_gradients
from tests.inputs import FieldCase, make_field, make_points, source
from tests.ray_runs import BLUNT, ULP, field_of, field_tensors
from tests.rounded import rounded_field
from tests.roundings import several_roundings

SMALL = FieldCase(batch=1, rays=1, hidden=7, depth=2)  # ``samples`` is the number of points
CASES: dict[str, FieldCase] = {
    "one": FieldCase(batch=1, rays=1, samples=1, hidden=1, depth=1, num_freqs=1),
    "odd": FieldCase(rays=1, samples=23),
    "shared": FieldCase(rays=1, samples=9, per_image=False),
    "deep": FieldCase(rays=1, samples=9, depth=10, hidden=32, num_freqs=10),
    "one dimension": replace(SMALL, dims=1),
    "two dimensions": replace(SMALL, dims=2),
    "four dimensions": replace(SMALL, dims=4, num_freqs=10),
    "twelve octaves": replace(SMALL, num_freqs=12),
    "all columns": replace(SMALL, dims=4, num_freqs=16),
    "no points": replace(SMALL, samples=0),
    "no points, wide": replace(SMALL, samples=0, hidden=40),
    "no images": FieldCase(batch=0, rays=1, per_image=False),
    "no images, wide": FieldCase(batch=0, rays=1, hidden=40),
}


def inputs(case: FieldCase) -> dict[str, Tensor]:
    """Points [B, N, D] and the field's tensors, float32."""
    points = make_points(case, dtype=torch.float32, device=DEVICE).flatten(1, 2)
    return {"points": points} | field_tensors(make_field(case, dtype=torch.float32, device=DEVICE))


def op(case: FieldCase, impl: str, precision: str = "fp32") -> Callable[..., tuple[Tensor, Tensor]]:
    names = list(inputs(case))[1:]

    def run(points: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        field = field_of(case, dict(zip(names, tensors)))
        return evaluate_field(points, field, impl=impl, precision=precision)  # type: ignore[arg-type]

    return run


def density(case: FieldCase, impl: str, precision: str = "fp32") -> Callable[..., Tensor]:
    names = list(inputs(case))[1:]

    def run(points: Tensor, *tensors: Tensor) -> Tensor:
        field = field_of(case, dict(zip(names, tensors)))
        return evaluate_density(points, field, impl=impl, precision=precision)  # type: ignore[arg-type]

    return run


@pytest.mark.parametrize("name", CASES)
def test_matches_the_plain_form(name: str) -> None:
    case = CASES[name]
    assert_kernel_matches(op(case, "triton"), op(case, "ref"), inputs(case))


@pytest.mark.parametrize("width", [32, 64, 100])
def test_matches_at_width(width: int) -> None:
    case = replace(SMALL, hidden=width, samples=5)
    assert_kernel_matches(op(case, "triton"), op(case, "ref"), inputs(case))


@pytest.mark.slow
@pytest.mark.parametrize("num_freqs", [1, 10, 12])
@pytest.mark.parametrize(
    "width, depth",
    [*((w, d) for w in (1, 7, 32, 64) for d in (1, 2, 3, 8, 10)), (100, 3), (128, 8), (200, 2), (256, 3)],
)
def test_sweep(width: int, depth: int, num_freqs: int) -> None:
    case = FieldCase(rays=1, samples=7, hidden=width, depth=depth, num_freqs=num_freqs, dims=4)
    assert_kernel_matches(op(case, "triton"), op(case, "ref"), inputs(case))


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_matches_at_the_edge_of_a_tile(over: int) -> None:
    points = field_tile(32, "fp32", DEVICE, keep=False).rows
    case = replace(SMALL, batch=2, samples=2 * points + over)
    assert_kernel_matches(op(case, "triton"), op(case, "ref"), inputs(case))


@settings(max_examples=6, deadline=None)
@given(
    samples=st.integers(0, 70),
    hidden=st.integers(1, 36),
    depth=st.integers(1, 4),
    dims=st.integers(1, 4),
    num_freqs=st.integers(1, 6),
    per_image=st.booleans(),
    negative_slope=st.floats(0, 1),
)
def test_matches_at_any_size(**shape: Any) -> None:
    case = FieldCase(rays=1, **shape)
    assert_kernel_matches(op(case, "triton"), op(case, "ref"), inputs(case))


@pytest.mark.parametrize("hidden", [7, 40])
def test_density_alone(hidden: int) -> None:
    case = FieldCase(rays=1, samples=9, hidden=hidden)
    assert_kernel_matches(density(case, "triton"), density(case, "ref"), inputs(case))
    got = density(case, "triton", "fp16")(*inputs(case).values())
    assert torch.equal(got, op(case, "triton", "fp16")(*inputs(case).values())[1])


@pytest.mark.parametrize("output", [0, 1], ids=["hidden", "density"])
def test_one_output_alone(output: int) -> None:
    case = FieldCase(rays=1, samples=9)

    def pick(impl: str) -> Callable[..., Tensor]:
        return lambda *args: op(case, impl)(*args)[output]

    assert_kernel_matches(pick("triton"), pick("ref"), inputs(case))


HALF: dict[str, FieldCase] = {
    "odd": FieldCase(rays=1, samples=23),
    "tile - 1": replace(SMALL, samples=127),
    "tile": replace(SMALL, samples=128),
    "tile + 1": replace(SMALL, samples=129),
    "64 wide": FieldCase(rays=1, samples=30, hidden=64, depth=8, num_freqs=10, dims=4, negative_slope=BLUNT),
    "128 wide": FieldCase(rays=1, samples=30, hidden=128, negative_slope=BLUNT),
    "256 wide": replace(SMALL, samples=30, hidden=256, negative_slope=BLUNT),
    "no points": replace(SMALL, samples=0, hidden=200),
}


@pytest.mark.parametrize("name, precision", [(n, "fp16") for n in HALF] + [("odd", "bf16"), ("256 wide", "bf16")])
def test_matches_a_rounded_field(name: str, precision: str) -> None:
    case = HALF[name]
    got = outputs_and_gradients(op(case, "triton", precision), inputs(case))
    unrounded = outputs_and_gradients(op(case, "ref"), inputs(case), torch.float64)
    with rounded_field(precision, gradients=False):
        exact = outputs_and_gradients(op(case, "ref"), inputs(case), torch.float64)
    with rounded_field(precision, gradients=True):
        plain = several_roundings(lambda: outputs_and_gradients(op(case, "ref"), inputs(case)))
        assert_each_no_worse_than_torch(got, plain, exact, floor=ULP[precision])
        assert_each_no_worse_than_torch(got, plain, unrounded, floor=ULP[precision])


@pytest.mark.skipif(DEVICE.type == "cuda", reason="TensorFloat-32 is float32 only where it is interpreted")
@pytest.mark.parametrize("hidden", [64, 65])
def test_tf32_takes_the_same_way(hidden: int) -> None:
    case = replace(SMALL, hidden=hidden, samples=70)
    assert_kernel_matches(op(case, "triton", "tf32"), op(case, "ref"), inputs(case))


@pytest.mark.parametrize("hidden", [7, 40])
def test_portions_add_up(hidden: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = FieldCase(batch=3, rays=1, samples=25, hidden=hidden, depth=2)
    monkeypatch.setattr(passes_backward, "WORKSPACE_BYTES", 10 * case.depth * padded_width(make_field(case)) * 4)
    assert_kernel_matches(op(case, "triton"), op(case, "ref"), inputs(case))


def test_any_strides() -> None:
    case = FieldCase(rays=1, samples=9)
    given_ = inputs(case)
    strided = {name: t.transpose(0, -1).contiguous().transpose(0, -1) for name, t in given_.items()}
    assert not strided["points"].is_contiguous() and not strided["weights[1]"].is_contiguous()
    want = outputs_and_gradients(op(case, "triton"), given_)
    got = outputs_and_gradients(op(case, "triton"), strided)
    assert all(torch.equal(got[name], want[name]) for name in want)


def test_packed_hand_computed() -> None:
    # two octaves of three coordinates: sines of octave 0 are columns 0-2, cosines 3-5, sines of octave 1 6-8, ...
    weight = torch.arange(24.0).view(2, 12)
    square = torch.tensor([[1.0, 2], [3, 4]])
    bias = torch.tensor([[1.0, 2], [3, 4]])  # one per image
    field = FieldWeights((weight, square), (bias, bias[0]), torch.tensor([5.0, 6]), torch.tensor([7.0]), 2, gain=2.0)
    first, rest, biases, head, head_bias = pack(field, 3)
    assert first.shape == (1, 2, 32, 16) and rest.shape == (1, 1, 32, 32) and biases.shape == (2, 2, 32)
    assert first[0, 0, 0, :6].tolist() == [0, 2, 4, 12, 14, 16] and first[0, 1, 0, :6].tolist() == [
        6,
        8,
        10,
        18,
        20,
        22,
    ]
    assert first[0, 0, 1, :6].tolist() == [24, 26, 28, 36, 38, 40]
    assert rest[0, 0, :2, :2].tolist() == [[2, 4], [6, 8]]
    assert biases[:, 0, :2].tolist() == [[2, 4], [6, 8]] and biases[:, 1, :2].tolist() == [[2, 4], [2, 4]]
    assert head[0, :2].tolist() == [5, 6] and head_bias.tolist() == [7]  # no activation, no gain
    counted = [t.count_nonzero().item() for t in (first, rest, biases, head)]
    assert counted == [23, 4, 8, 2]  # zeros are all that was added; the first weight is one itself


@pytest.mark.parametrize("name", ["odd", "shared", "one dimension", "all columns", "no images"])
def test_packing_changes_nothing(name: str) -> None:
    case = CASES[name]
    field, points = make_field(case), make_points(case).flatten(1, 2)
    packed = unpack(pack(field, case.dims), case.num_freqs, case.dims, case.negative_slope)
    got, want = (evaluate_field(points, f, impl="ref") for f in (packed, field))
    torch.testing.assert_close(got[0][..., : case.hidden], want[0])
    torch.testing.assert_close(got[1], want[1])
    assert not got[0][..., case.hidden :].any()


def test_layers_of_different_width() -> None:
    widths, g = (18, 5, 9, 3), source(9)
    named = {f"weights[{i}]": torch.randn(2, o, n, generator=g) / n**0.5 for i, (n, o) in enumerate(pairwise(widths))}
    named |= {f"biases[{i}]": torch.randn(o, generator=g) for i, o in enumerate(widths[1:])}
    named |= {"density_weight": torch.randn(3, generator=g), "density_bias": torch.randn(1, generator=g)}
    case = FieldCase(rays=1, depth=3)
    given_ = {"points": inputs(case)["points"]} | {name: t.to(DEVICE) for name, t in named.items()}
    assert_kernel_matches(op(case, "triton"), op(case, "ref"), given_)


FIELD = make_field(SMALL, dtype=torch.float32)
REASONS: dict[str, tuple[str, FieldWeights, int, torch.dtype]] = {
    "float64": ("torch.float64", FIELD, 3, torch.float64),
    "skips": ("a field with skips", replace(FIELD, skips=(1,)), 3, torch.float32),
    "slope": ("negative_slope 1.5 outside 0..1", replace(FIELD, negative_slope=1.5), 3, torch.float32),
    "minus": ("negative_slope -0.1 outside 0..1", replace(FIELD, negative_slope=-0.1), 3, torch.float32),
    "five dimensions": ("5 coordinates with 3 octaves", FIELD, 5, torch.float32),
    "octaves": ("3 coordinates with 22 octaves", replace(FIELD, num_freqs=22), 3, torch.float32),
    "width": ("width 300 above 256", make_field(replace(SMALL, hidden=300)), 3, torch.float32),
}


@pytest.mark.parametrize("name", REASONS)
def test_fields_that_do_not_fit(name: str) -> None:
    reason, field, dims, dtype = REASONS[name]
    got = unsupported(field, dims, dtype, 1000)
    assert got is not None and got.startswith(reason)


def test_fields_that_fit() -> None:
    edge = replace(FIELD, num_freqs=16, negative_slope=1.0)
    assert unsupported(edge, 4, torch.float32, 1000) is None
    assert unsupported(make_field(replace(SMALL, hidden=256)), 3, torch.float32, 1000) is None
    # offsets within an image have 32 bits: 2^26 points of 32 features are one too many
    assert unsupported(FIELD, 3, torch.float32, 2**26 - 1) is None
    assert unsupported(FIELD, 3, torch.float32, 10, 65535) is None
    assert unsupported(FIELD, 3, torch.float32, 10, 65536) == "a batch of 65536 images (at most 65535)"


@pytest.mark.parametrize("grid", [(4, 65536), (2**31,), (1, 1, 65536)])
def test_a_grid_beyond_the_limits_of_cuda_is_refused(grid: tuple[int, ...]) -> None:
    with record_launches(90) as launches, pytest.raises(RuntimeError, match="split the batch"):
        launch(None, grid)
    assert not launches
    assert unsupported(FIELD, 3, torch.float32, 2**26) is not None
