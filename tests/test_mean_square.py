"""mean_square: plain form and kernel, memory formats, repeatability, errors."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stylenerf.kernels.blocks.mean_square import mean_square
from stylenerf.kernels.blocks.mean_square_triton import BLOCK, square_sum
from tests.closeness import assert_no_worse_than_torch
from tests.gradients import DEVICE
from tests.inputs import source
from tests.roundings import several_roundings

SHAPES: dict[str, tuple[int, ...]] = {
    "no dims": (),
    "one": (1,),
    "odd": (2, 3, 5, 7),
    "block - 1": (BLOCK - 1,),
    "block": (BLOCK,),
    "block + 1": (1, BLOCK + 1),
}


def make(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=source(0)).to(DEVICE, dtype)


def test_by_hand() -> None:
    x = torch.tensor([[1.0, -2.0], [3.0, 0.0]])  # (1 + 4 + 9 + 0) / 4
    assert mean_square(x).item() == mean_square(x.to(DEVICE), impl="triton").item() == 3.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_matches_the_plain_form(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = make(shape, dtype)
    exact = x.double().square().mean()
    plain = several_roundings(lambda: mean_square(x, impl="ref"))
    assert_no_worse_than_torch("mean", mean_square(x, impl="triton"), plain, exact)


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(1, 3),
    "with gaps": lambda x: x[:, ::2],
    "expanded": lambda x: x[..., :1].expand(2, 6, 5, 3),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_reads_tensors_as_they_lie(view: Callable[[Tensor], Tensor]) -> None:
    x = view(make((2, 6, 5, 4)))
    torch.testing.assert_close(mean_square(x, impl="triton"), mean_square(x, impl="ref"))


def test_several_rounds_and_the_same_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stylenerf.kernels.blocks.mean_square_triton.PROGRAMS", 2)
    x = make((5 * BLOCK + 3,))
    got = mean_square(x, impl="triton")
    assert torch.equal(got, mean_square(x, impl="triton"))
    torch.testing.assert_close(got, mean_square(x, impl="ref"))


@pytest.mark.parametrize("impl", ["ref", "triton"])
def test_carries_no_gradient_and_knows_the_empty(impl: str) -> None:
    assert not mean_square(make((3,)).requires_grad_(), impl=impl).requires_grad  # type: ignore[arg-type]
    assert mean_square(make((0, 4)), impl=impl).isnan()  # type: ignore[arg-type]


def test_registered_as_torch_wants_it() -> None:
    torch.library.opcheck(square_sum, (make((3, 4)),), test_utils=("test_schema", "test_faketensor"))


def test_errors() -> None:
    with pytest.raises(TypeError, match=r"x must be one of .*, got torch.int64"):
        mean_square(torch.zeros(3).long())
    with pytest.raises(RuntimeError, match=r"mean_square: impl='triton' does not cover float64"):
        mean_square(torch.zeros(3).double(), impl="triton")
