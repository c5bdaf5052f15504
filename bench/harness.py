"""The course of a bench: skip with a reason, check, measure memory, time, and record everything.

A bench file describes an op as a :class:`Subject` and hands it to the ``measure`` fixture, which does the rest. Times
are per call, device work finished (sync inside), inputs built outside. Calls shorter than 100 us, on CUDA 1 ms, are
timed many at a time. On CUDA several sets of inputs, together larger than the L2 cache, take turns, so that no call
finds its inputs in it; on a CPU one set is used, and what fits its caches stays there.
"""

import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any, Protocol
from unittest.mock import patch

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from bench import gate
from bench.flops import FlopCounter
from bench.machine import DEVICE, Peak, Prepare, ceilings, environment, peak_memory, sync
from bench.peers import Peer
from stylenerf.engine.training.graphs import Captured, captured_training
from stylenerf.kernels.base import dispatch

IMPLS = ("ref", "compile", "triton")
PEER = "peer"  # of an op that has one, see bench.peers
KERNELS = ("triton", "graph")  # "graph" is "triton" replayed as a CUDA graph
DIRECTIONS = ("fwd", "fwd+bwd")
# for ops whose kernel takes less time than its launch: the forward is replayed, too
REPLAYED = (*((d, impl) for d in DIRECTIONS for impl in IMPLS), ("fwd", "graph"))
WITH_PEER = (*REPLAYED, *((d, PEER) for d in DIRECTIONS))
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}  # of images, where a bench has several dtypes
MAX_ROUNDS = 50
SHORTEST_ROUND_S = 1e-3 if DEVICE.type == "cuda" else 1e-4  # waiting for a GPU takes some 10 us
LONG_CALL_S = 0.1
COMPILERS = tuple(filter(None, (os.environ.get("CXX"), "g++", "clang++", "cl")))
MAX_RING = 16
ROWS = pytest.StashKey[list[dict[str, Any]]]()
COUNTED = pytest.StashKey[dict[tuple[str, str, str], int]]()  # operations of models, by op, shape and direction


class Make(Protocol):
    """Builds the arguments of a call; picklable."""

    def __call__(self, device: torch.device, seed: int) -> gate.Args: ...


class Run(Protocol):
    """Calls the op and returns its differentiable outputs; picklable."""

    def __call__(self, args: gate.Args, *, impl: Any) -> tuple[Tensor, ...]: ...


@dataclass(frozen=True)
class Subject:
    """An op at one shape.

    Attributes:
        op, shape: names in the table.
        ops: names under which ``stylenerf.kernels.base.dispatch`` knows what ``run`` calls.
        make, run: build the inputs; call the op.
        flops, flops_backward: floating-point operations of a forward call and of the backward alone.
        form: name of this form of the formula, where there are several.
        plain: the form that defines the result; None if ``run`` is it.
        check_make: smaller inputs for the gate, where float64 at full size would take longer than timing.
        precision: of the kernel's matrix operands, where that is an option of the op.
        pin: for the gate, if the op chooses sample positions.
        twin: the same kernels in float32, checked first.
        compiled: the function for torch.compile, if not ``run``.
        linear: the gradient does not depend on the inputs.
        peer: another project's implementation.
    """

    op: str
    shape: str
    ops: tuple[str, ...]
    make: Make
    run: Run
    flops: float
    flops_backward: float = 0.0
    form: str = ""
    plain: Run | None = None
    check_make: Make | None = None
    precision: str | None = None
    pin: gate.Pin | None = None
    twin: "Subject | None" = None
    compiled: Run | None = None
    linear: bool = False
    peer: Peer | None = None

    def label(self, impl: str) -> str:
        """Name of an implementation in the table."""
        if impl == PEER and self.peer is not None:
            return self.peer.name
        kernel = ("triton", self.precision, "graph" if impl == "graph" else None)
        return " ".join(filter(None, (*(kernel if impl in KERNELS else (impl,)), self.form)))


@dataclass(frozen=True)
class Timing:
    """Seconds per call, one number per round of ``calls`` calls."""

    seconds: list[float]
    calls: int

    def percentile_ms(self, q: float) -> float:
        return float(np.percentile(self.seconds, q)) * 1e3


def skip_reason(ops: tuple[str, ...], impl: str, *, telling: bool = False) -> str | None:
    """Why ``impl`` is not timed here, or None. ``telling``: it is the most telling row of an op."""
    if impl in KERNELS:
        if not set(ops) <= dispatch.TRITON_OPS:
            return "triton: this version has no Triton kernel for it"
        if DEVICE.type != "cuda":
            return "triton: needs a CUDA device, this machine has none"
    if impl == "compile" and DEVICE.type != "cuda":
        if not telling:
            return "compile: on a CPU, where compiling takes longest, only the most telling row of each op"
        if not any(map(shutil.which, COMPILERS)):
            return f"compile: on a CPU torch.compile needs a C++ compiler, none of {', '.join(COMPILERS)} is here"
    return None


@contextmanager
def dispatched(impl: str) -> Iterator[None]:
    """Context: all ops of a model run their plain forms for "ref" and "compile", else the form that each op chooses."""
    ops = frozenset[str]() if impl in ("ref", "compile") else dispatch.TRITON_OPS
    with patch.object(dispatch, "TRITON_OPS", ops):
        yield


def eager_call(run: Run, impl: str) -> gate.Call:
    """The function to call directly, compile or capture."""
    return partial(run, impl={"compile": "ref", "graph": "triton"}.get(impl, impl))


def minimal_bytes(args: gate.Args, outputs: tuple[Tensor, ...], both: bool, *, linear: bool = False) -> int:
    """Bytes that no implementation can avoid: every input read once, every output written once.

    The backward reads the inputs, unless the op is ``linear``, and the output gradients, and writes a gradient per
    leaf.
    """

    def size(value: object) -> int:
        return sum(t.numel() * t.element_size() for t in gate.tensors(value))

    given, taken = size(args), size(outputs)
    again = (0 if linear else given) + taken + size(gate.leaves(args)) if both else 0
    return given + taken + again


def prepare_op(subject: Subject, call: gate.Call, both: bool, ring: int = 1) -> Callable[[], object]:
    """A function that makes one call, on the next of ``ring`` sets of inputs built here."""
    sets = [subject.make(DEVICE, seed) for seed in range(ring)]
    if not both:
        turns = cycle([partial(gate.forward, call, args) for args in sets])
    else:
        grad_outputs = gate.cotangents(gate.differentiable(call(sets[0])))
        turns = cycle([partial(gate.backward, call, args, grad_outputs) for args in sets])
    return lambda: next(turns)()


def prepare_graph(subject: Subject, call: gate.Call, both: bool, ring: int = 1) -> Callable[[], object]:
    """As :func:`prepare_op`, by replay. A forward's inputs already lie in the graph's memory; a training graph copies
    its leaves there, as a step does with its modulated weights."""
    sets = [subject.make(DEVICE, seed) for seed in range(ring)]
    turns = cycle([_training_graph(call, args) if both else Captured(partial(call, args)).replay for args in sets])
    return lambda: next(turns)()


def _training_graph(call: gate.Call, args: gate.Args) -> Callable[[], object]:
    leaves = gate.leaves(args)

    def outputs(*tensors: Tensor) -> tuple[Tensor, ...]:
        return gate.differentiable(call(gate.with_leaves(args, tensors)))

    grad_outputs = gate.cotangents(outputs(*leaves))
    replay = captured_training(outputs, leaves)

    def run() -> tuple[Tensor, ...]:
        replayed = replay(*leaves)
        return (*(o.detach() for o in replayed), *torch.autograd.grad(replayed, leaves, grad_outputs))

    return run


def check_twin(twin: Subject, both: bool) -> None:
    """Check the same kernels in float32 by the rule for float32. Raises: AssertionError."""
    call, plain = eager_call(twin.run, "triton"), eager_call(twin.plain or twin.run, "ref")
    try:
        gate.check(call, plain, twin.make(DEVICE, 0), both=both, pin=twin.pin)
    except AssertionError as error:
        raise AssertionError(f"{twin.shape}: {error}") from None


def check_graph(subject: Subject, call: gate.Call, both: bool) -> None:
    """Check that a replay gives the numbers of the call. Raises: AssertionError."""
    args = subject.make(DEVICE, 0)
    if both:
        want = gate.backward(call, args)
        kept = len(want) - len(gate.leaves(args))
        with_grad = [o for o, plain in zip(want[:kept], call(args)) if plain.requires_grad]
        want = (*with_grad, *want[kept:])
    else:
        want = gate.forward(call, args)
    got = prepare_graph(subject, call, both)()
    assert isinstance(got, tuple)
    worst = max(gate.relative_errors(got, tuple(w.double() for w in want)))
    if worst > gate.FLOOR:
        raise AssertionError(f"graph: a replay differs from the call by {worst:.1e}, wanted at most {gate.FLOOR:.0e}")


def _prepare_eager(subject: Subject, impl: str, both: bool) -> Callable[[], object]:
    return prepare_op(subject, eager_call(subject.run, impl), both)


def ring_size(bytes_moved: int) -> int:
    """Number of input sets that overflow the L2 cache twice; 1 on a CPU."""
    if DEVICE.type != "cuda":
        return 1
    cache: int = torch.cuda.get_device_properties(DEVICE).L2_cache_size
    return min(max(math.ceil(2 * cache / bytes_moved), 1), MAX_RING)


def plan_rounds(
    one_call_s: float, budget_s: float, min_rounds: int, shortest_s: float = SHORTEST_ROUND_S
) -> tuple[int, int]:
    """(rounds, calls per round) that fill the budget, but at least ``min_rounds``; 3 where one call fills it."""
    one_call_s = max(one_call_s, 1e-9)
    calls = max(math.ceil(shortest_s / one_call_s), 1)
    least = min(min_rounds, 3) if one_call_s > budget_s else min_rounds
    return max(min(int(budget_s / (one_call_s * calls)), MAX_ROUNDS), least), calls


class Measure:
    """Value of the ``measure`` fixture."""

    def __init__(self, benchmark: BenchmarkFixture, config: pytest.Config, *, telling: bool = False) -> None:
        self.benchmark, self.config, self.telling = benchmark, config, telling

    def __call__(self, subject: Subject, direction: str, impl: str) -> None:
        """Check, then time, one op by one implementation; skips with a reason."""
        reason = skip_reason(subject.ops, impl, telling=self.telling)
        if impl == PEER:
            reason = subject.peer.missing() if subject.peer else "peer: none computes this"
        if reason:
            pytest.skip(reason)
        both, kernel = direction == "fwd+bwd", impl in KERNELS
        run, plain = subject.run, subject.plain or subject.run
        definition = eager_call(plain, "ref")
        call = definition if impl == "ref" and plain is run else eager_call(run, impl)
        if impl == PEER and subject.peer is not None:
            call = subject.peer.run
        checked = (subject.check_make or subject.make)(DEVICE, 0)
        if impl == "compile":
            torch.compiler.reset()
            call = torch.compile(eager_call(subject.compiled or run, impl), dynamic=False)
        precision = (subject.precision if kernel else None) or "fp32"
        if kernel and subject.twin is not None:
            check_twin(subject.twin, both)
        error = gate.check(
            call, definition, checked, both=both, exact_form=impl == "ref", precision=precision, pin=subject.pin
        )
        if impl == "graph":
            check_graph(subject, call, both)
        args = subject.make(DEVICE, 0)
        outputs = gate.forward(definition, args)  # compiled code would be compiled again
        moved = minimal_bytes(args, outputs, both, linear=subject.linear)
        facts = {
            "op": subject.op,
            "direction": direction,
            "shape": subject.shape,
            "impl": subject.label(impl),
            "baseline": call is definition,
            "precision": precision,
            "error": error,
            "bytes": moved,
            "flops": subject.flops + (subject.flops_backward if both else 0),
        }
        del args, checked, outputs  # they would count in the peak
        if self.benchmark.disabled:  # --benchmark-disable: the gate only
            self.benchmark(lambda: None)
            return
        place = prepare_graph if impl == "graph" else prepare_op
        prepare: Prepare = partial(_prepare_eager, subject, impl, both)
        if impl == PEER:
            prepare = partial(prepare_op, subject, call, both)
        if impl in ("compile", "graph"):  # not picklable: measured in this process, on CUDA
            prepare = partial(place, subject, call, both)
        peak = self._peak(prepare)
        self._time(place(subject, call, both, ring_size(moved)), facts, peak)

    def model(self, prepare: Prepare, check: Callable[[object], None], **facts: Any) -> None:
        """Time something larger than an op. ``check`` receives the first call's result before timing.
        FLOPs are those of products and convolutions in torch's own ops, counted during the first call of "ref" and
        reused for the same op, shape and direction. Skips where the device's memory does not suffice.
        """
        try:
            self._model(prepare, check, facts)
        except torch.OutOfMemoryError:
            pytest.skip(f"{facts['impl']}: more than the memory of the device")

    def _model(self, prepare: Prepare, check: Callable[[object], None], facts: dict[str, Any]) -> None:
        timed, on_cpu = not self.benchmark.disabled, DEVICE.type == "cpu"
        peak = self._peak(prepare) if timed and on_cpu else None  # first, before a second model exists
        run = prepare()
        key = facts["op"], facts["shape"], facts["direction"]
        if facts["impl"] == "ref":
            with FlopCounter() as counter:
                result = run()
            self.config.stash.setdefault(COUNTED, {})[key] = counter.total
        else:
            result = run()
        check(result)
        del result  # it would count in the peak
        if not timed:
            self.benchmark(lambda: None)
            return
        flops = self.config.stash.get(COUNTED, {}).get(key)
        self._time(run, {"flops": flops, **facts}, peak or self._peak(lambda: run))

    def _peak(self, prepare: Prepare) -> Peak | None:
        """Memory of a call; None in a short run on a CPU, where it takes a process of its own."""
        return None if self.config.getoption("quick", False) and DEVICE.type == "cpu" else peak_memory(prepare)

    def _time(self, run: Callable[[], object], facts: dict[str, Any], peak: Peak | None) -> None:
        best = ceilings()
        self.benchmark.group = f"{facts['op']} {facts['direction']} {facts['shape']}"  # of comparable results
        timing = self._rounds(run)
        seconds = timing.percentile_ms(50) / 1e3
        moved = facts["bytes"] / seconds / 1e9 if "bytes" in facts else None
        flops = None if facts["flops"] is None else facts["flops"] / seconds / 1e9
        rates = {"GB_per_s": moved, "GFLOP_per_s": flops}
        if "images" in facts:
            rates["images_per_s"] = facts["images"] / seconds
        info = {
            **facts,
            **{f"p{q}_ms": timing.percentile_ms(q) for q in (20, 50, 80)},
            "rounds": len(timing.seconds),
            "calls_per_round": timing.calls,
            **rates,
            **{f"ceiling_{name}": value for name, value in best._asdict().items()},
            "share_copy": None if moved is None else moved / best.copy_GB_per_s,
            "share_matmul": None if flops is None else flops / best.matmul(facts.get("precision")),
            "peak_mib": None if peak is None else peak.total_mib,
            "peak_before_mib": None if peak is None else peak.before_mib,
            **environment(),
        }
        self.benchmark.extra_info.update(info)
        self.config.stash[ROWS].append(info)

    def _rounds(self, run: Callable[[], object]) -> Timing:
        start = time.perf_counter()
        run()
        sync()
        one_call_s = time.perf_counter() - start
        option = self.config.getoption
        rounds, calls = plan_rounds(
            one_call_s, float(option("benchmark_max_time")), int(option("benchmark_min_rounds"))
        )
        warmup = 3 if one_call_s < LONG_CALL_S else 0  # the call above and the check warm up a long call
        last = cycle(i == calls - 1 for i in range(calls))

        def timed() -> None:
            run()
            if next(last):  # once per round: the device may run ahead in between
                sync()

        self.benchmark.pedantic(timed, rounds=rounds, iterations=calls, warmup_rounds=warmup)
        return Timing(list(self.benchmark.stats.stats.data), calls)
