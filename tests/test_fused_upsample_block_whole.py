"""The upsampling block in one launch: against the plain form in float64, borders, tiles after tiles in one slot."""

import pytest
import torch
from torch import Tensor

from stylenerf.kernels.base.operands import OPERANDS
from stylenerf.kernels.blocks import upsample_block_triton as upsample_block
from stylenerf.kernels.blocks import upsample_block_whole
from stylenerf.kernels.blocks.upsample_block_forward import Combine
from stylenerf.kernels.blocks.upsample_block_triton import upsample_whole
from stylenerf.kernels.blocks.upsample_block_whole import plan_whole
from tests.closeness import assert_no_worse_than_torch, assert_relative
from tests.gradients import CHECKS, DEVICE, cotangents, derivatives, outputs_and_gradients
from tests.roundings import several_roundings
from tests.sweeps import slow, sweep
from tests.upsample_blocks import HALF, Case, make, op

BRAIN = torch.bfloat16
CASES = {
    "one pixel": Case(shape=(1, 1, 1, 1), channels=4, rows=1),
    "odd, everything": Case(noise=(2, 1, 6, 10), clamp=1.0),
    "one noise for all": Case(noise=(6, 10), rows=1, channels=12),
    "a row and a column more than a tile": Case(shape=(1, 3, 17, 17), channels=8, rows=1),
    "a tile": Case(shape=(1, 16, 16, 16), channels=8, rows=1),
    "a row less than two tiles": Case(shape=(1, 5, 31, 3), channels=4, rows=1, noise=(62, 6)),
    "20 channels, two rows of styles for four": Case(shape=(4, 3, 2, 3), channels=20),
    "more inputs than are multiplied at a time": Case(shape=(1, 70, 2, 3), channels=36, rows=1),
    "68 channels": Case(shape=(1, 5, 9, 3), channels=68, rows=1),
    "wide hidden layer": Case(shape=(1, 5, 2, 3), channels=4, rows=1, hidden=18),
    "without blur or bias": Case(blur=False, bias=False, noise=(1, 10)),
    "without blur, two tiles": Case(shape=(1, 3, 2, 17), blur=False, channels=4, rows=1),
    "no images": Case(shape=(0, 6, 3, 5), noise=(6, 10)),
    "pixelshuffle": Case("pixelshuffle", noise=(2, 1, 6, 10), clamp=1.0),
    "pixelshuffle, four tiles": Case("pixelshuffle", shape=(1, 3, 17, 18), channels=8, rows=1),
    "pixelshuffle, wide": Case("pixelshuffle", shape=(1, 13, 2, 9), channels=68, rows=1, hidden=18),
    "pixelshuffle without blur": Case("pixelshuffle", blur=False, channels=20),
    "pixelshuffle, one pixel": Case("pixelshuffle", shape=(1, 1, 1, 1), channels=4, rows=1),
    "pixelshuffle, no images": Case("pixelshuffle", shape=(0, 6, 3, 5)),
}


@pytest.fixture(autouse=True)
def one_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two programs make everything, or one: tile after tile in one slot."""
    monkeypatch.setattr(upsample_block_whole, "MACHINES", dict.fromkeys((80, 86, 89, 90), (1, 50)))


def assert_matches(case: Case, dtype: torch.dtype) -> None:
    inputs = make(case, dtype)
    with torch.no_grad():
        got = op(case, "triton")(*inputs.values())
        plain = several_roundings(lambda: op(case, "ref")(*inputs.values()))
        exact = op(case, "ref")(*(x.double() for x in inputs.values()))
        assert_no_worse_than_torch("output", got, plain, exact)


QUICK = ("odd, everything", "without blur or bias", "no images", "pixelshuffle, wide")


@pytest.mark.parametrize("case", sweep(CASES, always=QUICK))
def test_matches_the_plain_form(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    made, launch = [], upsample_block_whole.launch

    def counted(kernel: object, grid: tuple[int, ...], **args: object) -> None:
        made.append(args["tiles"])
        launch(kernel, grid, **args)  # type: ignore[arg-type]

    monkeypatch.setattr(upsample_block_whole, "launch", counted)
    assert_matches(case, HALF)
    assert len(made) == 1


@pytest.mark.slow
@pytest.mark.parametrize("case", ("odd, everything", "pixelshuffle"))
def test_matches_in_bfloat16(case: str) -> None:
    assert_matches(CASES[case], BRAIN)


@pytest.mark.parametrize("case", sweep(CASES, always=QUICK[1:3]))
def test_tells_the_same_as_two_launches(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients too: they follow from the output and from what is made again of the map, rounded as it was."""
    inputs = make(case, HALF)
    one = outputs_and_gradients(op(case, "triton"), inputs)
    monkeypatch.setattr(upsample_block, "plan_whole", lambda *args: None)
    two = outputs_and_gradients(op(case, "triton"), inputs)
    assert one.keys() == two.keys()
    for name in two:
        assert_relative(name, one[name], two[name], tol=torch.finfo(HALF).eps)


@pytest.mark.slow
def test_what_is_not_a_number_stays_where_it_is() -> None:
    case = Case(shape=(1, 2, 1, 20), channels=4, rows=1, clamp=1.0)
    inputs = make(case, HALF)
    inputs["x"][..., 0] = torch.nan
    with torch.no_grad():
        y = op(case, "triton")(*inputs.values())
    assert y[..., :2].isnan().all() and y[..., 6:].isfinite().all()


def test_registered_as_torch_wants_it() -> None:
    C, D, x = 4, 2, torch.randn(1, 2, 3, 6, device=DEVICE).half()
    shapes = ((1, C + 2 * D, 6), (C, D), (D,), (C,), (C,), (1, 4, 6))
    rest: list[Tensor] = [torch.randn(s, device=DEVICE) for s in shapes]
    torch.library.opcheck(upsample_whole, (x, *rest, "nn_cat", True, 1.0, 2.0, False), test_utils=CHECKS)


NARROW = Case(shape=(1, 2, 2, 3), channels=4, rows=1, noise=(4, 6))


@pytest.fixture(scope="module")
def every() -> dict[str, Tensor]:
    return outputs_and_gradients(op(NARROW, "triton"), make(NARROW, HALF))


@pytest.mark.slow
@pytest.mark.parametrize("wanted", ["x", "weight", "bias0", "noise"])
def test_gradient_of_one_input_alone(wanted: str, every: dict[str, Tensor]) -> None:
    inputs = make(NARROW, HALF)
    inputs[wanted].requires_grad_()
    y = op(NARROW, "triton")(*inputs.values())
    (alone,) = torch.autograd.grad(y, inputs[wanted], cotangents([y], HALF, 100))
    assert torch.equal(alone, every[f"gradient of {wanted}"])


@pytest.mark.parametrize("mode", [slow("nn_cat"), "pixelshuffle"])
def test_second_order(mode: str) -> None:
    """The plain form's, of weights that are composed and rounded first."""
    case = Case(mode, shape=(1, 2, 2, 2), channels=4, rows=1, noise=(4, 4), clamp=1.0)
    inputs = make(case, HALF)
    got, exact = (derivatives(op(case, impl), inputs, 2, t) for impl, t in (("triton", HALF), ("ref", torch.float64)))
    for name in exact:
        assert_relative(name, got[name], exact[name], tol=8 * torch.finfo(HALF).eps)


def test_keeps_no_map_for_the_backward() -> None:
    case = Case(shape=(1, 8, 16, 16), channels=16, rows=1)
    inputs = {name: x.requires_grad_() for name, x in make(case, HALF).items()}
    kept: list[Tensor] = []

    def keep(t: Tensor) -> Tensor:
        kept.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        y = op(case, "triton")(*inputs.values())
    assert {t.numel() for t in kept if t.numel() >= 16 * 16} == {inputs["x"].numel(), y.numel()}


HOW = Combine(shuffle=False, blur=True, gain=1.0, clamp=None, precision="fp16")


@pytest.mark.parametrize(
    ("inputs", "C", "D", "how"),
    [
        (8, 132, 32, HOW),
        (8, 128, 33, HOW),
        (97, 32, 8, HOW),
        (64, 32, 8, HOW._replace(precision="fp32")),
    ],
    ids=["wide", "many hidden units", "many inputs", "float32"],
)
def test_two_launches_where_they_are_the_better(inputs: int, C: int, D: int, how: Combine) -> None:
    dtype = OPERANDS[how.precision].storage
    assert plan_whole(torch.empty(1, 8, 8, inputs, dtype=dtype, device="meta"), C, D, how) is None


def test_slots_fit_half_of_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.empty(8, 512, 512, 64, dtype=HALF, device="meta")
    slot = 20 * 20 * 48 * 2
    monkeypatch.setitem(upsample_block_whole.MACHINES, 90, (100, 8))  # 4 MiB: 109 slots
    plan = plan_whole(x, 32, 8, HOW)
    assert plan is not None and plan.programs == 100 and plan.programs * slot <= 4 * 2**20
    monkeypatch.setitem(upsample_block_whole.MACHINES, 90, (110, 8))
    assert plan_whole(x, 32, 8, HOW) is None
