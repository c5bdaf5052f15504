"""What autograd keeps for the backward, counted."""

from collections.abc import Iterable
from types import TracebackType

import torch
from torch import Tensor


class SavedBytes:
    """Within it, ``count`` is the size of all memory that the graph holds on to, each piece once, on any device.

    Args:
        apart: tensors that are there anyway, parameters say, and do not count.
    """

    def __init__(self, apart: Iterable[Tensor] = ()) -> None:
        self.apart = {_place(t) for t in apart}
        self.kept: dict[int, torch.UntypedStorage] = {}  # held, so that no address is used twice
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda t: t)

    def _keep(self, t: Tensor) -> Tensor:
        if _place(t) not in self.apart:
            self.kept[_place(t)] = t.untyped_storage()
        return t

    @property
    def count(self) -> int:
        return sum(storage.nbytes() for storage in self.kept.values())

    def __enter__(self) -> "SavedBytes":
        self.hooks.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType) -> None:
        self.hooks.__exit__(kind, value, trace)


def _place(t: Tensor) -> int:
    return t.untyped_storage()._cdata
