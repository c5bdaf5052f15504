"""CUDA graphs: record the launches of a call once and replay them, where launching takes longer than the kernels.

    render = Captured(lambda z, rays: model(z, rays), z, rays)
    image = render(z2, rays2)             copies both in, replays every kernel, returns the captured outputs

A graph repeats the launches of one call, at the same addresses: shapes and dtypes are fixed, Python code does not run
again, and random numbers must be inputs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

WARM_UP_CALLS = 3  # as torch recommends, to initialise allocators, cuBLAS and Triton's compiler


class Captured:
    """``fn`` as one CUDA graph, without gradients.

    Args:
        fn: takes CUDA tensors and returns tensors, also nested ones. Must not synchronise (``.item()``).
        inputs: one set of arguments; every call must match their shapes, dtypes and devices. Without inputs, ``fn``
            uses tensors of its own, and a replay reads the current values at their addresses.
        warm_up: calls before the capture.
    A call copies the arguments into the graph's input buffers and returns its output buffers: the same tensors every
    time, so clone what must outlive the next call.
    Raises: TypeError or ValueError for an input that is no CUDA tensor, or not like the captured one; RuntimeError
        without CUDA, and if an input requires a gradient: use :func:`captured_training`.
    """

    def __init__(self, fn: Callable[..., Any], *inputs: Tensor, warm_up: int = WARM_UP_CALLS) -> None:
        _refuse_gradients(inputs)
        _check_tensors(inputs)
        _need_cuda("Captured")
        self.inputs = tuple(x.detach().clone() for x in inputs)
        self.graph = torch.cuda.CUDAGraph()
        device = inputs[0].device if inputs else torch.device("cuda", torch.cuda.current_device())
        with torch.no_grad(), torch.cuda.device(device):
            side = torch.cuda.Stream(device)  # warm up on a stream other than the capture's
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):
                for _ in range(warm_up):
                    fn(*self.inputs)
            torch.cuda.current_stream(device).wait_stream(side)
            with torch.cuda.graph(self.graph):
                self.outputs = fn(*self.inputs)

    def __call__(self, *inputs: Tensor) -> Any:
        check_like(inputs, self.inputs)
        _refuse_gradients(inputs)
        moved = [(to, x) for to, x in zip(self.inputs, inputs) if to.data_ptr() != x.data_ptr()]
        if moved:
            with torch.no_grad():
                torch._foreach_copy_([to for to, _ in moved], [x for _, x in moved])
        return self.replay()

    def replay(self) -> Any:
        """Run the graph on the current values of its inputs."""
        self.graph.replay()
        return self.outputs


def captured_training(fn: Callable[..., Any], sample_args: Sequence[Tensor]) -> Callable[..., Any]:
    """``fn`` with one CUDA graph for forward and one for backward: ``torch.cuda.make_graphed_callables``.

    For training steps of fixed shapes. The result is differentiable once: a backward under create_graph=True (path
    length, R1) cannot pass through it. Outputs and gradients use the same buffers every time.

    Args:
        fn: takes CUDA tensors, returns a tensor or a tuple of tensors. Only its arguments get gradients: weights come
            in as arguments too, and each that requires a gradient must take part.
        sample_args: one set of arguments with the shapes, dtypes and ``requires_grad`` of all later calls.
    Raises: TypeError or ValueError for an argument that is no CUDA tensor, or not like its sample; ValueError if none
        requires a gradient (use :class:`Captured`); RuntimeError without CUDA.
    """
    _check_tensors(sample_args)
    if not any(x.requires_grad for x in sample_args):
        raise ValueError("inputs must require a gradient somewhere to be captured for training, got none that does")
    _need_cuda("captured_training")
    # the graph's input buffers: copies, or later calls would overwrite the caller's tensors
    samples = tuple(x.detach().clone().requires_grad_(x.requires_grad) for x in sample_args)
    graphed = torch.cuda.make_graphed_callables(fn, samples, num_warmup_iters=WARM_UP_CALLS)

    def call(*args: Tensor) -> Any:
        check_like(args, samples)
        return graphed(*args)

    return call


def check_like(inputs: Sequence[Tensor], captured: Sequence[Tensor]) -> None:
    """Refuse inputs that differ in shape, dtype or device from those of the capture."""
    if len(inputs) != len(captured):
        raise TypeError(f"inputs must be {len(captured)} tensors, as captured, got {len(inputs)}")
    _check_tensors(inputs, cuda=False)
    for i, (x, like) in enumerate(zip(inputs, captured)):
        for what in ("shape", "dtype", "device"):
            wanted, got = getattr(like, what), getattr(x, what)
            if wanted != got:
                if what == "shape":
                    wanted, got = list(wanted), list(got)
                error = TypeError if what == "dtype" else ValueError
                raise error(f"inputs[{i}] must have {what} {wanted}, as captured, got {got}")


def _check_tensors(inputs: Sequence[Tensor], *, cuda: bool = True) -> None:
    for i, x in enumerate(inputs):
        if not isinstance(x, Tensor):
            raise TypeError(f"inputs[{i}] must be a tensor, got {type(x).__name__}")
        if cuda and not x.is_cuda:
            raise ValueError(f"inputs[{i}] must be a CUDA tensor, got device {x.device}")


def _refuse_gradients(inputs: Sequence[Tensor]) -> None:
    if torch.is_grad_enabled():
        for i, x in enumerate(inputs):
            if isinstance(x, Tensor) and x.requires_grad:
                raise RuntimeError(
                    f"inputs[{i}] requires a gradient, which a captured inference cannot give: call it under "
                    "torch.no_grad(), or use captured_training"
                )


def _need_cuda(what: str) -> None:
    if not torch.cuda.is_available():
        raise RuntimeError(f"{what} needs a CUDA device, this machine has none")
