"""The rule that a kernel errs at most twice as much as plain torch: neither luck nor a planted fault decides it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.closeness import assert_no_worse_than_torch
from tests.gradients import assert_kernel_matches
from tests.inputs import source
from tests.roundings import Rounding, several_roundings

N = 4096


def numbers(seed: int = 0) -> Tensor:
    return torch.randn(N, generator=source(seed))


def total(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum()


def one_by_one(x: Tensor, y: Tensor) -> Tensor:
    """The same sum in another order, as a kernel may form it."""
    return (x * y).view(64, 64).sum(0).cumsum(0)[-1]


def test_one_lucky_rounding_of_plain_torch_does_not_fail_a_kernel() -> None:
    """Where plain torch meets the exact sum by chance, a kernel may still err as such a sum does."""
    x, y = 4 * numbers(), 4 * numbers(1)
    y[-1] -= (total(x.double(), y.double()) / x[-1].double()).float()  # the terms cancel: a sum of about nothing
    exact = total(x.double(), y.double())
    lucky, kernel = exact.float(), exact.float() + 4e-5  # 16 eps sqrt(4096) = 1.2e-4
    with pytest.raises(AssertionError, match="sum: max error"):
        assert_no_worse_than_torch("sum", kernel, [lucky], exact)
    several = [lucky, *list(several_roundings(lambda: total(x, y)))[1:]]
    assert_no_worse_than_torch("sum", kernel, several, exact)
    with pytest.raises(AssertionError, match="sum: max error"):
        assert_no_worse_than_torch("sum", kernel + 1e-3, several, exact)


FAULTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a gain": lambda x, y: total(x, y) * (1 + 3e-5),
    "a dropped term": lambda x, y: total(x[:-1], y[:-1]),
    "a term twice": lambda x, y: total(x, y) + x[7] * y[7],
    "bfloat16 products": lambda x, y: (x * y).bfloat16().float().sum(),
    "float16 operands": lambda x, y: total(x.half().float(), y.half().float()),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_shows(fault: str) -> None:
    inputs = {"x": numbers().abs(), "y": numbers(1).abs()}
    assert_kernel_matches(one_by_one, total, inputs)
    with pytest.raises(AssertionError, match="max error"):
        assert_kernel_matches(FAULTS[fault], total, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_rounds_to_a_neighbour(dtype: torch.dtype) -> None:
    x, y = numbers().to(dtype), numbers(1).to(dtype)
    with Rounding(0):
        product, same, integers = x * y, x * 1.0, torch.arange(9.0).to(dtype) + 1
    exact = x.double() * y.double()
    spacing = torch.finfo(dtype).eps * exact.abs().clamp_min(torch.finfo(dtype).tiny)
    assert ((product.double() - exact).abs() <= spacing).all() and (product != x * y).float().mean() > 0.05
    assert abs(((product.double() - exact) / spacing).mean().item()) < 0.05  # neither up nor down on average
    assert torch.equal(same, x) and torch.equal(integers, torch.arange(1.0, 10).to(dtype))
    assert product.dtype == dtype


def test_errors_grow_with_the_length_of_the_sum() -> None:
    """By the root of it, 8 from step to step, where the terms cancel and the sum itself is rounded finely."""

    def typical(length: int) -> float:
        x = torch.randn(length, generator=source(0))
        x = x - x.mean()
        errors = torch.stack(list(several_roundings(lambda: x.sum(), draws=64))[1:]) - x.double().sum()
        return errors.square().mean().sqrt().item()

    short, middle, long = typical(64), typical(4096), typical(2**18)
    assert 4 < middle / short < 16 and 4 < long / middle < 16


def test_draws_repeat_and_differ() -> None:
    x, y = numbers(), numbers(1)
    first, again = (list(several_roundings(lambda: total(x, y))) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again)) and len({t.item() for t in first[1:]}) > 1


def test_rounding_to_the_nearest_depends_on_no_order() -> None:
    x, w = numbers().view(1, 64, 8, 8), numbers(1)[: 64 * 16].view(16, 64, 1, 1)
    order = torch.randperm(64, generator=source(2))
    with Rounding():
        one, other = torch.conv2d(x, w), torch.conv2d(x[:, order], w[:, order])
    exact = torch.conv2d(x.double(), w.double())
    assert torch.equal(one, other) and torch.equal(one, exact.float())
