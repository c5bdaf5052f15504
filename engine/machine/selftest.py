"""Each op as this machine runs it, against its definition in float64: outputs, every gradient, second order.

    error = |got - exact| / |exact| in L2 <= 2 (plain torch's error in the same dtype) + a floor of the format

The definition runs on the CPU. What a kernel gets wrong is of the size of the numbers themselves; the floors lie far
below that and far above rounding, so that no machine's order of summation is taken for a fault.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import kernels
from ...kernels import RayDraws
from ...kernels.base.choices import choose
from ...kernels.base.dispatch import record_decisions
from ..errors import one_line
from .examples import EXAMPLES, Arguments, change, leaves, results

BATCH, CHANNELS = 3, 20  # no multiple of a tile
FACTOR = 2.0
# of outputs; 16-bit operands also move activations across leaky ReLU's corner, which changes gradients by percents
FLOORS = {"fp32": 1e-5, "fp16": 1e-2}
STEEP = 10.0  # a derivative may miss by so many floors of the output
POSITIONS = 2e-2  # where fine samples fall is steep in the weights: one bin off everywhere would be 0.1
FRACTIONS = 3  # the output of render_rays that holds them
CHANNELS_LAST = torch.channels_last

Numbers = dict[str, Tensor]


class Case(NamedTuple):
    """A call of ``function`` that shows whether ``op``, as dispatch names it, is right."""

    op: str
    function: str
    format: str  # of what is multiplied: "fp32" or "fp16"

    @property
    def halved(self) -> bool:
        """Whether the first tensor has 16 bits; other ops of 16-bit operands take float32."""
        return self.format == "fp16" and self.op not in PRECISE

    @property
    def resampled(self) -> bool:
        """Whether sample positions are compared by themselves, and other numbers at the positions of the op tested."""
        return self.function == "render_rays" and self.format == "fp16"

    def arguments(self) -> Arguments:
        """Float32, on the CPU; numbers that the format holds where it is the first tensor's."""
        args, named = EXAMPLES[self.function](BATCH, CHANNELS)
        if self.halved:
            args = (args[0].half().float(), *args[1:])
        if self.resampled:  # noise could not follow its samples
            named = {**named, "draws": RayDraws(named["draws"].fine_u)}
        return args, ({**named, "precision": self.format} if self.op in PRECISE else named)


PRECISE = ("modulated_mlp", "evaluate_density", "evaluate_field", "render_points", "render_rays")  # take a precision
IMAGES = (  # take 16-bit images; parts before what is made of them, so that a fault is found where it is
    "bias_act", "upfirdn2d", "mean_square", "conv2d_resample", "filtered_lrelu", "modulated_conv", "modulated_layer",
    "upsample_block", "refine_to_rgb",
)  # fmt: skip
CASES = (
    *(Case(op, op, format) for op in IMAGES for format in FLOORS),
    *(Case("upfirdn2d", function, "fp32") for function in ("filter2d", "upsample2d", "downsample2d")),
    *(Case(op, op, "fp32") for op in ("encode_positions", "volume_weights", "composite", "importance_sample")),
    *(Case(op, op, format) for op in PRECISE for format in FLOORS),
)


class Verdict(NamedTuple):
    """Of one op: the form that "auto" takes, why where it is not the kernel, and what is wrong with it, or None."""

    op: str
    form: str
    why: str
    fault: str | None
    usable: bool = True  # False if plain torch is wrong as well


def examine(device: torch.device, ops: Iterable[str] | None = None) -> Iterator[Verdict]:
    """Test each op on ``device``, or only ``ops``; one that fails takes its plain form in this process from then on.

    Where that is wrong as well, no form is right: ``usable`` is False.
    """
    for op in dict.fromkeys(case.op for case in CASES) if ops is None else ops:
        with record_decisions() as decisions:
            fault = first_fault(op, device)
        made = next((d for d in decisions if d.op == op), None)
        form, why = (made.form, made.why) if made else ("ref", "")
        if fault is None or form == "ref":
            yield Verdict(op, form, why, fault, usable=fault is None)
            continue
        choose({(op,): "ref"})
        yield Verdict(op, "ref", "failed its self-test", fault, usable=first_fault(op, device) is None)


def first_fault(op: str, device: torch.device) -> str | None:
    """What the first case of ``op`` that fails gets wrong, or None."""
    for case in CASES:
        if case.op == op:
            try:
                fault = fault_of(case, device)
            except Exception as error:  # a compiler or a driver may raise anything, and the op is what is at fault
                fault = f"{type(error).__name__}: {one_line(error)[:200]}"
            if fault is not None:
                return f"{case.function} in {case.format}: {fault}"
    return None


def fault_of(case: Case, device: torch.device) -> str | None:
    """The first number by which a case misses what it may, in words, or None."""
    made, error = case.arguments(), 0.0
    got = derivatives(case, made, device)
    if case.resampled:
        where = got[f"output {FRACTIONS}"].float()
        error = relative_error(where, results(_call(case, made, "ref"))[FRACTIONS])
        if not error <= POSITIONS:
            return f"sample positions: error {error:.1e}, at most {POSITIONS:.1e}"
        made = (*made[0][:2], where, *made[0][3:]), {"precision": case.format}
    exact, plain = derivatives(case, made, None), derivatives(case, made, device, "ref")
    if got.keys() != exact.keys():
        return f"has gradients of {sorted(got)}, wanted {sorted(exact)}"
    typical = {name: relative_error(plain[name], exact[name]) for name in exact}
    for name, want in exact.items():
        kind, error = name.split()[0], relative_error(got[name], want)
        floor = FLOORS[case.format] * (1.0 if kind == "output" else STEEP)
        allowed = FACTOR * max(e for other, e in typical.items() if other.startswith(kind)) + floor
        if not error <= allowed:  # false for NaN, too
            return f"{name}: error {error:.1e}, at most {allowed:.1e}"
    return None


def derivatives(case: Case, made: Arguments, device: torch.device | None, impl: str = "auto") -> Numbers:
    """Outputs, gradients of a random projection of them, and those of a projection of the gradients, in float64.

    Computed on ``device``, or for None by the definition in float64 on the CPU.
    """
    inputs: list[Tensor] = []
    # positions, whose gradients a form at other positions lacks
    fixed = [made[0][2], *leaves(made[1])] if case.resampled else []

    def place(t: Tensor) -> Tensor:
        if device is None:
            placed = t.double()
        elif case.halved and not inputs:
            placed = t.to(device, torch.float16, memory_format=CHANNELS_LAST if t.ndim == 4 else torch.preserve_format)
        else:
            placed = t.to(device, copy=True)
        inputs.append(placed.detach().requires_grad_(not any(t is x for x in fixed)))
        return inputs[-1]

    values = results(_call(case, change(made, place), "ref" if device is None else impl))
    found = {f"output {i}": x for i, x in enumerate(values)}
    moving = {i: x for i, x in enumerate(inputs) if x.requires_grad}
    for kind in ("gradient", "second order"):
        depend = {i: x for i, x in enumerate(values) if x.requires_grad}
        if not depend:
            break
        values = list(torch.autograd.grad(
            list(depend.values()), list(moving.values()), _projection(depend), create_graph=kind == "gradient",
            allow_unused=True, materialize_grads=True,
        ))  # fmt: skip
        found |= {f"{kind} {i}": x for i, x in zip(moving, values)}
    return {name: x.detach().cpu().double() for name, x in found.items()}


def _call(case: Case, made: Arguments, impl: str) -> Any:
    args, named = made
    function = getattr(kernels, case.function)
    return function(*args, **named, impl=impl)


def _projection(tensors: dict[int, Tensor]) -> list[Tensor]:
    """Numbers that every format holds, for each tensor by its index: forms may differ in what has a gradient."""
    seeds = {i: torch.Generator().manual_seed(i) for i in tensors}
    drawn = {i: torch.randn(x.shape, generator=seeds[i], dtype=torch.float32).half() for i, x in tensors.items()}
    return [drawn[i].to(x.device, x.dtype) for i, x in tensors.items()]


def relative_error(got: Tensor, exact: Tensor) -> float:
    """|got - exact| / |exact| in L2; infinite for another shape."""
    if got.shape != exact.shape:
        return float("inf")
    return float((got.double() - exact.double()).norm() / exact.double().norm().clamp_min(1e-30))
