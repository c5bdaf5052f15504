"""Counts what a step allocates, moves, multiplies and launches, from every op that it dispatches."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ...kernels.base.launch import Launch
from ...kernels.base.register import namespace

CUDA_GRANULE = 512  # bytes: torch's CUDA allocator hands out multiples of it
HALF = (torch.float16, torch.bfloat16)
SLOTS = "slots_ptr"  # a program's scratch slot, which stays in the cache
WORKSPACE = "workspace of "


@dataclass
class Counts:
    """Of one phase. ``peak`` is in bytes, and ``parts`` is what lives at that moment, by what made it."""

    peak: int = 0
    parts: Counter[str] = field(default_factory=Counter)
    moved: int = 0  # bytes that ops and kernels read and write, each tensor once
    half_flop: int = 0  # of torch's products of 16-bit operands
    single_flop: int = 0  # of torch's other products
    kernels: int = 0
    torch_ops: int = 0


class Count(TorchDispatchMode):
    """Counts ops on tensors that take no memory.

    A registered op's body runs in place of its fake, so that its workspace and its launches are seen.

    Args:
        launches: where :func:`stand_in` records.  granule: allocations are multiples of it, in bytes.
        work: count bytes moved and operations too.
    """

    def __init__(self, launches: list[Launch], granule: int = 1, *, work: bool = True) -> None:
        super().__init__()
        self.launches, self.granule, self.work = launches, granule, work
        self.counts, self.phases = Counts(), dict[str, Counts]()
        self.live, self.label = 0, ""
        self._by: Counter[str] = Counter()
        self._sizes: dict[int, tuple[int, str]] = {}
        self._storages: dict[int, Any] = {}
        self._ops: list[str] = []

    def begin(self, name: str) -> None:
        """A new phase: its peak begins with what is alive."""
        self.counts = self.phases.setdefault(name, Counts(self.live, self._by.copy()))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func._overloadpacket.__name__
        if func.namespace == namespace():
            return self._body(func, name, args, kwargs)
        if name == "_local_scalar_dense" and (args[0].is_meta or isinstance(args[0], FakeTensor)):
            return args[0].dtype.is_floating_point * 1.0
        out = func(*args, **kwargs)
        if self.work:
            self._add(func, args, kwargs, out)
        if isinstance(out, Tensor):  # most ops return one
            self._track(out, name)
        else:
            for x in tree_leaves(out):
                self._track(x, name)
        return out

    def _body(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        self._ops.append(name)
        try:
            with self:
                out = OPDEFS[func._schema.name]._init_fn(*args, **kwargs)
        finally:
            self._ops.pop()
        if not self._ops:
            self.relabel(filter(counted, tree_leaves(out)), name, only=WORKSPACE)
            for launch in self.launches:
                self.counts.kernels += 1
                self.counts.moved += launch_bytes(launch) if self.work else 0
            self.launches.clear()  # they hold tensors
        return out

    def _add(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        moved = torch_bytes(func, (*args, *kwargs.values()), out)
        self.counts.moved += moved
        self.counts.torch_ops += moved > 0
        if any(isinstance(x, Tensor) and x.dtype in HALF for x in args):
            self.counts.half_flop += flop_of(func, args, kwargs, out)
        else:
            self.counts.single_flop += flop_of(func, args, kwargs, out)

    def _track(self, x: Any, name: str) -> None:
        if not counted(x):
            return
        storage = x.untyped_storage()
        key = storage._cdata
        if key in self._sizes:
            return
        size = -(-storage.nbytes() // self.granule) * self.granule
        label = self.label or (WORKSPACE + self._ops[0] if self._ops else name)
        self._sizes[key], self._storages[key] = (size, label), weakref.ref(storage, lambda _: self._free(key))
        self.live += size
        self._by[label] += size
        if self.live > self.counts.peak:
            self.counts.peak, self.counts.parts = self.live, self._by.copy()

    def _free(self, key: int) -> None:
        size, label = self._sizes.pop(key)
        del self._storages[key]
        self.live -= size
        self._by[label] -= size

    def by(self, label: str) -> int:
        """Bytes that live under a name."""
        return self._by[label]

    def relabel(self, tensors: Iterable[Tensor], label: str, *, only: str = "") -> None:
        """Count tensors under another name, those whose name begins with ``only``."""
        for x in tensors:
            key = x.untyped_storage()._cdata
            if key in self._sizes and self._sizes[key][1].startswith(only):
                size, before = self._sizes[key]
                self._sizes[key] = size, label
                self._by[before] -= size
                self._by[label] += size


def counted(x: Any) -> bool:
    """Whether ``x`` is a tensor of the device that is counted: one without memory."""
    return isinstance(x, Tensor) and (x.is_meta or isinstance(x, FakeTensor))


def torch_bytes(func: Any, args: Sequence[Any], out: Any) -> int:
    """Bytes that a torch op on counted tensors reads and writes; 0 for views and allocations."""
    name = func.overloadpacket.__name__
    if "empty" in name:
        return 0
    inputs, outputs = (list(filter(counted, tree_leaves(x))) for x in (list(args), out))
    known = {storage_of(t) for t in inputs}
    new = [t for t in outputs if storage_of(t) not in known]
    changed = func._schema.is_mutable
    if not new and not changed and outputs:
        return 0  # views
    if name.startswith("new_") or name.endswith("_like"):
        inputs = []  # used for their shapes only
    read = inputs[1:] if name == "copy_" else inputs
    return sum(extent(t) for t in (*read, *(outputs if changed else new)))


def flop_of(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    """Operations of a product or a convolution by torch's formulas, two per term; 0 of other ops."""
    formula = flop_registry.get(func.overloadpacket)
    return 0 if formula is None else int(formula(*args, **kwargs, out_val=out))


def launch_bytes(launch: Launch) -> int:
    """Bytes of the tensors that a launch reads or writes, each once."""
    return sum(extent(x) for name, x in launch.args.items() if isinstance(x, Tensor) and name != SLOTS)


def extent(t: Tensor) -> int:
    """Bytes of the distinct elements of ``t``: expanded dims count once."""
    count = 1
    for size, stride in zip(t.shape, t.stride()):
        count *= size if stride or size == 0 else 1
    return count * t.element_size()


def storage_of(t: Tensor) -> int:
    return int(t.untyped_storage()._cdata)
