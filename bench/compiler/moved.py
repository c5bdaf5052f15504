"""Bytes that the kernels move, counted from their launches, and the bytes that no implementation can avoid.
An op is called on meta tensors, which take no memory at any shape: its launches are recorded with the tiles that its
launchers choose for a GPU generation, and every torch op around them. Triton's interpreter runs some programs of each
launch and records the addresses instead of accessing them:

    memory    what a launch reads and writes, each byte once: halos and weights that programs share are served by L2,
              what lies between two launches goes through memory
    halos     requests of every program, in whole sectors of 32 bytes: with halos of tiles, and images read again for
              other channels. Data that many programs share, weights, count once
    programs  the same, with weights counted for every program
An argument named ``slots_ptr`` does not count: a program's scratch slot, written and read repeatedly, which the
launcher keeps small enough for half of L2.
Within a program nothing counts twice, since registers and the first-level cache hold it.
No formula has to be kept in step with a kernel: another tile or another loop gives other numbers.
Torch's own ops count their inputs and outputs once, as do convolutions.

``python -m bench.report --bytes`` prints the numbers.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode

from bench import gate
from bench.harness import Subject, eager_call, minimal_bytes
from stylenerf.engine.planning.counting import extent, storage_of, torch_bytes
from stylenerf.kernels.base.launch import Launch, record_launches
from stylenerf.kernels.base.operands import INTERPRETED
from stylenerf.kernels.base.register import namespace

META = torch.device("meta")
SHIFT = 44  # bits of an address within a storage
SECTOR = 32  # bytes: the least that a GPU fetches
SAMPLED = 6  # programs of a launch that are run
ADJACENT = 2  # of these, the first ones: they cover different channels if channels are split among programs
LONGEST_ROW = 2048  # bytes of channels of which a kernel may read a part
SHARED = 8  # programs; a tensor that more of them share, on average, is a weight


@dataclass(frozen=True)
class Moved:
    """Bytes of one launch, or of torch's ops of one kind."""

    name: str
    memory: int
    halos: int
    programs: int
    times: int = 1


@dataclass(frozen=True)
class Plan:
    """Bytes of a call. Attributes: ``minimum``, bytes; ``parts``, in the order of the launches, torch's ops last."""

    minimum: int
    parts: tuple[Moved, ...]

    @property
    def memory(self) -> int:
        return sum(part.memory for part in self.parts)

    @property
    def halos(self) -> int:
        return sum(part.halos for part in self.parts)

    @property
    def programs(self) -> int:
        return sum(part.programs for part in self.parts)

    @property
    def launches(self) -> int:
        return sum(part.times for part in self.parts if not part.name.startswith("torch "))

    def part(self, kernel: str) -> Moved:
        (part,) = (part for part in self.parts if part.name == kernel)
        return part


def plans(
    subject: Subject, target: int = 90, sampled: int = SAMPLED, directions: Sequence[str] = ("fwd", "bwd")
) -> dict[str, Plan]:
    """Bytes of ``subject`` by kernels on compute capability ``target``, by direction; "bwd" is the backward alone.

    Raises: RuntimeError if kernels are compiled in this process: it takes TRITON_INTERPRET=1.
    """
    if not INTERPRETED:
        raise RuntimeError("counting bytes runs kernels in Triton's interpreter: wanted TRITON_INTERPRET=1, got none")
    args = subject.make(META, 0)
    call = eager_call(subject.run, "triton")
    with _recorded(target) as forward:
        outputs = call(args)
    least = minimal_bytes(args, outputs, False)
    plans = {"fwd": Plan(least, forward.parts(sampled))}
    if "bwd" in directions:
        with_grad = gate.differentiable(outputs)
        grad_outputs = [torch.empty_like(o) for o in with_grad]
        with _recorded(target) as backward:
            torch.autograd.grad(with_grad, gate.leaves(args), grad_outputs)
        both = minimal_bytes(args, outputs, True, linear=subject.linear)
        plans["bwd"] = Plan(both - least, backward.parts(sampled))
    return plans


class _Recorder(TorchDispatchMode):
    """Records bytes of torch's ops, and runs the bodies of registered ops on meta tensors, which would otherwise skip
    their launchers."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: list[Launch] = []
        self.bytes: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace == namespace():
            body = OPDEFS[func.name()]._init_fn
            with self:
                return body(*args, **kwargs)
        out = func(*args, **kwargs)
        moved = torch_bytes(func, (*args, *kwargs.values()), out)
        if moved:
            name = str(func.overloadpacket.__name__)
            self.bytes[name] += moved
            self.calls[name] += 1
        return out

    def parts(self, sampled: int) -> tuple[Moved, ...]:
        parts = [count_launch(launch, sampled) for launch in self.launches]
        parts += [Moved(f"torch {name}", moved, moved, moved, self.calls[name]) for name, moved in self.bytes.items()]
        return tuple(parts)


@contextmanager
def _recorded(target: int) -> Iterator[_Recorder]:
    recorder = _Recorder()
    with record_launches(target) as recorder.launches, recorder:
        yield recorder


class _Addresses:
    """Sectors that one program reads and writes, by storage."""

    def __init__(self) -> None:
        self.read: list[np.ndarray[Any, Any]] = []
        self.written: list[np.ndarray[Any, Any]] = []

    def load(self, ptrs: Any, mask: Any, other: Any, *_: Any) -> Any:
        from triton.runtime.interpreter import TensorHandle, _get_np_dtype

        dtype = ptrs.get_element_ty()
        self.read.append(self._sectors(ptrs, mask))
        values = np.zeros(ptrs.data.shape, _get_np_dtype(dtype)) if other is None else other.data
        return TensorHandle(values, dtype)

    def store(self, ptrs: Any, value: Any, mask: Any, *_: Any) -> None:
        self.written.append(self._sectors(ptrs, mask))

    @staticmethod
    def _sectors(ptrs: Any, mask: Any) -> "np.ndarray[Any, Any]":
        return np.unique(ptrs.data[np.broadcast_to(mask.data.astype(bool), ptrs.data.shape)] // np.uint64(SECTOR))


def count_launch(launch: Launch, sampled: int = SAMPLED) -> Moved:
    """Bytes of one launch, from ``sampled`` of its programs."""
    tensors = [value for value in launch.args.values() if isinstance(value, Tensor)]
    slots = launch.args.get("slots_ptr")
    places = {storage: (i + 1) << SHIFT for i, storage in enumerate(dict.fromkeys(map(storage_of, tensors)))}
    programs = int(np.prod(launch.grid))
    ids = _sample(programs, sampled)
    runs = list(_run(launch, ids, places))
    memory = halos = total = 0
    for kind in ("read", "written"):
        each = [_unique(getattr(run, kind)) for run in runs]
        for storage, place in places.items():
            if slots is not None and storage == storage_of(slots):
                continue
            here = [sectors[sectors >> np.uint64(SHIFT - 5) == place >> SHIFT] for sectors in each]
            asked = round(sum(map(len, here)) * SECTOR * programs / len(ids))
            own = [t for t in tensors if storage_of(t) == storage]
            once = min(asked, round(max(map(extent, own)) * _part_of_row(here, own)))
            memory += once
            halos += once if asked > SHARED * once else asked
            total += asked
    return Moved(launch.kernel.__name__, memory, halos, total)


def _unique(sectors: "Sequence[np.ndarray[Any, Any]]") -> "np.ndarray[Any, Any]":
    return np.unique(np.concatenate([np.empty(0, np.uint64), *sectors]))


def _part_of_row(runs: "Sequence[np.ndarray[Any, Any]]", tensors: Sequence[Tensor]) -> float:
    """Share of a pixel's channels that a launch reads, if every program reads the same ones; else 1."""
    first = tensors[0]
    width = next((n for n, stride in zip(first.shape, first.stride()) if stride == 1), 0) * first.element_size()
    start = first.storage_offset() * first.element_size()
    if len(tensors) > 1 or first.ndim < 2 or width % SECTOR or start % SECTOR or not 0 < width <= LONGEST_ROW:
        return 1.0
    offset, row = np.uint64(start // SECTOR), np.uint64(width // SECTOR)
    inside = np.uint64((1 << (SHIFT - 5)) - 1)
    channels = [np.unique(((sectors & inside) - offset) % row) for sectors in runs if len(sectors)]
    if not channels or any(not np.array_equal(other, channels[0]) for other in channels):
        return 1.0
    return len(channels[0]) * SECTOR / width


def _sample(programs: int, sampled: int) -> list[int]:
    """Program ids: the first ones, then others spread over the grid."""
    if programs <= sampled:
        return list(range(programs))
    rng = np.random.default_rng(0)
    rest = rng.choice(np.arange(ADJACENT, programs), sampled - ADJACENT, replace=False)
    return [*range(ADJACENT), *map(int, rest)]


def _run(launch: Launch, ids: Sequence[int], places: dict[int, int]) -> Iterator[_Addresses]:
    """Addresses of some programs of a launch, run in the interpreter."""
    from triton.runtime import interpreter
    from triton.runtime.interpreter import GridExecutor

    kernel, builder = launch.kernel, interpreter.interpreter_builder
    fn = kernel.rewrite()
    names = [name for name in kernel.arg_names if name in launch.args]
    constexprs = GridExecutor(fn, kernel.arg_names, launch.grid).constexprs
    args = {name: launch.args[name] if name in constexprs else _argument(launch.args[name], places) for name in names}
    grid = (*launch.grid, 1, 1)[:3]
    scope = interpreter._patch_lang(fn)
    try:
        builder.set_grid_dim(*grid)
        for program in ids:
            addresses = _Addresses()
            # the fastest dimension of a grid is the first
            builder.set_grid_idx(program % grid[0], program // grid[0] % grid[1], program // grid[0] // grid[1])
            with (
                patch.object(builder, "create_masked_load", addresses.load),
                patch.object(builder, "create_masked_store", addresses.store),
                np.errstate(all="ignore"),  # every load returns zero
            ):
                fn(**args)
            yield addresses
    finally:
        scope.restore()


def _argument(value: Any, places: dict[int, int]) -> Any:
    """An argument in the interpreter's form; a tensor becomes a pointer into its own address range."""
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle, _implicit_cvt
    from triton.runtime.jit import mangle_type

    if not isinstance(value, Tensor):
        return _implicit_cvt(value)
    pointer = tl.str_to_ty(mangle_type(value), None)
    address = places[storage_of(value)] + value.storage_offset() * value.element_size()
    return tl.tensor(TensorHandle(np.array([address], dtype=np.uint64), pointer), pointer)


def rows(only: str = "", target: int = 90, sampled: int = SAMPLED) -> Iterator[dict[str, Any]]:
    """Rows for the report, in bytes: one per op, shape and direction whose name contains ``only``."""
    for subject, directions in subjects():
        if only not in f"{subject.op} {subject.shape}":
            continue
        for direction, plan in plans(subject, target, sampled, directions).items():
            yield {
                "op": subject.op,
                "shape": subject.shape,
                "direction": direction,
                "target": target,
                "launches": plan.launches,
                "minimum": plan.minimum,
                **{name: getattr(plan, name) for name in ("memory", "halos", "programs")},
                "parts": [asdict(part) for part in plan.parts],
            }


def subjects() -> Iterator[tuple[Subject, tuple[str, ...]]]:
    """Subjects of the count: every op at the shapes of its bench, and the directions."""
    from bench import (
        bench_bias_act,
        bench_encode_positions,
        bench_filtered_lrelu,
        bench_importance_sample,
        bench_mean_square,
        bench_modulated_conv,
        bench_modulated_layer,
        bench_modulated_mlp,
        bench_rays,
        bench_refine_to_rgb,
        bench_upfirdn2d,
        bench_upsample_block,
        bench_volume,
    )

    both, forward = ("fwd", "bwd"), ("fwd",)
    for module in (bench_upfirdn2d, bench_bias_act):
        for shape in module.CASES:
            for dtype in module.DTYPES:
                yield module.subject(shape, dtype), both
    for shape in bench_filtered_lrelu.CASES:
        yield bench_filtered_lrelu.subject(shape), both
    for shape in bench_mean_square.CASES:
        yield bench_mean_square.subject(shape), forward
    for shape in bench_modulated_conv.CASES:
        yield bench_modulated_conv.subject(shape, "weights"), both
    for module in (bench_modulated_layer, bench_refine_to_rgb, bench_upsample_block):
        for shape in module.CASES:
            yield module.subject(shape, "fp16"), both
    yield from ((bench_encode_positions.subject(shape), both) for shape in bench_encode_positions.CASES)
    yield from ((bench_importance_sample.subject(shape), forward) for shape in bench_importance_sample.CASES)
    # ends of packed rays are data, which meta tensors lack
    yield from ((bench_volume.subject(shape), both) for shape in bench_volume.CASES if "packed" not in shape)
    yield from ((bench_modulated_mlp.subject(shape), both) for shape in bench_modulated_mlp.CASES)
    yield from ((bench_rays.subject(shape, "fp16"), forward) for shape in bench_rays.ON_CPU)
