"""Taking back a step that was interrupted: what it has changed so far becomes what it was, bit for bit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .stats import Accumulator


class StepUndo:
    """Copies of what a step changes, taken as late as possible.

    Forward passes move the buffers (running magnitudes, the mean style) and the mean path length, every round adds to
    the statistics: these are small and copied on construction. Weights and moments are copied by ``before_update``.
    G_ema and the counters change only at the end of a step, where nothing interrupts it.
    """

    def __init__(self, networks: list[nn.Module], stats: Accumulator) -> None:
        self._networks, self._stats = networks, stats
        self._buffers = [(buffer, buffer.clone()) for network in networks for buffer in network.buffers()]
        self._means = stats.copy()
        self._weights: list[tuple[Tensor, Tensor]] = []
        self._moments: list[tuple[torch.optim.Optimizer, dict[Tensor, dict[str, Tensor]]]] = []

    def before_update(self, module: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Copy the weights of a network and what its optimiser has gathered, once per step."""
        if any(kept is optimiser for kept, _ in self._moments):
            return
        self._weights += [(p, p.detach().clone()) for p in module.parameters()]
        moments = {p: {key: value.clone() for key, value in own.items()} for p, own in optimiser.state.items()}
        self._moments.append((optimiser, moments))

    @torch.no_grad()
    def undo(self) -> None:
        """Put everything back, and forget gradients."""
        for network in self._networks:
            network.zero_grad(set_to_none=True)
            network.requires_grad_(False)
        for tensor, before in [*self._buffers, *self._weights]:
            tensor.copy_(before)
        for optimiser, moments in self._moments:
            optimiser.state.clear()
            optimiser.state.update(moments)
        self._stats.restore(self._means)
