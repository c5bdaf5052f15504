"""Networks as inert records: their tensors by name, their constructor arguments as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .interpolation import ABSENT, MISSING, PLACE, Unresolved, lookup, node_value
from .objects import Array, Persistent, Record, TensorRecord
from .refusals import Refused, kind, shown

if TYPE_CHECKING:
    from torch import Tensor

MAX_DEPTH = 32
MAX_VALUES = 100_000  # of constructor arguments
MAX_TEXT = 2**20  # of constructor arguments, characters
MAX_ENTRIES = 20_000  # modules, parameters and buffers of a network
MAX_NAME = 200
_PARTS = ("_parameters", "_buffers", "_modules")


def attributes(value: object) -> dict[object, object] | None:
    """The attributes of an object, None for what is not one."""
    return value.state if isinstance(value, Persistent | Record) else None


def tensors_of(network: object) -> dict[str, TensorRecord]:
    """A module's parameters and persistent buffers under their dotted names, as its state dict would have them.

    Raises: Refused for what is not a tree of modules.
    """
    tensors: dict[str, TensorRecord] = {}
    waiting: list[tuple[str, object, int]] = [("", network, 0)]
    left = MAX_ENTRIES
    while waiting:
        prefix, module, depth = waiting.pop()
        where = shown(prefix[:-1]) if prefix else "the network"
        parameters, buffers, modules = (_entries(module, part, where) for part in _PARTS)
        left -= 1 + len(parameters) + len(buffers) + len(modules)
        if depth > MAX_DEPTH or left < 0:
            raise Refused(f"refused modules nested or repeated without end, at {where}")
        unsaved = (attributes(module) or {}).get("_non_persistent_buffers_set")
        for name, value in [*parameters.items(), *buffers.items()]:
            part = _part(name)
            if value is None or (isinstance(unsaved, set | frozenset) and part in unsaved):
                continue
            if not isinstance(value, TensorRecord):
                raise Refused(f"refused {shown(prefix + part)}: wanted a tensor, got a {kind(value)}")
            tensors[prefix + part] = value
        for name, child in reversed(modules.items()):
            if child is not None:
                waiting.append((f"{prefix}{_part(name)}.", child, depth + 1))
    return tensors


def _entries(module: object, part: str, where: str) -> dict[object, object]:
    state = attributes(module)
    if state is None:
        raise Refused(f"refused {where}: wanted a module, got a {kind(module)}")
    entries = state.get(part)
    if not isinstance(entries, dict):
        raise Refused(f"refused {where}: wanted a module with {part}, got one without")
    return entries


def _part(name: object) -> str:
    if type(name) is not str or not 0 < len(name) <= MAX_NAME or "." in name:
        raise Refused(f"refused a module or tensor called {shown(str(name))}")
    return name


def make_tensors(records: Mapping[str, TensorRecord], limit_bytes: int) -> dict[str, Tensor]:
    """The numbers of every tensor, copied.

    ``limit_bytes`` bounds what they take together: many tensors may be views of one storage.
    Raises: Refused, also for tensors that are not floating-point numbers.
    """
    cost = sum(record.cost_bytes for record in records.values())
    if cost > limit_bytes:
        raise Refused(f"refused tensors that take {cost} bytes, many times what their file holds")
    for name, record in records.items():
        dtype = record.storage.dtype
        if "float" not in dtype.name:
            raise Refused(f"refused {shown(name)}: wanted floating-point numbers, got {dtype.name}")
    return {name: record.tensor() for name, record in records.items()}


def plain(value: object) -> object:
    """Constructor arguments as dicts, lists, numbers and text; OmegaConf's nodes and numpy's numbers unwrapped.

    An interpolation becomes the value that it refers to, or ``Unresolved`` where the file does not tell.
    Raises: Refused for anything else, for values nested without end, and for more of them than arguments have.
    """
    return _Unwrapping().run(value, 0)


class _Unwrapping:
    def __init__(self) -> None:
        self.left, self.text_left = MAX_VALUES, MAX_TEXT

    def spend(self, depth: int, text: int = 0) -> None:
        self.left -= 1
        self.text_left -= text
        if depth > MAX_DEPTH or self.left < 0 or self.text_left < 0:
            raise Refused("refused arguments that are nested or repeated without end")

    def run(self, value: object, depth: int, node: object = None) -> object:
        """``node`` is the node that holds ``value``: where its interpolations are looked up from."""
        self.spend(depth, len(value) if type(value) is str else 0)
        if type(value) is str:
            return self.text(value, depth, node)
        if value is None or type(value) in (bool, int, float):
            return value
        if type(value) in (list, tuple):
            return [self.run(item, depth + 1, node) for item in value]  # type: ignore[attr-defined]
        if isinstance(value, dict):
            return {self.key(key): self.run(item, depth + 1, node) for key, item in value.items()}
        if isinstance(value, Array) and value.values is not None:
            return value.values.tolist()
        inner = node_value(value)
        if inner is ABSENT:
            raise Refused(f"refused an argument: wanted plain data, got a {kind(value)}")
        return self.run(inner, depth + 1, value)

    def text(self, text: str, depth: int, node: object) -> object:
        """Text with every ``${...}`` in it replaced; one that is all of the text keeps its value's type."""
        if text == MISSING and node is not None:
            return Unresolved(text)
        filled = text
        while "${" in filled:
            self.spend(depth, len(filled))
            place = PLACE.search(filled)
            target = lookup(place[1], node, self.spend, depth + 1) if place else ABSENT
            if place is None or target is ABSENT:
                return Unresolved(text)
            value = self.run(target, depth + 1, node)
            if place[0] == filled:
                return value
            if type(value) not in (bool, int, float, str):
                return Unresolved(text)
            filled = filled[: place.start()] + str(value) + filled[place.end() :]
        return filled

    def key(self, key: object) -> str:
        if type(key) is not str or len(key) > MAX_NAME:
            raise Refused(f"refused an argument's name: wanted short text, got {shown(str(key))}")
        return key


def arguments_of(network: Persistent) -> tuple[list[object], dict[str, object]]:
    """Positional and keyword arguments of the network's constructor, as plain data.

    Raises: Refused if the object does not tell.
    """
    args, kwargs = network.state.get("_init_args", ()), network.state.get("_init_kwargs")
    if kwargs is None:
        raise Refused("refused a network without its constructor's arguments")
    args, kwargs = plain(args), plain(kwargs)
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise Refused("refused a network whose constructor's arguments are not a list and a mapping")
    return args, kwargs
