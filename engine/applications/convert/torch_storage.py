"""torch's older file form, in which a snapshot keeps the numbers of each tensor, read without torch.

Five pickles (magic number, version, facts about the machine, the storage's description, its key), a count of elements,
the elements. Only plain numeric types are known and everything must agree with everything else.
"""

import struct
from dataclasses import dataclass
from typing import NamedTuple

from .machine import Machine
from .values import Budget, Damaged, Inert, Name, Notes, Refused, Rule, kind

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001
MAX_HEAD = 16384  # bytes of the five pickles; the public code writes about 250


class Dtype(NamedTuple):
    """A dtype of torch by its name: a file is looked at without torch, which takes seconds to import."""

    name: str
    itemsize: int

    @property
    def is_floating_point(self) -> bool:
        return "float" in self.name


DTYPES = {
    "FloatStorage": Dtype("float32", 4),
    "DoubleStorage": Dtype("float64", 8),
    "HalfStorage": Dtype("float16", 2),
    "BFloat16Storage": Dtype("bfloat16", 2),
    "LongStorage": Dtype("int64", 8),
    "IntStorage": Dtype("int32", 4),
    "ShortStorage": Dtype("int16", 2),
    "CharStorage": Dtype("int8", 1),
    "ByteStorage": Dtype("uint8", 1),
}
_RULES = {("torch", name): Rule() for name in DTYPES}


@dataclass(frozen=True)
class Storage(Inert):
    """Numbers in a row: little-endian bytes of the file, not copied."""

    dtype: Dtype
    data: memoryview

    @property
    def numel(self) -> int:
        return len(self.data) // self.dtype.itemsize


@dataclass(frozen=True)
class _Head:
    dtype: Dtype
    key: str
    numel: int


def read_storage(blob: memoryview, budget: Budget) -> Storage:
    """The storage in one blob. Raises: Refused, also for whatever does not add up."""
    head = bytes(blob[:MAX_HEAD])
    if head[:4] == b"PK\x03\x04":
        raise Refused("refused a tensor in torch's zip form; the public code writes the older one")
    notes, position, values = Notes(), 0, []
    try:
        for _ in range(5):
            machine = Machine(head, _RULES, budget, notes, start=position, persistent=_head)
            values.append(machine.run())
            position = machine.position
    except Damaged as error:
        raise Refused(f"refused a tensor whose storage cannot be read: {error}") from None
    magic, version, system, described, keys = values
    if magic != MAGIC or version != VERSION:
        raise Refused("refused a tensor whose storage does not begin with torch's magic number and version 1001")
    if type(system) is not dict or system.get("little_endian") is not True:
        raise Refused("refused a tensor written on a machine that is not little-endian")
    if not isinstance(described, _Head) or type(keys) is not list or len(keys) != 1 or keys[0] != described.key:
        raise Refused("refused a tensor whose storage is not one described storage with its key")
    data = blob[position + 8 :]
    if len(blob) < position + 8 or struct.unpack("<q", blob[position : position + 8])[0] != described.numel:
        raise Refused(f"refused a tensor whose storage does not count {described.numel} elements as described")
    if len(data) != described.numel * described.dtype.itemsize:
        raise Refused(f"refused a tensor whose storage of {described.numel} elements has {len(data)} bytes")
    return Storage(described.dtype, data)


def _head(pid: object) -> _Head:
    """('storage', torch.FloatStorage, key, device, number of elements, None)."""
    if type(pid) is not tuple or len(pid) != 6 or pid[0] != "storage" or pid[5] is not None:
        raise Refused(f"refused a storage described by {kind(pid)} in a form that is not torch's")
    name, key, device, numel = pid[1:5]
    if not isinstance(name, Name) or type(key) is not str or type(device) is not str:
        raise Refused("refused a storage described without type, key and device")
    if type(numel) is not int or numel < 0:
        raise Refused(f"refused a storage of {numel if type(numel) is int else kind(numel)} elements")
    return _Head(DTYPES[name.name], key, numel)
