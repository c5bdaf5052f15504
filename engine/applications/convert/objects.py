"""Globals that a snapshot of the public code may name, and the inert object that replaces each.

No dataclass here has slots and is frozen: Python gives those a ``__setstate__`` of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .refusals import Refused, demand, kind, shown
from .scan import Budget
from .storage import Storage, read_storage
from .unpickler import Global, Inert, Known

if TYPE_CHECKING:
    from torch import Tensor

Args = tuple[Any, ...]

MAX_DIMS = 8
MAX_ELEMENTS = 2**40  # of a tensor, by its sizes
MAX_SET = 64
MAX_ARRAY = 4096  # elements of an array among constructor arguments
_NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
_BUILTINS = ("builtins", "__builtin__")  # the second: how protocol 2 spells it


class Dict(dict[Any, Any]):
    """An ordered or attribute mapping. What it has besides its items is dropped."""

    __slots__ = ()

    def __init__(self, *args: object) -> None:
        demand(not args, "an OrderedDict made from arguments")

    def __setstate__(self, state: object) -> None:
        demand(type(state) is dict, f"state for an OrderedDict that is a {kind(state)}")


class Record(Inert):
    """An object of a known class: the class's name, a subclass's own, and the attributes once given."""

    __slots__ = ("state",)
    name: ClassVar[str]
    state: dict[Any, Any] | None

    def __new__(cls, *args: object) -> Record:
        demand(not args, f"{cls.name} with arguments")
        made = super().__new__(cls)
        made.state = None
        return made

    def __init__(self) -> None:  # unpicklers make a bare instance, so it is the file that calls the class
        raise Refused(f"refused call of {shown(self.name)}")

    def __setstate__(self, state: Any) -> None:
        demand(self.state is None, f"a second state for {self.name}")
        self.state = _checked_state(state, self.name)


@dataclass(eq=False)
class Persistent(Inert):
    """An object of the public code: class name, attributes, and the source text that it came with, never run."""

    class_name: str
    source: str
    state: dict[Any, Any]


@dataclass(eq=False)
class TensorRecord(Inert):
    """A tensor: where in which storage it lies."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def extent(self) -> int:
        """Elements from the first to the last that it reaches, both included."""
        return 1 + sum((n - 1) * step for n, step in zip(self.shape, self.stride)) if self.numel else 0

    @property
    def cost_bytes(self) -> int:
        """Bytes of memory that :meth:`tensor` takes."""
        return (self.numel + self.extent) * self.storage.dtype.itemsize

    def tensor(self) -> Tensor:
        """A copy of the numbers."""
        import torch

        dtype, size = getattr(torch, self.storage.dtype.name), self.storage.dtype.itemsize
        if not self.numel:
            return torch.zeros(self.shape, dtype=dtype)
        part = bytearray(self.storage.data[self.offset * size : (self.offset + self.extent) * size])
        return torch.frombuffer(part, dtype=dtype).as_strided(self.shape, self.stride).clone().contiguous()


@dataclass(eq=False)
class NumberType(Inert):
    """A numpy dtype of plain numbers, little-endian."""

    dtype: np.dtype[Any]

    def __setstate__(self, state: Any) -> None:
        plain = type(state) is tuple and len(state) >= 5 and all(part is None for part in state[2:5])
        demand(plain, "a numpy dtype that is not one plain number")
        demand(state[1] in ("<", "|", "="), f"a numpy dtype that is not little-endian: {self.dtype.str}")


@dataclass(eq=False)
class Array(Inert):
    """A numpy array of plain numbers."""

    values: np.ndarray | None = field(default=None, repr=False)

    def __setstate__(self, state: Any) -> None:
        demand(type(state) is tuple and len(state) == 5, "a numpy array's state")
        _, shape, number, fortran, data = state
        plain = _naturals(shape) and isinstance(number, NumberType) and isinstance(data, memoryview)
        demand(plain, "a numpy array that is not one of plain numbers")
        fits = math.prod(shape) <= MAX_ARRAY and math.prod(shape) * number.dtype.itemsize == len(data)
        demand(fits, f"a numpy array of shape {str(shape)[:100]} with {len(data)} bytes")
        self.values = np.frombuffer(bytes(data), number.dtype).reshape(shape, order="F" if fortran is True else "C")


def _checked_state(state: Any, name: str) -> dict[Any, Any]:
    """Dict as a mapping: kept as data, never set on anything."""
    demand(isinstance(state, dict), f"a state of {name} that is not a mapping of attributes")
    return state


def _naturals(value: object) -> bool:
    return type(value) is tuple and len(value) <= MAX_DIMS and all(type(n) is int and n >= 0 for n in value)


def _persistent(args: Args) -> Persistent:
    demand(len(args) == 1 and type(args[0]) is dict, "a persistent object without its description")
    form, source, name, state = (args[0].get(key) for key in ("type", "module_src", "class_name", "state"))
    demand(type(form) is str and form == "class", f"a persistent object of type {shown(form)}")
    demand(type(source) is type(name) is str, "a persistent object whose class and source are not text")
    return Persistent(name, source, _checked_state(state, shown(name)))


def _tensor(args: Args) -> TensorRecord:
    demand(len(args) in (6, 7), f"a tensor with {len(args)} arguments")
    storage, offset, shape, stride, _, hooks = args[:6]
    plain = isinstance(storage, Storage) and all(map(_naturals, ((offset,), shape, stride)))
    demand(plain, "a tensor whose storage, offset, size and stride are not plain")
    demand(len(shape) == len(stride), f"a tensor of {len(shape)} sizes and {len(stride)} strides")
    demand(math.prod(max(n, 1) for n in shape) <= MAX_ELEMENTS, f"a tensor of size {str(shape)[:100]}")
    # a step along a single element is never taken, and may be any number
    made = TensorRecord(storage, offset, shape, tuple(step if n > 1 else 0 for n, step in zip(shape, stride)))
    end = offset + made.extent
    demand(end <= storage.numel, f"a tensor that reaches element {end} of {storage.numel}")
    _check_hooks(hooks)
    return made


def _parameter(args: Args) -> TensorRecord:
    demand(len(args) == 3 and isinstance(args[0], TensorRecord), "a parameter that is not a tensor")
    _check_hooks(args[2])
    return args[0]


def _check_hooks(hooks: object) -> None:
    demand(type(hooks) is Dict and not hooks, "a tensor with hooks")


def _bytes(args: Args) -> memoryview:
    """As protocol 2 writes bytes: Latin-1 text."""
    latin = len(args) == 2 and type(args[0]) is str and args[1] in ("latin1", "latin-1")
    demand(latin and max(args[0], default="") <= "\xff", "encoded text that is not Latin-1")
    return memoryview(args[0].encode("latin-1"))


def _defaulting(args: Args) -> Dict:
    """The default factory is dropped: nothing here asks for missing values."""
    builtin = all(isinstance(arg, Global) and arg.name.startswith(_BUILTINS) for arg in args)
    demand(len(args) <= 1 and builtin, "a defaultdict whose values are not made by a builtin type")
    return Dict()


def _number_type(args: Args) -> NumberType:
    code = args[0] if args else None
    demand(type(code) is str and code in _NUMBERS and len(args) <= 3, f"numpy dtype {shown(code)}")
    return NumberType(np.dtype(code).newbyteorder("<"))


def _number(args: Args) -> int | float | bool:
    plain = len(args) == 2 and isinstance(args[0], NumberType) and isinstance(args[1], memoryview)
    demand(plain, "a numpy scalar that is not one plain number")
    dtype, data = args[0].dtype, bytes(args[1])
    demand(len(data) == dtype.itemsize, f"a numpy scalar of {len(data)} bytes, wanted {dtype.itemsize}")
    return np.frombuffer(data, dtype)[0].item()


def _array(args: Args) -> Array:
    demand(len(args) == 3 and kind(args[0]) == "numpy.ndarray", "an array that is not a numpy.ndarray")
    return Array()


def _set(budget: Budget) -> Callable[[Args], set[object]]:
    def make(args: Args) -> set[object]:
        """As protocols 2 and 3 write a set."""
        short = len(args) == 1 and type(args[0]) is list and len(args[0]) <= MAX_SET
        demand(short, "a set that is not made from a short list")
        return {budget.spend_key(item) for item in args[0]}

    return make


def _storage(budget: Budget) -> Callable[[Args], Storage]:
    """Each blob is read once, however often the file asks for it."""
    read: dict[int, tuple[memoryview, Storage]] = {}

    def make(args: Args) -> Storage:
        demand(len(args) == 1 and isinstance(args[0], memoryview), "a storage that is not bytes")
        blob = args[0]
        if id(blob) not in read:
            read[id(blob)] = blob, read_storage(blob, budget)
        return read[id(blob)][1]

    return make


_MAKERS: dict[tuple[str, str], Callable[[Args], object] | None] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("collections", "defaultdict"): _defaulting,
    ("_codecs", "encode"): _bytes,
    ("numpy", "dtype"): _number_type,
    ("numpy", "ndarray"): None,
    ("typing", "Any"): None,
    **{(f"numpy.{core}.multiarray", "scalar"): _number for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _array for core in ("core", "_core")},
    **{(m, name): None for m in _BUILTINS for name in ("dict", "list", "int", "float", "str", "tuple", "bool")},
    **{("__builtin__", name): None for name in ("long", "unicode")},
}
_RECORDS = {
    "torch.nn.modules.container": ("ModuleList", "Sequential", "ModuleDict"),
    "omegaconf.nodes": ("AnyNode", "IntegerNode", "FloatNode", "BooleanNode", "StringNode"),
    "omegaconf.dictconfig": ("DictConfig",),
    "omegaconf.listconfig": ("ListConfig",),
    "omegaconf.base": ("ContainerMetadata", "Metadata"),
}
_CLASSES: dict[tuple[str, str], type] = {("collections", "OrderedDict"): Dict, ("dnnlib.util", "EasyDict"): Dict}
for _module, _names in _RECORDS.items():
    for _name in _names:
        _CLASSES[_module, _name] = type(_name, (Record,), {"__slots__": (), "name": f"{_module}.{_name}"})


def known_globals(budget: Budget) -> Known:
    """The globals of a snapshot; module and name must match exactly, so no dotted path can reach past them."""
    makers = _MAKERS | {("torch.storage", "_load_from_bytes"): _storage(budget)}
    makers |= {(module, "set"): _set(budget) for module in _BUILTINS}
    return {**_CLASSES, **{key: Global(".".join(key), make) for key, make in makers.items()}}
