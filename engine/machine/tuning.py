"""Time what this machine can choose between, on the calls of a configuration, and take the fastest that is right.

What is offered: of an op its kernel or plain torch, of some launchers one launch or several, of kernels four warps or
eight (:mod:`kernels.base.choices`). Another way is taken where it is faster by a margin than the default and gives the
same numbers; plain torch, which defines an op, also where the kernel's are others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...kernels.base.calls import OpCall, observe_calls
from ...kernels.base.choices import Key, Table, choosing, record_offers
from .examples import change, leaves, results
from .selftest import relative_error

MARGIN = 0.95  # another way must take less than this share of the time, or it is the noise of timing
SAME = 0.1  # relative error in L2: 16-bit gradients differ by percents where leaky ReLU's corner is crossed
KEPT = 2**22  # elements; of larger tensors only shape, spread and mean are kept, not the numbers
ROUNDS, ROUND_S = 3, 5e-3


@dataclass
class Sample:
    """A call of an op, kept on the CPU, and how often the step makes it."""

    op: Callable[..., Any]
    args: tuple[Any, ...]
    named: dict[str, Any]
    with_grad: bool
    count: int = 1
    default_s: float = 0.0
    offers: dict[Key, Sequence[str | int]] = field(default_factory=dict)


class Numbers(NamedTuple):
    outputs: list[Tensor]
    gradients: list[Tensor]


class Choice(NamedTuple):
    """What was chosen for one offer, and the time of a call by way, infinite where it is not right."""

    key: Key
    way: str | int
    default: str | int
    seconds: dict[str | int, float]


@dataclass(frozen=True, eq=False)
class _Large:
    """Stands for a tensor whose numbers are not kept."""

    like: Tensor  # on the meta device
    mean: float
    spread: float


@contextmanager
def sample_calls() -> Iterator[dict[Any, Sample]]:
    """Collect one sample of each different call of an op that chooses its form by itself."""
    samples: dict[Any, Sample] = {}

    def note(call: OpCall) -> None:
        if call.named.get("impl", "auto") != "auto":
            return
        tensors = leaves((call.args, dict(call.named)))
        with_grad = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        shapes = tuple((t.dtype, t.shape, t.stride(), t.requires_grad) for t in tensors)
        others = repr(change((call.args, dict(call.named)), lambda t: t.new_empty(0, device="meta")))
        signature = (call.op.__name__, shapes, others, with_grad)
        if signature in samples:
            samples[signature].count += 1
            return
        with torch.no_grad():
            args, named = _kept((call.args, dict(call.named)))
        samples[signature] = Sample(call.op, args, named, with_grad)

    with observe_calls(note):
        yield samples


def _kept(value: Any) -> Any:
    def keep(t: Tensor) -> Any:
        if t.numel() <= KEPT:
            return t.detach().cpu().requires_grad_(t.requires_grad)
        numbers = t.detach().float()
        like = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta").requires_grad_(t.requires_grad)
        return _Large(like, float(numbers.mean()), float(numbers.std()))

    return change(value, keep)


def _placed(value: Any, device: torch.device) -> Any:
    """Kept arguments on the device, as leaves of a new graph."""

    def place(x: Any) -> Tensor:
        if not isinstance(x, _Large):
            return x.detach().to(device, copy=True).requires_grad_(x.requires_grad)
        drawn = torch.empty_strided(x.like.shape, x.like.stride(), dtype=x.like.dtype, device=device)
        return drawn.normal_(x.mean, x.spread).requires_grad_(x.like.requires_grad)

    return change(value, place, _Large)


def tune(
    samples: Iterable[Sample],
    device: torch.device,
    *,
    budget_s: float = 60.0,
    done: Callable[[float], None] = lambda share: None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Choice]:
    """What each offer was decided to be, the calls that take most of a step first, until ``budget_s`` is over.

    Half of it may go to finding out what that order is; calls that it does not suffice for keep their defaults.
    """
    end, samples = clock() + budget_s, list(samples)
    for sample in samples:
        if clock() >= end - budget_s / 2:
            break
        with record_offers() as sample.offers:
            run = prepare(sample, device)
            run()
        if sample.offers:
            sample.default_s = seconds(run, device)
    decided: dict[Key, Choice] = {}
    for sample in sorted(samples, key=lambda s: -s.count * s.default_s):
        if clock() >= end:
            break
        _decide(sample, device, decided, end, clock)
        done(1 - max(end - clock(), 0) / budget_s)
    return list(decided.values())


def table(choices: Iterable[Choice]) -> Table:
    """The choices that differ from a default."""
    return {c.key: c.way for c in choices if c.way != c.default}


def _decide(
    sample: Sample, device: torch.device, decided: dict[Key, Choice], end: float, clock: Callable[[], float]
) -> None:
    """Add a choice for each offer of a call that has none yet, one offer after the other."""
    run = prepare(sample, device)
    for key, ways in sample.offers.items():
        if key in decided or len(ways) < 2 or clock() >= end:
            continue
        with choosing(table(decided.values())):
            with record_offers() as left:
                wanted = run()
            if key not in left:  # another choice made it void
                continue
            taken: dict[str | int, float] = {ways[0]: seconds(run, device)}
            for way in ways[1:]:
                with choosing({key: way}):
                    taken[way], same = _checked(run, wanted, device, outputs_only=way == "ref")
                if not same:  # one of the two is wrong, and the definition is not
                    taken[ways[0] if way == "ref" else way] = float("inf")
        best = min(taken, key=lambda way: taken[way] * (MARGIN if way == ways[0] else 1.0))
        decided[key] = Choice(key, best, ways[0], taken)


def _checked(
    run: Callable[[], Numbers], wanted: Numbers, device: torch.device, *, outputs_only: bool
) -> tuple[float, bool]:
    """The time of a call, infinite if it fails, and whether its numbers are the same.

    Of plain torch, whose fine samples along rays fall elsewhere by rounding, gradients are not compared.
    """
    try:
        got = run()
        pairs = [*zip(got.outputs, wanted.outputs, strict=True)]
        pairs += [] if outputs_only else [*zip(got.gradients, wanted.gradients, strict=True)]
        return seconds(run, device), all(relative_error(a, b) <= SAME for a, b in pairs)
    except Exception:  # a compiler may raise anything; such a way is not taken
        return float("inf"), True


def prepare(sample: Sample, device: torch.device) -> Callable[[], Numbers]:
    """A function that makes the call, with its gradients if the step takes some."""
    args, named = _placed((sample.args, sample.named), device)
    inputs = [t for t in leaves((args, named)) if t.requires_grad]

    def run() -> Numbers:
        with torch.set_grad_enabled(sample.with_grad):
            values = results(sample.op(*args, **named))
            depend = [x for x in values if x.requires_grad]
            if not depend:
                return Numbers(values, [])
            cotangents = [torch.ones_like(x) for x in depend]
            grads = torch.autograd.grad(depend, inputs, cotangents, allow_unused=True)
        return Numbers([x.detach() for x in values], [g for g in grads if g is not None])

    return run


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Per call, the fastest of a few rounds of as many calls as a round takes milliseconds."""
    best, calls = float("inf"), 1
    for _ in range(ROUNDS):
        _wait(device)
        start = time.perf_counter()
        for _ in range(calls):
            run()
        _wait(device)
        each = (time.perf_counter() - start) / calls
        best, calls = min(best, each), max(1, min(int(ROUND_S / each), 100))
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def as_rows(choices: Mapping[Key, str | int]) -> list[list[str | int]]:
    """For JSON: a row for each choice, its way last."""
    return [[*key, way] for key, way in choices.items()]


def from_rows(rows: Iterable[Sequence[str | int]]) -> Table:
    return {tuple(row[:-1]): row[-1] for row in rows}
