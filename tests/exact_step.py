"""Training steps phase by phase, and the same in float64: what kernels and plain torch are both held against."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from stylenerf.engine.data import Dataset
from stylenerf.engine.training.config import Config
from stylenerf.engine.training.stats import Accumulator
from stylenerf.engine.training.step import Stepper, TrainState
from stylenerf.models import layers

Results = dict[str, Tensor]


def step_results(cfg: Config, data: Dataset, shown: int, device: torch.device, *, double: bool = False) -> Results:
    """Losses, every gradient of every phase and the averages of one step, which updates weights at its end only.

    Each phase sees the weights that the step began with, so that rounding in one does not reach the next through Adam,
    whose first update is a sign.
    """
    state = TrainState.create(cfg, data.label_dim, device)
    if double:
        for part in (state.generator, state.discriminator, state.average):
            part.double()
        state.path_length_mean = state.path_length_mean.double()  # the weights are those of float32
    state.images_shown = shown
    stepper = Stepper(cfg, data, state, Accumulator(), device)
    results: Results = {}
    update = stepper._update

    def updated(phase: str, module: nn.Module, optimiser: torch.optim.Adam) -> None:
        for name, p in module.named_parameters():
            if p.grad is not None:
                results[f"{phase}: gradient of {name}"] = p.grad.detach().clone()
        before = [p.detach().clone() for p in module.parameters()]
        update(phase, module, optimiser)
        with torch.no_grad():
            for p, value in zip(module.parameters(), before):
                p.copy_(value)

    stepper._update = updated  # type: ignore[method-assign]
    with in_float64() if double else nullcontext():
        stepper.run()
    sums, counts = stepper.stats.copy()
    dtype = state.path_length_mean.dtype
    results |= {f"mean of {name}": (torch.as_tensor(total) / counts[name]).to(dtype) for name, total in sums.items()}
    results |= {f"average's {name}": t.detach().clone() for name, t in state.average.named_buffers()}
    return results


@contextmanager
def in_float64() -> Iterator[None]:
    """What asks for float32 gets float64, but for random numbers, which stay those of float32."""

    def drawing(real: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def draw(*args: Any, dtype: Any = None, **kwargs: Any) -> Tensor:
            return real(*args, dtype=single, **kwargs).double()

        return draw

    single, draws = torch.float32, {name: drawing(getattr(torch, name)) for name in ("rand", "randn")}
    with (
        patch.dict(layers.DTYPES, fp32=torch.float64),
        patch.object(Tensor, "float", Tensor.double),
        patch.multiple(torch, float32=torch.float64, **draws),
    ):
        yield
