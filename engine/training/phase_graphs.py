"""Passes of training and rendering as CUDA graphs: recorded once, checked against the pass itself, replayed.

A full-size step launches hundreds of kernels a round; at small resolutions launching them takes the host longer than
the device needs to run them. A graph repeats the launches of one pass at the same addresses, so everything that differs
from pass to pass is an input: latents, cameras, jitter, pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import one_line
from ..nests import mapped, tensors
from .config import Config

Report = Callable[[str], None]
# records the launches of a pass without running them: what replays them, and the tensors that a replay fills
Record = Callable[[Callable[[], Any]], tuple[Callable[[], object], Any]]


class CudaRecorder:
    """Records on a CUDA device. Graphs share one pool: they run one after another, and outputs are copied at once."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.pool = device, torch.cuda.graph_pool_handle()

    def __call__(self, run: Callable[[], Any]) -> tuple[Callable[[], object], Any]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device), torch.cuda.graph(graph, pool=self.pool):
            outputs = run()
        return graph.replay, outputs


class Pass:
    """A recorded pass: its input buffers, its outputs, the gradients that it adds to."""

    def __init__(
        self, run: Callable[[Any], Any], inputs: Any, grads: Sequence[tuple[Tensor, Tensor]], record: Record
    ) -> None:
        self.inputs, self.grads = mapped(inputs, torch.clone), grads
        self.replay, self.outputs = record(lambda: run(self.inputs))

    def fits(self, inputs: Any) -> bool:
        now, then = tensors(inputs), tensors(self.inputs)
        return [(x.shape, x.dtype) for x in now] == [(x.shape, x.dtype) for x in then]

    def __call__(self, inputs: Any) -> Any:
        with torch.no_grad():
            for to, x in zip(tensors(self.inputs), tensors(inputs)):
                to.copy_(x)
            fresh = [(p, grad) for p, grad in self.grads if p.grad is not grad]
            for p, grad in fresh:  # the first round of a phase
                grad.zero_()
                p.grad = grad
        self.replay()
        return mapped(self.outputs, torch.clone)


class PassGraphs:
    """Replays passes that have been recorded, and records the others.

    The pass that is recorded runs as it is first. If the replay does not give the same numbers to the last bit, or
    nothing can be recorded, there are no graphs from then on, which one line says.
    """

    def __init__(self, record: Record, report: Report) -> None:
        self.record, self.report, self.on = record, report, True
        self._passes: dict[Hashable, Pass] = {}
        self._static: dict[Tensor, Tensor] = {}  # gradients by parameter, at addresses that stay
        self._level: Hashable = None

    def renew(self, level: Hashable) -> None:
        """Forget what was recorded for another level of growth."""
        if level != self._level:
            self._passes.clear()
            self._level = level

    def run(self, key: Hashable, run: Callable[[Any], Any], inputs: Any, networks: Sequence[nn.Module]) -> Any:
        """``run(inputs)``, whose results are nests of tensors and which adds to gradients of ``networks``."""
        known = self._passes.get(key)
        if not self.on or (known is not None and not known.fits(inputs)):
            return run(inputs)
        return self._recorded(key, run, inputs, networks) if known is None else known(inputs)

    def _recorded(self, key: Hashable, run: Callable[[Any], Any], inputs: Any, networks: Sequence[nn.Module]) -> Any:
        buffers = [b for module in networks for b in module.buffers()]
        weights = [p for module in networks for p in module.parameters() if p.requires_grad]
        before = _copies(buffers), [None if p.grad is None else p.grad.clone() for p in weights]
        found = run(inputs)
        after = _copies(buffers), [p.grad for p in weights]
        try:
            _write(buffers, before[0])
            taken = self._pass(run, inputs, weights, before[1], after[1])
            replayed = self._replayed(taken)
            got = [*tensors(replayed), *buffers, *(grad for _, grad in taken.grads)]
            same = _same(got, [*tensors(found), *after[0], *(grad for grad in after[1] if grad is not None)])
            reason = "" if same else "the replay gives other numbers"
        except RuntimeError as error:  # also where memory is out
            reason = one_line(error)[:200]
        if reason:
            _write(buffers, after[0])
            for p, grad in zip(weights, after[1]):
                p.grad = grad
            self.off(f"{key}: {reason}")
            return found
        self._passes[key] = taken
        return replayed

    def _pass(
        self, run: Callable[[Any], Any], inputs: Any, weights: list[nn.Parameter], before: list[Any], after: list[Any]
    ) -> Pass:
        """Record with the gradients as they were before, those of parameters that take no part staying None."""
        grads = []
        for p, was, now in zip(weights, before, after):
            p.grad = None
            if now is not None:
                if p not in self._static:
                    self._static[p] = torch.zeros_like(p)
                static = self._static[p]
                static.zero_() if was is None else static.copy_(was)
                p.grad = static
                grads.append((p, static))
        return Pass(run, inputs, grads, self.record)

    def _replayed(self, taken: Pass) -> Any:
        taken.replay()
        return mapped(taken.outputs, torch.clone)

    def off(self, reason: str) -> None:
        """No graphs from now on."""
        self.on = False
        self._passes.clear()
        self._static.clear()
        self.report(f"graphs:      off, {reason}")


def graphs_for(cfg: Config, device: torch.device, report: Report) -> PassGraphs | None:
    """Graphs of a training's rounds: on CUDA, unless ``train.capture`` is off or numbers are drawn within a round."""
    if device.type != "cuda" or not cfg.train.capture:
        return None
    if cfg.generator.upsampler.noise:
        report("graphs:      off, the upsampler's layers draw noise of their own")
        return None
    if cfg.augment.mode != "none":
        report("graphs:      off, augmentation draws within a round")
        return None
    return PassGraphs(CudaRecorder(device), report)


def _copies(buffers: Iterable[Tensor]) -> list[Tensor]:
    return [b.clone() for b in buffers]


@torch.no_grad()
def _write(buffers: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for buffer, value in zip(buffers, values):
        buffer.copy_(value)


def _same(got: Sequence[Tensor], want: Sequence[Tensor]) -> bool:
    """Whether all numbers agree, NaN with NaN."""

    def pairs() -> Iterator[bool]:
        for a, b in zip(got, want, strict=True):
            yield bool(((a == b) | ((a != a) & (b != b))).all())

    return all(pairs())
