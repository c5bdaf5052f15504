"""Ops and a whole training step as on a CUDA device, on tensors that refuse to meet the CPU's; planted faults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor
from torch._library.custom_ops import OPDEFS

from stylenerf import kernels
from stylenerf.engine.training import step as step_module
from stylenerf.engine.training.trainer import open_training_data
from stylenerf.kernels.base.dispatch import TRITON_OPS
from stylenerf.kernels.base.launch import launch
from stylenerf.kernels.base.register import namespace
from tests.closeness import assert_each_no_worse_than_torch
from tests.exact_step import step_results
from tests.on_kernels import large_tiles
from tests.op_calls import OP_CALLS, change, leaves, results
from tests.roundings import several_roundings
from tests.simulated_device import DEVICE, Held, inner, simulated_device
from tests.sweeps import sweep
from tests.tiny import CPU, tiny_config

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="stands in for a CUDA device, and there is one")

QUICK = ("composite", "encode_positions", "modulated_layer", "render_rays", "upsample2d")
COMPOSED = {"modulate_weights", "modulated_conv", "upsample_features"}  # torch's ops on every device, and cuDNN's
OPERANDS = {"evaluate_density", "evaluate_field", "modulated_mlp", "render_points", "render_rays"}  # take a precision
BLENDING = 20  # images shown at which the tiny configuration is in the midst of growth


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Launches by kernel."""
    counts: Counter[str] = Counter()
    run = triton.runtime.interpreter.InterpretedFunction.run

    def counted(kernel: Any, *args: Any, **kwargs: Any) -> Any:
        counts[kernel.__name__] += 1
        return run(kernel, *args, **kwargs)

    monkeypatch.setattr(triton.runtime.interpreter.InterpretedFunction, "run", counted)
    return counts


def outputs_and_gradients(op: Callable[..., Any], call: Any, device: torch.device, **how: Any) -> dict[str, Tensor]:
    def leaf(x: Tensor) -> Tensor:
        return x.to(device).requires_grad_()

    args, named = change(call[0], leaf), change(call[1], leaf)
    found = {f"output {i}": x for i, x in enumerate(results(op(*args, **named, **how)))}
    assert all(x.device == device for x in found.values())
    inputs = leaves([args, named])
    moving = [x for x in found.values() if x.requires_grad]
    if moving:
        grads = torch.autograd.grad([x.square().sum() for x in moving], inputs, allow_unused=True)
        found |= {f"gradient {i}": g for i, g in enumerate(grads) if g is not None}
    return {name: inner(x.detach()) for name, x in found.items()}


@pytest.mark.parametrize("name", sweep(OP_CALLS.keys(), always=QUICK))
def test_op(name: str, ran: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own choice of kernel, with every gradient: what plain torch finds on the CPU."""
    large_tiles(monkeypatch)
    op, how = getattr(kernels, name), {"precision": "fp32"} if name in OPERANDS else {}
    want = outputs_and_gradients(op, OP_CALLS[name].make(2), CPU, **how)
    with simulated_device():
        got = outputs_and_gradients(op, OP_CALLS[name].make(2), DEVICE, **how)
    assert got.keys() == want.keys()
    for key in want:
        torch.testing.assert_close(got[key], want[key], rtol=1e-3, atol=1e-4)
    assert ran or name in COMPOSED


@pytest.mark.slow
def test_step(ran: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every phase through all kernels errs at most twice as much as plain torch, both against float64."""
    cfg = tiny_config("train.batch=2")
    data = open_training_data(cfg, print)
    plain = several_roundings(lambda: step_results(cfg, data, BLENDING, CPU))
    exact = step_results(cfg, data, BLENDING, CPU, double=True)
    large_tiles(monkeypatch)
    # a device's host draws from a generator of its own, the CPU from the only one: here they shall draw the same
    monkeypatch.setattr(step_module, "host_generator", lambda rng: getattr(rng, "real", rng))
    with simulated_device():
        got = {name: inner(x) for name, x in step_results(cfg, data, BLENDING, DEVICE).items()}
    phases = {name.partition(":")[0] for name in got if ": gradient of" in name}
    assert phases == {"generator", "path_length", "discriminator", "r1"}
    assert {"_hierarchical_kernel", "_ray_kernel", "_upfirdn2d_kernel", "_bias_act_grad_kernel"} <= ran.keys()
    assert_each_no_worse_than_torch(got, plain, exact)


def test_every_op_with_a_kernel_is_called() -> None:
    assert OP_CALLS.keys() >= TRITON_OPS


@triton.jit
def _copy_kernel(out_ptr, x_ptr, BLOCK: tl.constexpr):
    offs = tl.arange(0, BLOCK)
    tl.store(out_ptr + offs, tl.load(x_ptr + offs))


def test_planted_constant_of_the_cpu() -> None:
    with simulated_device(), pytest.raises(RuntimeError, match="expected all tensors on lazy:0, got one on cpu"):
        torch.ones(3, device=DEVICE) * torch.ones(3)


def test_planted_constant_in_the_body_of_an_op(monkeypatch: pytest.MonkeyPatch) -> None:
    op = OPDEFS[f"{namespace()}::upfirdn2d"]
    body = op._init_fn
    monkeypatch.setattr(op, "_init_fn", lambda x, *args: body(x + torch.zeros(x.shape), *args))
    with simulated_device(), pytest.raises(RuntimeError, match="expected all tensors on lazy:0, got one on cpu"):
        kernels.upsample2d(torch.ones(1, 1, 4, 4, device=DEVICE), kernels.setup_filter([1, 1], device=DEVICE))


def test_planted_generator_of_the_cpu() -> None:
    with simulated_device(), pytest.raises(RuntimeError, match="expected a generator of lazy:0, got one of cpu"):
        torch.rand(3, generator=torch.Generator(), device=DEVICE)


@pytest.mark.parametrize(("out", "x"), [(DEVICE, CPU), (CPU, DEVICE)])
def test_planted_tensor_of_another_device(out: torch.device, x: torch.device) -> None:
    with simulated_device(), pytest.raises(ValueError, match=f"x_ptr must be on {out} like out_ptr, got {x}"):
        launch(_copy_kernel, (1,), out_ptr=torch.zeros(4, device=out), x_ptr=torch.ones(4, device=x), BLOCK=4)


def test_planted_launch_on_the_cpu() -> None:
    with simulated_device(), pytest.raises(ValueError, match="out_ptr is a tensor of cpu"):
        launch(_copy_kernel, (1,), out_ptr=torch.zeros(4), x_ptr=torch.ones(4), BLOCK=4)


def test_planted_numpy() -> None:
    with simulated_device(), pytest.raises(TypeError, match="has no numpy array"):
        torch.ones(3, device=DEVICE).numpy()


def test_a_kernel_reads_and_writes_the_device() -> None:
    with simulated_device():
        out, x = torch.zeros(4, device=DEVICE), torch.arange(4.0, device=DEVICE)
        launch(_copy_kernel, (1,), out_ptr=out, x_ptr=x, BLOCK=4)
        assert isinstance(out, Held) and out.is_cuda and out.tolist() == [0, 1, 2, 3]
        assert out.cpu().numpy().tolist() == [0, 1, 2, 3]
