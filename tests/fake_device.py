"""The engine at its real size on tensors without memory, as on a CUDA device: shapes, devices, strides, launches.

:func:`fake_device` opens it. Within, every torch op passes :class:`Watch`, which counts launches, waits of the host and
uploads, and collects faults. The device calls itself "lazy", torch's one name of a device that autograd serves without
a driver; only on "meta" autograd needs no help, but there ``torch.tensor`` makes no copy that could be seen.
"""

import ctypes
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import triton.runtime.interpreter as interpreter
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stylenerf.engine.planning.stand_in import (
    TARGET,
    fake_modules,
    generators_of,
    numbers_of,
    own_constants,
)
from stylenerf.kernels.base.launch import Launch, record_launches
from stylenerf.kernels.base.register import namespace

KIND = "lazy"
DEVICE = torch.device(KIND, 0)
LAZY, META = 17, 14  # of c10::DeviceType
COPIES = {"_to_copy", "copy_"}
READS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "bincount"}
ATOMIC = {  # backwards of torch that add in an order of their own
    "upsample_bilinear2d_backward", "upsample_bicubic2d_backward", "grid_sampler_2d_backward", "index_add",
    "index_add_", "replication_pad2d_backward", "reflection_pad2d_backward", "_adaptive_avg_pool2d_backward",
    "max_pool2d_with_indices_backward", "embedding_dense_backward",
}  # fmt: skip
# where gather takes no element twice, so that its backward adds once to each: a lattice of pixels, sorted samples
GATHERED_ONCE = {"losses.py", "render_ref.py"}
FREE = {"detach", "alias", "lift_fresh", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
MOST_ELEMENTS = 2**31


def lend_device_guard() -> None:
    """Autograd asks for a guard of the device, which torch lacks here: it gets the meta device's, which is idle."""
    library = ctypes.CDLL(os.path.join(os.path.dirname(torch.__file__), "lib", "libc10.so"))
    guards = (ctypes.c_void_p * (LAZY + 1)).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    if guards[LAZY] is None:
        guards[LAZY] = guards[META]


def place() -> str:
    """The two innermost lines of this project that are being run."""
    frame, lines = sys._getframe(1), []
    while frame is not None and len(lines) < 2:
        file = frame.f_code.co_filename
        if file != __file__ and "site-packages" not in file and not file.startswith("<"):
            lines.append(f"{os.path.basename(file)}:{frame.f_lineno}")
        frame = frame.f_back  # type: ignore[assignment]
    return " < ".join(lines)


def on_device(x: Any) -> bool:
    return isinstance(x, Tensor) and x.device.type == KIND


def shape_of(x: Tensor | None) -> tuple[Any, ...] | None:
    """Shape, dtype, device, and the strides of what has elements."""
    return None if x is None else (tuple(x.shape), x.dtype, x.device, x.stride() if x.numel() else None)


class Watch(TorchDispatchMode):
    """Counts what happens on the device and collects what must not.

    ``counts``: launches of kernels and of torch's ops, waits and uploads, constants and pinned copies; ``places``:
    where it waits and uploads; ``faults``: everything else, in words.
    """

    def __init__(self, launches: list[Launch]) -> None:
        super().__init__()
        self.launches, self.seen = launches, 0
        self.counts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.places: Counter[str] = Counter()
        self.kernels: Counter[str] = Counter()
        self.large: dict[str, Launch] = {}
        self.ops: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func._overloadpacket.__name__
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if name in READS or (name == "repeat_interleave" and func._overloadname == "Tensor"):
            return self._read(func, name, args, kwargs, tensors)
        if name.lstrip("_").startswith("index") and any(on_device(x) and x.dtype == torch.bool for x in tensors[1:]):
            self.note("waits", f"{name} by a mask at {place()}")
        self._check_devices(name, args, tensors)
        out = func(*args, **kwargs)
        if func.namespace == namespace():
            self.ops[name] += 1
            self._compare(func, args, kwargs, out)
        elif name in COPIES:
            self._copied(args[1] if name == "copy_" else args[0], args[0] if name == "copy_" else out, kwargs)
        elif name in ATOMIC and any(map(on_device, tensors)):
            self.note("atomic", f"{name} at {place()}")
        elif name == "gather" and args[0].requires_grad and place().split(":")[0] not in GATHERED_ONCE:
            self.note("atomic", f"the backward of gather at {place()}")
        if any(map(on_device, tree_leaves(out))) and not func.is_view and name not in FREE:
            self.counts["torch ops"] += 1
        self._take_launches()
        return out

    def note(self, kind: str, text: str) -> None:
        self.counts[kind] += 1
        self.places[f"{kind}: {text}"] += 1

    def _read(self, func: Any, name: str, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        """An op whose result the host must know: a wait on the device; on the CPU, a number that stands for any."""
        if any(map(on_device, tensors)):
            self.note("waits", f"{name} at {place()}")
        if name == "_local_scalar_dense":
            dtype = args[0].dtype
            return False if dtype == torch.bool else 1.0 if dtype.is_floating_point else 0
        if name == "equal":
            return True
        if name == "nonzero":
            return args[0].new_empty((args[0].numel(), args[0].ndim), dtype=torch.long)
        raise RuntimeError(f"the shape of {name} depends on numbers")

    def _check_devices(self, name: str, args: Any, tensors: list[Tensor]) -> None:
        if name in COPIES or not any(map(on_device, tensors)):
            return
        indexes = name.startswith(("index", "_index"))
        for x in tensors:
            if x.device.type == "cpu" and (x.ndim or (indexes and x is not args[0])):
                self.faults[f"{name} mixes devices at {place()}"] += 1

    def _copied(self, source: Tensor, out: Tensor, kwargs: Any) -> None:
        if not isinstance(source, Tensor) or source.device.type == out.device.type:
            return
        if on_device(source):
            self.note("waits", f"copy to the host at {place()}")
        elif "constants.py" in place():
            self.counts["constants"] += 1
        elif getattr(source, "pinned", False) and kwargs.get("non_blocking"):
            self.counts["pinned copies"] += 1
        else:
            self.note("uploads", f"{list(source.shape)} at {place()}")

    def _compare(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """The op's body on the same tensors must make what its fake says; its launches are recorded."""
        body = OPDEFS[func._schema.name]._init_fn
        with self:
            made = body(*args, **kwargs)
        said, made = (list(x) if isinstance(x, tuple | list) else [x] for x in (out, made))
        for i, (a, b) in enumerate(zip(said, made, strict=True)):
            if shape_of(a) != shape_of(b):
                self.faults[f"fake of {func._schema.name}, output {i}: says {shape_of(a)}, op makes {shape_of(b)}"] += 1

    def _take_launches(self) -> None:
        for launch in self.launches[self.seen :]:
            self.counts["kernels"] += 1
            self.kernels[launch.kernel.__name__] += 1
            if any(span(x) >= MOST_ELEMENTS for x in launch.args.values() if isinstance(x, Tensor)):
                self.check(launch)
            for x in launch.args.values():
                if isinstance(x, Tensor) and not on_device(x):
                    self.faults[f"{launch.kernel.__name__} gets a tensor of {x.device} at {place()}"] += 1
        self.seen = len(self.launches)

    def check(self, launch: Launch) -> None:
        """Its first and last program must read and write its own tensors only."""
        for fault in stray_accesses(launch):
            self.faults[fault] += 1


def span(x: Tensor) -> int:
    """Elements from the first to the last of a tensor."""
    return 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride())) if x.numel() else 0


class Pointer:
    """A tensor as Triton sees it, at an address of its own."""

    def __init__(self, x: Tensor, address: int) -> None:
        self.dtype, self.address, self.name = x.dtype, address, ""
        self.end = address + span(x) * x.element_size()

    def data_ptr(self) -> int:
        return self.address


class Memory:
    """Loads give zeros, stores nothing; addresses outside every tensor are collected."""

    def __init__(self, pointers: dict[str, Pointer]) -> None:
        self.pointers, self.strays = pointers, set[str]()

    def load(self, addresses: Any, mask: Any, other: Any, dtype: Any) -> Any:
        self._look(addresses, mask)
        return np.zeros(addresses.shape, dtype)

    def store(self, addresses: Any, value: Any, mask: Any) -> None:
        self._look(addresses, mask)

    def _look(self, addresses: Any, mask: Any) -> None:
        used = addresses[np.broadcast_to(mask, addresses.shape).astype(bool)]  # some masks are integers
        inside = np.zeros(used.shape, bool)
        for pointer in self.pointers.values():
            inside |= (used >= pointer.address) & (used < pointer.end)
        if not inside.all():
            stray = int(used[~inside][0])
            near, pointer = min(self.pointers.items(), key=lambda item: abs(stray - item[1].address))
            self.strays.add(f"{near} at byte {stray - pointer.address} of {pointer.end - pointer.address}")


def stray_accesses(launch: Launch) -> list[str]:
    """What the first and the last program of a launch read or write outside their tensors, loaded numbers being 0.

    An offset of 2^31 or more that is counted in 32 bits shows so.
    """
    named = {k: x for k, x in launch.args.items() if isinstance(x, Tensor)}
    pointers = {k: Pointer(x, (i + 1) << 44) for i, (k, x) in enumerate(named.items())}
    memory = Memory(pointers)
    grid = (*launch.grid, 1, 1)[:3]
    executor = interpreter.GridExecutor(launch.kernel.rewrite(), launch.kernel.arg_names, grid)
    args = {k: pointers.get(k, v) for k, v in launch.args.items()}
    args = {k: v if k in executor.constexprs else interpreter._implicit_cvt(v) for k, v in args.items()}
    scope = interpreter._patch_lang(launch.kernel.fn)
    try:
        interpreter.interpreter_builder.set_grid_dim(*grid)
        with patch.object(interpreter, "_interpreter", memory), np.errstate(all="ignore"):
            for corner in {(0, 0, 0), tuple(n - 1 for n in grid)}:
                interpreter.interpreter_builder.set_grid_idx(*corner)
                executor.fn(**args)
    finally:
        scope.restore()
    return [f"{launch.kernel.__name__} reaches {stray}" for stray in sorted(memory.strays)]


@contextmanager
def fake_device() -> Iterator[Watch]:
    """Tensors are fake from here on, those of :data:`DEVICE` as if on CUDA; launches are recorded."""
    lend_device_guard()

    def tolist(x: Tensor) -> Any:
        if on_device(x):
            watch.note("waits", f"tolist at {place()}")
        return numbers_of(x)

    def pin_memory(x: Tensor) -> Tensor:
        copy = x.clone()
        copy.pinned = True  # type: ignore[attr-defined]
        return copy

    is_cuda = property(lambda x: x.device.type == KIND)
    with (
        own_constants(),
        record_launches(TARGET) as launches,
        generators_of(DEVICE),
        fake_modules(),
        patch.multiple(FakeTensor, tolist=tolist, pin_memory=pin_memory),
        patch.object(FakeTensor, "is_cuda", is_cuda, create=True),
        FakeTensorMode(),
    ):
        watch = Watch(launches)
        yield watch
