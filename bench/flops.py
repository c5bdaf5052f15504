"""Counter of the floating-point operations of products and convolutions in running code, backward passes too."""

from collections.abc import Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from stylenerf.engine.planning.counting import flop_of


class FlopCounter(TorchDispatchMode):
    """torch's formulas, two operations per term. torch's own counter also tracks modules, which fails inside R1."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.total += flop_of(func, args, kwargs or {}, out)
        return out
