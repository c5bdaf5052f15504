"""What a snapshot of the public code may be made of, and the inert record that each of its globals becomes."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .torch_storage import Storage, read_storage
from .values import Budget, Inert, Name, Refused, Rule, Rules, kind, shown

if TYPE_CHECKING:
    from torch import Tensor

MAX_DIMS = 8
MAX_ELEMENTS = 2**40  # of a tensor, by its sizes
MAX_SET = 64
MAX_ARRAY = 4096  # elements of an array among constructor arguments
_NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
_CONTAINERS = ("ModuleList", "Sequential", "ModuleDict")
_NODES = ("AnyNode", "IntegerNode", "FloatNode", "BooleanNode", "StringNode")
_TYPES = ("dict", "list", "int", "float", "str", "tuple", "set", "bool")
_BUILTINS = ("builtins", "__builtin__")  # the second: how protocol 2 spells it


@dataclass(slots=True)
class Record(Inert):
    """An object of a known class: its name and, once given, its attributes."""

    name: str
    state: dict[object, object] | None = None

    def build(self, state: object) -> None:
        if self.state is not None:
            raise Refused(f"refused a second state for {self.name}")
        self.state = checked_state(state, self.name)


@dataclass(slots=True)
class Persistent(Inert):
    """An object of the public code: class name, attributes, and the source text that it came with, never run."""

    class_name: str
    source: str
    state: dict[object, object]


@dataclass(frozen=True, slots=True)
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
        """What making it takes."""
        return (self.numel + self.extent) * self.storage.dtype.itemsize

    def tensor(self) -> Tensor:
        """A copy of the numbers."""
        import torch

        dtype, size = getattr(torch, self.storage.dtype.name), self.storage.dtype.itemsize
        if not self.numel:
            return torch.zeros(self.shape, dtype=dtype)
        part = bytearray(self.storage.data[self.offset * size : (self.offset + self.extent) * size])
        return torch.frombuffer(part, dtype=dtype).as_strided(self.shape, self.stride).clone().contiguous()


@dataclass(slots=True)
class NumberType(Inert):
    """A numpy dtype of plain numbers."""

    code: str
    built: bool = False

    def build(self, state: object) -> None:
        if self.built or type(state) is not tuple or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise Refused("refused a numpy dtype that is not one plain number")
        if type(state[1]) is not str or state[1] not in ("<", "|", "="):
            raise Refused(f"refused a numpy dtype that is not little-endian: {self.code}")
        self.built = True


@dataclass(slots=True)
class Array(Inert):
    """A numpy array of plain numbers."""

    shape: tuple[int, ...] = ()
    values: np.ndarray | None = field(default=None, repr=False)

    def build(self, state: object) -> None:
        if self.values is not None or type(state) is not tuple or len(state) != 5:
            raise Refused("refused a numpy array's state")
        _, shape, dtype, fortran, data = state
        if not _naturals(shape) or not isinstance(dtype, NumberType) or not isinstance(data, memoryview):
            raise Refused("refused a numpy array that is not one of plain numbers")
        assert isinstance(shape, tuple)
        made = np.dtype(dtype.code).newbyteorder("<")
        if math.prod(shape) > MAX_ARRAY or math.prod(shape) * made.itemsize != len(data):
            raise Refused(f"refused a numpy array of shape {str(shape)[:100]} with {len(data)} bytes")
        flat = np.frombuffer(bytes(data), made)
        self.shape, self.values = shape, flat.reshape(shape, order="F" if fortran is True else "C")


def checked_state(state: object, name: str) -> dict[object, object]:
    """Attributes as a mapping: kept as data, never set on anything."""
    if type(state) not in (dict, OrderedDict):
        raise Refused(f"refused a state of {name} that is not a mapping of attributes")
    assert isinstance(state, dict)
    return state


def _naturals(value: object) -> bool:
    return type(value) is tuple and len(value) <= MAX_DIMS and all(type(n) is int and n >= 0 for n in value)


def _persistent(args: tuple[object, ...]) -> Persistent:
    meta = args[0] if len(args) == 1 else None
    if not isinstance(meta, dict):
        raise Refused("refused a persistent object without its description")
    source, name, state = meta.get("module_src"), meta.get("class_name"), meta.get("state")
    if meta.get("type") != "class":
        form = meta.get("type")
        raise Refused(f"refused a persistent object of type {shown(form) if type(form) is str else kind(form)}")
    if type(source) is not str or type(name) is not str:
        raise Refused("refused a persistent object whose class and source are not text")
    return Persistent(name, source, checked_state(state, shown(name)))


def _tensor(args: tuple[object, ...]) -> TensorRecord:
    if len(args) not in (6, 7):
        raise Refused(f"refused a tensor with {len(args)} arguments")
    storage, offset, shape, stride = args[:4]
    if not isinstance(storage, Storage) or not _naturals((offset,)) or not _naturals(shape) or not _naturals(stride):
        raise Refused("refused a tensor whose storage, offset, size and stride are not plain")
    assert isinstance(offset, int) and isinstance(shape, tuple) and isinstance(stride, tuple)
    if len(shape) != len(stride):
        raise Refused(f"refused a tensor of {len(shape)} sizes and {len(stride)} strides")
    # a step along a single element is never taken, and may be any number
    made = TensorRecord(storage, offset, shape, tuple(step if n > 1 else 0 for n, step in zip(shape, stride)))
    if math.prod(max(n, 1) for n in shape) > MAX_ELEMENTS:
        raise Refused(f"refused a tensor of size {str(shape)[:100]}")
    if offset + made.extent > storage.numel:
        raise Refused(f"refused a tensor that reaches element {offset + made.extent} of {storage.numel}")
    _no_hooks(args[5])
    return made


def _parameter(args: tuple[object, ...]) -> TensorRecord:
    if len(args) != 3 or not isinstance(args[0], TensorRecord):
        raise Refused("refused a parameter that is not a tensor")
    _no_hooks(args[2])
    return args[0]


def _no_hooks(hooks: object) -> None:
    if type(hooks) is not OrderedDict or hooks:
        raise Refused("refused a tensor with hooks")


def _ordered(args: tuple[object, ...]) -> OrderedDict[object, object]:
    if args:
        raise Refused("refused an OrderedDict made from arguments")
    return OrderedDict()


def _bytes(args: tuple[object, ...]) -> memoryview:
    """As protocol 2 writes bytes: Latin-1 text."""
    if len(args) != 2 or type(args[0]) is not str or args[1] not in ("latin1", "latin-1"):
        raise Refused("refused encoded text that is not Latin-1")
    try:
        return memoryview(args[0].encode("latin-1"))
    except UnicodeEncodeError:
        raise Refused("refused encoded text that is not Latin-1") from None


def _set_maker(budget: Budget) -> Callable[[tuple[object, ...]], set[object]]:
    def make(args: tuple[object, ...]) -> set[object]:
        """As protocols 2 and 3 write a set."""
        items = args[0] if len(args) == 1 else None
        if type(items) is not list or len(items) > MAX_SET:
            raise Refused("refused a set that is not made from a short list")
        return {budget.spend_key(item) for item in items}

    return make


def _defaulting(args: tuple[object, ...]) -> OrderedDict[object, object]:
    """What makes the missing values is dropped: nothing here asks for any."""
    if len(args) > 1 or (args and not (isinstance(args[0], Name) and args[0].module in _BUILTINS)):
        raise Refused("refused a defaultdict whose values are not made by a builtin type")
    return OrderedDict()


def _number_type(args: tuple[object, ...]) -> NumberType:
    code = args[0] if args else None
    if type(code) is not str or code not in _NUMBERS or len(args) > 3:
        raise Refused(f"refused numpy dtype {shown(code) if type(code) is str else kind(code)}")
    return NumberType(code)


def _number(args: tuple[object, ...]) -> int | float | bool:
    if len(args) != 2 or not isinstance(args[0], NumberType) or not isinstance(args[1], memoryview):
        raise Refused("refused a numpy scalar that is not one plain number")
    made = np.dtype(args[0].code).newbyteorder("<")
    if len(args[1]) != made.itemsize:
        raise Refused(f"refused a numpy scalar of {len(args[1])} bytes, wanted {made.itemsize}")
    value: int | float | bool = np.frombuffer(bytes(args[1]), made)[0].item()
    return value


def _array(args: tuple[object, ...]) -> Array:
    if len(args) != 3 or not isinstance(args[0], Name) or str(args[0]) != "numpy.ndarray":
        raise Refused("refused an array that is not a numpy.ndarray")
    return Array()


def _bare(name: str) -> Rule:
    def new(args: tuple[object, ...]) -> Record:
        if args:
            raise Refused(f"refused {name} with arguments")
        return Record(name)

    return Rule(new=new)


def _storage_reader(budget: Budget) -> Callable[[tuple[object, ...]], Storage]:
    """Each blob is read once, however often the stream asks for it."""
    read: dict[int, tuple[memoryview, Storage]] = {}

    def load(args: tuple[object, ...]) -> Storage:
        blob = args[0] if len(args) == 1 else None
        if not isinstance(blob, memoryview):
            raise Refused("refused a storage that is not bytes")
        if id(blob) not in read:
            read[id(blob)] = blob, read_storage(blob, budget)
        return read[id(blob)][1]

    return load


def snapshot_rules(budget: Budget) -> Rules:
    """The globals of a snapshot; (module, name) must match exactly, so no dotted path can reach past them."""
    rules = {
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): Rule(_persistent),
        ("torch._utils", "_rebuild_tensor_v2"): Rule(_tensor),
        ("torch._utils", "_rebuild_parameter"): Rule(_parameter),
        ("torch.storage", "_load_from_bytes"): Rule(_storage_reader(budget)),
        ("collections", "OrderedDict"): Rule(_ordered),
        ("collections", "defaultdict"): Rule(_defaulting),
        ("dnnlib.util", "EasyDict"): Rule(new=_ordered),
        ("numpy", "dtype"): Rule(_number_type),
        ("numpy", "ndarray"): Rule(),
        ("typing", "Any"): Rule(),
    }
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        rules[module, "scalar"] = Rule(_number)
        rules[module, "_reconstruct"] = Rule(_array)
    rules |= {(module, name): Rule() for module in _BUILTINS for name in _TYPES}
    rules |= {("__builtin__", name): Rule() for name in ("long", "unicode")}
    rules |= {(module, "set"): Rule(_set_maker(budget)) for module in _BUILTINS}
    rules["_codecs", "encode"] = Rule(_bytes)
    bare = [("torch.nn.modules.container", name) for name in _CONTAINERS]
    bare += [("omegaconf.nodes", name) for name in _NODES]
    bare += [("omegaconf.dictconfig", "DictConfig"), ("omegaconf.listconfig", "ListConfig")]
    bare += [("omegaconf.base", "ContainerMetadata"), ("omegaconf.base", "Metadata")]
    return rules | {key: _bare(".".join(key)) for key in bare}
