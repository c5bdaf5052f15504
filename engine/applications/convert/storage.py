"""torch's older file form, in which a snapshot keeps the numbers of each tensor, read without torch.

Five pickles (magic number, version, facts about the machine, the storage's description, its key), a count of elements,
the elements. Only plain numeric types are known and everything must agree with everything else.
"""

import struct
from dataclasses import dataclass
from typing import Any, NamedTuple

from .refusals import Damaged, Refused, demand, kind
from .scan import Budget, scan
from .unpickler import Inert, load

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001
MAX_HEAD = 16384  # bytes of the five pickles; the public code writes about 250


class Dtype(NamedTuple):
    """A dtype of torch by its name: a file is looked at without torch, which takes seconds to import."""

    name: str
    itemsize: int


_KNOWN = {
    ("torch", "FloatStorage"): Dtype("float32", 4),
    ("torch", "DoubleStorage"): Dtype("float64", 8),
    ("torch", "HalfStorage"): Dtype("float16", 2),
    ("torch", "BFloat16Storage"): Dtype("bfloat16", 2),
    ("torch", "LongStorage"): Dtype("int64", 8),
    ("torch", "IntStorage"): Dtype("int32", 4),
    ("torch", "ShortStorage"): Dtype("int16", 2),
    ("torch", "CharStorage"): Dtype("int8", 1),
    ("torch", "ByteStorage"): Dtype("uint8", 1),
}


@dataclass(frozen=True, eq=False)
class Storage(Inert):
    """Numbers in a row: little-endian bytes of the file, not copied."""

    dtype: Dtype
    data: memoryview

    @property
    def numel(self) -> int:
        return len(self.data) // self.dtype.itemsize


def read_storage(blob: memoryview, budget: Budget) -> Storage:
    """The storage in one blob. Raises: Refused, also for whatever does not add up."""
    head = bytes(blob[:MAX_HEAD])
    demand(head[:4] != b"PK\x03\x04", "a tensor in torch's zip form; the public code writes the older one")
    end, values = 0, list[Any]()
    try:
        for _ in range(5):
            scanned = scan(head, budget, end)
            values.append(load(scanned, _KNOWN, _description))
            end = scanned.end
    except Damaged as error:
        raise Refused(f"refused a tensor whose storage cannot be read: {error}") from None
    magic, version, system, described, keys = values
    what = "a tensor whose storage"
    demand(magic == MAGIC and version == VERSION, f"{what} does not begin with torch's magic number and version 1001")
    little = type(system) is dict and system.get("little_endian") is True
    demand(little, "a tensor written on a machine that is not little-endian")
    single = type(described) is _Description and type(keys) is list and keys == [described.key]
    demand(single, f"{what} is not one described storage with its key")
    dtype, _, numel = described
    counted, data = blob[end : end + 8], blob[end + 8 :]
    demand(bytes(counted) == struct.pack("<Q", numel), f"{what} does not count {numel} elements as described")
    demand(len(data) == numel * dtype.itemsize, f"{what} of {numel} elements has {len(data)} bytes")
    return Storage(dtype, data)


class _Description(NamedTuple):
    dtype: Dtype
    key: str
    numel: int


def _description(pid: Any) -> _Description:
    """('storage', torch.FloatStorage, key, device, number of elements, None)."""
    plain = type(pid) is tuple and len(pid) == 6 and pid[0] == "storage" and pid[5] is None
    demand(plain, f"a storage described by {kind(pid)} in a form that is not torch's")
    dtype, key, device, numel = pid[1:5]
    texts = type(dtype) is Dtype and type(key) is type(device) is str
    demand(texts, "a storage described without type, key and device")
    counted = type(numel) is int and 0 <= numel < 2**63
    demand(counted, f"a storage of {numel if type(numel) is int else kind(numel)} elements")
    return _Description(dtype, key, numel)
