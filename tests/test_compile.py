"""Compilers, exporters and transforms of torch on every registered op: a table of ops and of what works with them."""

import io
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from stylenerf.kernels.base import dispatch
from stylenerf.kernels.base.register import differentiable, namespace
from stylenerf.kernels.blocks.mean_square import mean_square
from stylenerf.kernels.filters.bias_act import bias_act
from stylenerf.kernels.filters.conv_resample import conv2d_resample
from stylenerf.kernels.filters.filtered_lrelu import filtered_lrelu
from stylenerf.kernels.filters.upfirdn2d import downsample2d, filter2d, upfirdn2d, upsample2d
from stylenerf.kernels.rays.encode import encode_positions
from stylenerf.kernels.rays.importance import importance_sample
from stylenerf.kernels.rays.mlp import modulated_mlp
from tests.gradients import DEVICE, Op, cotangents
from tests.inputs import source
from tests.sweeps import sweep
from tests.test_fused_order import COMPOSED, CONSTANT, NARROW, RUNS, TABLE, make

GRAD = import_module("stylenerf.kernels.filters.bias_act_triton").bias_act_grad
WHOLE = import_module("stylenerf.kernels.blocks.upsample_block_triton").upsample_whole
OPS = sorted(differentiable | CONSTANT)
# in float32; not where fine samples fall by weights whose gradient does not count that
SMOOTH = differentiable - NARROW - {"hierarchical_pass"}
DERIVATIVES = ("gradcheck", "gradgradcheck")


def activation_slope(g: Tensor, kept: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    out: tuple[Tensor, ...] = GRAD(g, kept, b, 1, "swish", 0.0, 1.0, None, 1, True)
    return out


def narrow_block(*tensors: Tensor) -> Tensor:
    out: Tensor = WHOLE(*tensors, "nn_cat", True, 1.0, 2.0, False)
    return out


# calls that reach an op whose line in TABLE does not do, with the shapes of their arguments
OTHERS: dict[str, tuple[Op, dict[str, tuple[int, ...]]]] = {
    "bias_act_grad": (activation_slope, {"g": (2, 3, 4), "kept": (2, 3, 4), "b": (3,)}),
    "importance_sample": (partial(importance_sample, impl="triton"), {"edges": (2, 4), "w": (2, 3), "u": (2, 5)}),
    "square_sum": (partial(mean_square, impl="triton"), {"x": (2, 3, 4)}),
    "upsample_whole": (
        narrow_block,
        {"x": (1, 2, 3, 6), "w": (1, 8, 6), "w1": (4, 2), "b0": (2,), "b1": (4,), "b": (4,), "noise": (1, 4, 6)},
    ),
}


def call(name: str) -> tuple[Op, list[Tensor]]:
    """A function that runs the op, and arguments for it."""
    if name not in OTHERS:
        return TABLE[name].op("triton"), list(make(name).values())
    op, shapes = OTHERS[name]
    tensors = [torch.rand(shape, generator=source(i)).to(DEVICE) for i, shape in enumerate(shapes.values())]
    if name in NARROW:
        tensors[0] = tensors[0].half()
    return op, tensors


def gradients(op: Op, args: list[Tensor]) -> list[Tensor]:
    """Outputs, and the gradients of the arguments for random cotangents where there are any."""
    args = [x.detach().requires_grad_() for x in args]
    result = op(*args)
    outputs = [result] if isinstance(result, Tensor) else list(result)
    moving = [o for o in outputs if o.requires_grad]
    drawn = cotangents(moving, torch.float32, 100)
    grads = torch.autograd.grad(moving, args, drawn, allow_unused=True, materialize_grads=True) if moving else []
    return [*(o.detach() for o in outputs), *grads]


class Calls(TorchDispatchMode):
    """Collects the arguments of our ops, the first call of each."""

    def __init__(self) -> None:
        super().__init__()
        self.args: dict[str, tuple[Any, ...]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == namespace():
            self.args.setdefault(func._opname, args)
        return func(*args, **(kwargs or {}))


def opcheck(name: str, op: Op, args: list[Tensor]) -> None:
    """Every test of ``torch.library.opcheck``, on the op and on the op of its backward."""
    with Calls() as calls:
        gradients(op, args)
    launches = {name, f"{name}_backward"} if name in differentiable - COMPOSED else {name}
    assert launches <= set(calls.args), f"the call does not reach {launches - set(calls.args)}"
    for each in launches:
        inputs = tuple(_leaf(x, each in differentiable) for x in calls.args[each])
        torch.library.opcheck(getattr(getattr(torch.ops, namespace()), each).default, inputs)


def _leaf(x: Any, with_grad: bool) -> Any:
    if isinstance(x, list):
        return [_leaf(t, with_grad) for t in x]
    return x.detach().requires_grad_(with_grad and x.is_floating_point()) if isinstance(x, Tensor) else x


def compiled(name: str, op: Op, args: list[Tensor], **how: Any) -> None:
    torch._dynamo.reset()
    want = gradients(op, args)
    got = gradients(torch.compile(op, fullgraph=True, **how), args)
    torch.testing.assert_close(got, want)


def autocast(name: str, op: Op, args: list[Tensor]) -> None:
    def within(*tensors: Tensor) -> Any:
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
            return op(*tensors)

    compiled(name, within, args, backend="aot_eager")


def export(name: str, op: Op, args: list[Tensor]) -> None:
    class Module(nn.Module):
        def forward(self, *tensors: Tensor) -> Any:
            return op(*tensors)

    with torch.no_grad():
        program = torch.export.export(Module(), tuple(args), strict=True)
        torch.testing.assert_close(program.module()(*args), op(*args))


def vmap(name: str, op: Op, args: list[Tensor]) -> None:
    many = [torch.stack([x, 0.5 * x]) for x in args]
    got = torch.vmap(op)(*many)
    want = [op(*one) for one in zip(*many)]
    stacked = torch.stack(want) if isinstance(got, Tensor) else tuple(torch.stack(parts) for parts in zip(*want))
    torch.testing.assert_close(got, stacked)


def smooth(name: str, op: Op, args: list[Tensor]) -> tuple[Op, tuple[Tensor, ...]]:
    def moving(*tensors: Tensor) -> Any:
        result = op(*tensors)
        return result if isinstance(result, Tensor) else tuple(o for o in result if o.requires_grad)

    return moving, tuple(x.detach().requires_grad_() for x in args)


def gradcheck(name: str, op: Op, args: list[Tensor]) -> None:
    """In float32, in one random direction."""
    how: dict[str, Any] = {"eps": 1e-3, "atol": 1e-2, "rtol": 1e-2, "fast_mode": True, "nondet_tol": 0.0}
    assert torch.autograd.gradcheck(*smooth(name, op, args), **how)


def gradgradcheck(name: str, op: Op, args: list[Tensor]) -> None:
    how: dict[str, Any] = {"eps": 1e-3, "atol": 1e-2, "rtol": 1e-2, "fast_mode": True, "nondet_tol": 0.0}
    assert torch.autograd.gradgradcheck(*smooth(name, op, args), **how)


COLUMNS: dict[str, Callable[..., None]] = {
    "opcheck": opcheck,
    "gradcheck": gradcheck,
    "gradgradcheck": gradgradcheck,
    "fullgraph": partial(compiled, backend="aot_eager"),
    "dynamic shapes": partial(compiled, backend="aot_eager", dynamic=True),
    "inductor": partial(compiled, backend="inductor"),
    "inductor, dynamic": partial(compiled, backend="inductor", dynamic=True),
    "autocast": autocast,
    "export": export,
    "vmap": vmap,
}
CELLS = [(name, column) for name in OPS for column in COLUMNS if column not in DERIVATIVES or name in SMOOTH]
ALWAYS = [("composite", "opcheck"), ("modulated_mlp", "fullgraph")]


@pytest.mark.parametrize("name, column", sweep(CELLS, always=ALWAYS))
def test_table(name: str, column: str) -> None:
    COLUMNS[column](name, *call(name))


def scores(impl: Any, images: Tensor, weight: Tensor) -> Tensor:
    return modulated_mlp(images, [weight], [torch.zeros(4)], precision="fp32", impl=impl).square().sum()


def penalty(images: Tensor, weight: Tensor) -> Tensor:
    (slope,) = torch.autograd.grad(scores("triton", images, weight), images, create_graph=True)
    return slope.square().sum()


def plain_penalty(images: Tensor, weight: Tensor) -> Tensor:
    return torch.func.grad(partial(scores, "ref"))(images, weight).square().sum()


@pytest.mark.parametrize("function", sweep([penalty, plain_penalty], always=[penalty]))
def test_r1_inside_a_compiled_function(function: Callable[..., Tensor]) -> None:
    args = [torch.randn(5, 4, generator=source(1)), torch.randn(4, 4, generator=source(2))]
    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=function is penalty):
        got = gradients(torch.compile(function, backend="aot_eager", fullgraph=True), args)
    torch.testing.assert_close(got, gradients(penalty, args))


def test_gradient_of_a_sum() -> None:
    """It is one number, expanded, which a kernel must not take for many."""
    args = list(RUNS["single_pass"].inputs().values())

    def light(of: Callable[[Tensor], Tensor]) -> list[Tensor]:
        return gradients(lambda *x: of(TABLE["single_pass"].op("triton")(*x)[5]), args)

    torch.testing.assert_close(light(torch.sum), light(lambda t: (t * torch.ones_like(t)).sum()))


# filters and activations in their plain forms, under what needs no compiler

FIR = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
WEIGHT, BIAS = torch.randn(4, 3, 3, 3, generator=source(3)), torch.randn(3, generator=source(4))
FILTERS: dict[str, Callable[..., Tensor]] = {
    "bias_act": partial(bias_act, b=BIAS, act="lrelu", clamp=1.0),
    "bias_act, swish": partial(bias_act, b=BIAS, act="swish"),
    "upfirdn2d": partial(upfirdn2d, f=FIR[:3].outer(FIR), up=(2, 1), padding=[-1, 3, 2, 0]),
    "upfirdn2d, both": partial(upfirdn2d, f=FIR[:3].outer(FIR), up=(2, 1), down=(1, 2), padding=[-1, 3, 2, 0]),
    "filter2d": partial(filter2d, f=FIR),
    "upsample2d": partial(upsample2d, f=FIR.outer(FIR)),
    "downsample2d": partial(downsample2d, f=FIR),
    "filtered_lrelu": partial(filtered_lrelu, fu=FIR, fd=FIR.outer(FIR), b=BIAS, up=2, down=2, padding=3, clamp=1.0),
    "conv2d_resample, up": partial(conv2d_resample, w=WEIGHT, f=FIR, up=2, padding=1),
    "conv2d_resample, down": partial(conv2d_resample, w=WEIGHT, f=FIR, down=2, padding=1),
}


class Plain(nn.Module):
    def __init__(self, op: Callable[..., Tensor]) -> None:
        super().__init__()
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x, impl="ref")


def forward_mode(op: nn.Module, x: Tensor) -> None:
    """jvp and jacfwd against the Jacobian by reverse mode."""
    want = torch.autograd.functional.jacobian(op, x)
    torch.testing.assert_close(torch.func.jacfwd(op)(x), want)
    along = torch.randn(x.shape, generator=source(5))
    y, slope = torch.func.jvp(op, (x,), (along,))
    torch.testing.assert_close(y, op(x))
    torch.testing.assert_close(slope, (want * along).flatten(y.ndim).sum(-1))


def trace(op: nn.Module, x: Tensor) -> None:
    """Traced without a warning, for images of any size."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        traced = torch.jit.trace(op, (x,))
    assert not [str(w.message) for w in said if issubclass(w.category, torch.jit.TracerWarning)]
    for image in (0.5 * x, torch.randn(3, 3, 7, 6, generator=source(6))):
        torch.testing.assert_close(traced(image), op(image))


def export_any_size(op: nn.Module, x: Tensor) -> None:
    n, h, w = (torch.export.Dim(name, min=low, max=512) for name, low in (("n", 2), ("h", 6), ("w", 6)))
    image = torch.randn(2, 3, 9, 8, generator=source(7))
    program = torch.export.export(op, (image,), dynamic_shapes={"x": {0: n, 2: h, 3: w}}).module()
    for each in (image, torch.randn(3, 3, 6, 11, generator=source(8))):
        torch.testing.assert_close(program(each), op(each))


def onnx(op: nn.Module, x: Tensor, *, dynamo: bool) -> None:
    """By both exporters."""
    pytest.importorskip("onnx", reason="needs onnx, which the exporter uses")
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime, to run what was exported")
    if dynamo:
        pytest.importorskip("onnxscript", reason="needs onnxscript, which the exporter by torch.export uses")
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        axes = None if dynamo else {"x": [0, 2, 3]}
        torch.onnx.export(op, (x,), file, dynamo=dynamo, input_names=["x"], dynamic_axes=axes, verbose=False)
    (y,) = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"]).run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), op(x), rtol=1e-4, atol=1e-5)


TRANSFORMS: dict[str, Callable[[nn.Module, Tensor], None]] = {
    "jvp and jacfwd": forward_mode,
    "jit.trace": trace,
    "export of any size": export_any_size,
    "ONNX by tracing": partial(onnx, dynamo=False),
    "ONNX by export": partial(onnx, dynamo=True),
}
# torch.export takes the parity of a size before a strided slice for a condition
PARITY = ("upfirdn2d, both", "export of any size")
QUICKLY = [*product(("bias_act", "filter2d", "filtered_lrelu", "conv2d_resample, up"), ("jvp and jacfwd", "jit.trace"))]


@pytest.mark.parametrize(
    "name, transform", sweep([cell for cell in product(FILTERS, TRANSFORMS) if cell != PARITY], always=QUICKLY)
)
def test_plain_filters(name: str, transform: str) -> None:
    TRANSFORMS[transform](Plain(FILTERS[name]).eval(), torch.randn(2, 3, 6, 5, generator=source(9)))


def test_sizes_may_be_traced() -> None:
    """A padding that is computed from the size of an image."""

    def crop(x: Tensor) -> Tensor:
        return upfirdn2d(x, FIR, up=2, padding=[0, x.shape[3] // 2, -x.shape[2] // 3, 3], impl="ref")

    x = torch.randn(1, 2, 6, 6, generator=source(1))
    torch.testing.assert_close(torch.jit.trace(crop, (x,))(2 * x), crop(2 * x))


@pytest.mark.parametrize("op", [bias_act, filtered_lrelu, partial(upsample2d, f=FIR), encode_positions])
def test_kernels_refuse_forward_mode(op: Callable[..., Tensor]) -> None:
    """torch takes a registered op for a constant there."""
    x = torch.randn(1, 3, 4, 4, generator=source(2))
    with pytest.raises(RuntimeError, match=r"does not cover derivatives in forward mode .* use impl='ref'"):
        torch.func.jvp(partial(op, impl="triton"), (x,), (torch.ones_like(x),))


def test_automatic_choice_under_forward_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain form, on a device as well."""
    monkeypatch.setattr(Tensor, "is_cuda", True)
    x = torch.randn(3, generator=source(2))
    with dispatch.record_decisions() as decisions, torch.autograd.forward_ad.dual_level():
        assert dispatch.resolve("bias_act", "auto", x) == "ref"
    assert dispatch.FORWARD_MODE in decisions[0].why


def test_kernels_are_traced() -> None:
    """Also where an eager call overwrites its input by a launch of its own."""

    def op(x: Tensor) -> Tensor:
        return bias_act(1 * x, BIAS, act="lrelu", inplace=True, impl="triton")

    x = torch.randn(1, 3, 4, 4, generator=source(2))
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.trace(op, (x,))(2 * x), op(2 * x))
