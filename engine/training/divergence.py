"""Detect divergence: report losses, gradients and weights that are not finite, and decide when to stop."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..model_io import check_finite
from .step import TrainState

EXIT_DIVERGED = 3
_HINTS = {
    "generator": "optimiser.generator_lr",
    "nerf_path": "optimiser.generator_lr or loss.nerf_path_weight",
    "path_length": "optimiser.generator_lr or loss.path_length_weight",
    "discriminator": "optimiser.discriminator_lr",
    "r1": "optimiser.discriminator_lr or loss.r1_gamma",
}


class Watch:
    """Counts consecutive steps with a non-finite loss or gradient, and reports the first of each kind.

    Flags stay on the device until ``read``, so that a step never waits for the GPU.

    Args:
        limit: number of consecutive non-finite steps after which a run counts as diverged; None: never.
        report: takes one line per message.
    """

    def __init__(self, limit: int | None, report: Callable[[str], None]) -> None:
        self.limit, self.report = limit, report
        self.streak = 0  # consecutive non-finite steps, as of the last read
        self.loss_bad = False  # whether the last step had a loss that is not finite
        self._told: set[str] = set()
        self._pending: list[tuple[int, list[str], Tensor]] = []

    def step_done(self, step: int, flags: dict[str, Tensor]) -> None:
        """Record the flags of one step: name of a loss or gradient -> whether it was not finite, a bool scalar."""
        self._pending.append((step, list(flags), torch.stack(list(flags.values()))))

    def read(self, state: TrainState) -> bool:
        """Read the recorded flags and report new faults; True if the run has diverged."""
        if not self._pending:
            return False
        values = iter(torch.cat([flags for _, _, flags in self._pending]).tolist())
        diverged = any_bad = False
        for step, names, _ in self._pending:
            bad = [name for name in names if next(values)]
            for name in bad:
                kind, _, phase = name.partition("/")
                self._tell(kind, step, f"{name} is not finite", _HINTS[phase])
            self.loss_bad = any(name.startswith("Loss/") for name in bad)
            self.streak = self.streak + 1 if bad else 0
            any_bad |= bool(bad)
            diverged |= self.limit is not None and self.streak >= self.limit
        self._pending.clear()
        if any_bad:
            self.weights(state)
        return diverged

    def unfit_to_save(self, state: TrainState) -> str | None:
        """Reason not to replace an older checkpoint by this state, or None."""
        self.read(state)
        if self.loss_bad or self.streak > 1:
            return f"{max(self.streak, 1)} steps in a row were not finite"
        return self.weights(state)

    def weights(self, state: TrainState) -> str | None:
        """The first tensor of the state that is not finite, reported once; None if all are finite."""
        reason = nonfinite_weights(state)
        if reason is not None:
            self._tell("Weight", state.step, reason, "optimiser.generator_lr and optimiser.discriminator_lr")
        return reason

    def _tell(self, kind: str, step: int, what: str, lower: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            self.report(f"warning: step {step}: {what}; if this lasts, lower {lower}")


def nonfinite_weights(state: TrainState) -> str | None:
    """Name of the first tensor with non-finite values and their number, or None."""
    for name in ("generator", "discriminator", "average"):
        tensors = getattr(state, name).state_dict()
        try:
            check_finite({f"{name}.{key}": value for key, value in tensors.items()})
        except ValueError as error:
            return str(error)
    try:
        check_finite({"path_length_mean": state.path_length_mean})
    except ValueError as error:
        return str(error)
    return None
