"""Roll back an interrupted training step, bit for bit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .stats import Accumulator


class StepUndo:
    """Copies of the state that a step changes, taken as late as possible.

    Forward passes update the buffers (running magnitudes, the mean style), every round adds to the statistics: these
    are small and copied on construction. Weights and moments are copied by ``before_update``. The caller restores the
    mean path length. G_ema and the counters change only at the end of a step, where nothing interrupts it.
    """

    def __init__(self, networks: list[nn.Module], stats: Accumulator) -> None:
        self._networks, self._stats = networks, stats
        self._buffers = [(buffer, buffer.clone()) for network in networks for buffer in network.buffers()]
        self._means = stats.copy()
        self._weights: list[tuple[Tensor, Tensor]] = []
        self._moments: list[tuple[torch.optim.Optimizer, dict[Tensor, dict[str, Tensor]]]] = []

    def before_update(self, module: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Copy the weights of a network and its optimiser's moments, once per step."""
        if any(copied is optimiser for copied, _ in self._moments):
            return
        self._weights += [(p, p.detach().clone()) for p in module.parameters()]
        moments = {p: {key: value.clone() for key, value in own.items()} for p, own in optimiser.state.items()}
        self._moments.append((optimiser, moments))

    @torch.no_grad()
    def undo(self) -> None:
        """Restore all copies and clear the gradients."""
        for network in self._networks:
            network.zero_grad(set_to_none=True)
            network.requires_grad_(False)
        for tensor, before in [*self._buffers, *self._weights]:
            tensor.copy_(before)
        for optimiser, moments in self._moments:
            optimiser.state.clear()
            optimiser.state.update(moments)
        self._stats.restore(self._means)
