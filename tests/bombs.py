"""Snapshots of kilobytes that ask for gigabytes or for hours."""

import struct

import torch

from stylenerf.engine.applications.convert.scan import MAX_OPCODES
from tests import snapshots as s
from tests.snapshot_files import DTYPE, LIST, SCALAR

TWO = torch.tensor([1.5, -2.0])
BLOB = s.blob(TWO)
SOUND = s.tensor(BLOB)


def le(form: str, value: int) -> bytes:
    return struct.pack(form, value)


def argument(value: bytes) -> bytes:
    """A network with one constructor argument."""
    return s.module_stream(_init_kwargs=s.mapping({"a": value}))


def laughs(level: int) -> bytes:
    """A list of two of the same list, and so on: 2 ** level leaves in a few bytes each."""
    doubled = (b"q" + bytes([i]) + b"0](h" + bytes([i]) + b"h" + bytes([i]) + b"e" for i in range(level))
    return b"]" + b"".join(doubled)


def nested_modules(depth: int) -> bytes:
    """Each module holds the next one twice."""
    inner = s.module_stream({"w": SOUND})
    for i in range(depth):
        inner = s.module_stream(modules={"a": inner + b"r" + le("<I", 1000 + i), "b": b"j" + le("<I", 1000 + i)})
    return inner


def own_child() -> bytes:
    """A module among its own modules: the mapping is remembered, and filled once the module is there."""
    return b"}q\x080" + s.module_stream(modules=b"h\x08") + b"q\x09h\x08" + s.text("me") + b"h\x09s0"


PRIME = 2**61 - 1  # the modulus of an integer's hash
# n numbers of one hash cost n**2 / 2 comparisons: this 1 MB, read without a bound, takes minutes
ONE_HASH = [i * PRIME for i in range(1, 80_001)]
MANY = [i << 45 for i in range(90_000)]  # of 64 bits, each with a hash of its own


def unsaved_numbers() -> bytes:
    """A module whose buffers have numbers as names, all absent, looked up in the set of unsaved ones, over and over."""
    some = [s.raw(i) for i in MANY[:2000]]
    buffers = b"}(" + b"".join(key + b"N" for key in some) + b"u"
    unsaved = b"\x8f(" + b"".join(some) + b"\x90"
    child = s.module_stream(_buffers=buffers, _non_persistent_buffers_set=unsaved)
    return s.module_stream(modules={"a": child + b"q\x01", **{f"m{i}": b"h\x01" for i in range(8)}})


GIB10 = 10 * 2**30
LONG_KEY = "wanted an integer key of at most 64 bits, got one of "
BOMBS: dict[str, tuple[bytes, str]] = {
    # kilobytes that ask for gigabytes
    "bytes": (b"\x8e" + le("<Q", GIB10), f"wanted {GIB10} more bytes"),
    "bytes 4": (b"B" + le("<I", 2**32 - 1), "wanted 4294967295 more bytes"),
    "most bytes": (b"\x8e" + le("<Q", 2**64 - 1), "more bytes"),
    "bytearray": (b"\x96" + le("<Q", GIB10), f"wanted {GIB10} more bytes"),
    "text": (b"\x8d" + le("<Q", GIB10), f"wanted {GIB10} more bytes"),
    "text 4": (b"X" + le("<I", 2**31), "wanted 2147483648 more bytes"),
    "old text": (b"T" + le("<i", -1), "wanted 4294967295 more bytes"),
    "frame": (b"\x95" + le("<Q", GIB10), "the stack is empty"),
    "integer": (b"\x8b" + le("<i", 2**31 - 1), "wanted an integer of at most 16 bytes"),
    "negative integer": (b"\x8b" + le("<i", -1), "wanted an integer of at most 16 bytes"),
    "short integer": (b"\x8a\xff" + bytes(255), "wanted an integer of at most 16 bytes, got 255"),
    "memo": (b"Np-1\n", "wanted a memo index of at most 500000, got -1"),
    "far memo": (b"Nr" + le("<I", 2**32 - 1), "wanted a memo index of at most 500000, got 4294967295"),
    "farther memo": (b"Np99999999999999999999\n", "wanted a memo index of at most 500000, got 99999999999999999999"),
    "memo of one hash": (
        b"N" + b"".join(b"p%d\n" % (i * PRIME) for i in range(30_000)), "wanted a memo index of at most",
    ),
    # numbers that share a hash
    "set of one hash": (b"\x8f(" + b"".join(map(s.raw, ONE_HASH)) + b"\x90", LONG_KEY),
    "frozen set of one hash": (b"(" + b"".join(map(s.raw, ONE_HASH)) + b"\x91", LONG_KEY),
    "dict of one hash": (b"}(" + b"".join(s.raw(i) + b"N" for i in ONE_HASH) + b"u", LONG_KEY),
    "dict of one hash, one by one": (b"}" + b"".join(s.raw(i) + b"Ns" for i in ONE_HASH), LONG_KEY),
    "new dict of one hash": (b"(" + b"".join(s.raw(i) + b"N" for i in ONE_HASH) + b"d", LONG_KEY),
    "negative numbers of one hash": (b"\x8f(" + b"".join(s.raw(-i) for i in ONE_HASH) + b"\x90", LONG_KEY),
    "written numbers of one hash": (b"\x8f(" + b"".join(b"L%dL\n" % i for i in ONE_HASH) + b"\x90", LONG_KEY),
    "called set of one hash": (
        s.named("builtins", "set") + b"](" + b"".join(map(s.raw, ONE_HASH[:64])) + b"e\x85R", LONG_KEY,
    ),
    # many numbers, which may share the places where they are looked for
    "set": (b"\x8f(" + b"".join(map(s.raw, MANY)) + b"\x90", "numbers as keys, got more"),
    "frozen set": (b"(" + b"".join(map(s.raw, MANY)) + b"\x91", "numbers as keys, got more"),
    "set of floats": (b"\x8f(" + b"".join(s.raw(float(i)) for i in MANY) + b"\x90", "numbers as keys, got more"),
    "dict": (b"}(" + b"".join(s.raw(i) + b"N" for i in MANY) + b"u", "numbers as keys, got more"),
    "dict one by one": (b"}" + b"".join(s.raw(i) + b"Ns" for i in MANY), "numbers as keys, got more"),
    "new dict": (b"(" + b"".join(s.raw(i) + b"N" for i in MANY) + b"d", "numbers as keys, got more"),
    "small sets": (
        b"]q\x00(" + b"".join(map(s.raw, MANY[:64])) + b"e0" +
        (s.named("builtins", "set") + b"h\x00\x85R0") * 9000 + b"N", "numbers as keys, got more",
    ),
    "sets at the bound": (
        (b"\x8f(" + b"".join(map(s.raw, MANY[:4096])) + b"\x90"), "wanted a network G_ema, got none",
    ),
    "looked up": (unsaved_numbers(), "refused a module or tensor called"),
    "absent memo": (b"j" + le("<I", 2**32 - 1), "nothing is remembered under 4294967295"),
    # numbers of millions of digits
    "digits": (b"I" + b"9" * 60_000 + b"\n", "wanted a line of at most 1000 bytes"),
    "long digits": (b"L" + b"9" * 60_000 + b"L\n", "wanted a line of at most 1000 bytes"),
    "float digits": (b"F" + b"9" * 60_000 + b"\n", "wanted a line of at most 1000 bytes"),
    "memo digits": (b"g" + b"9" * 60_000 + b"\n", "wanted a line of at most 1000 bytes"),
    "no end of a line": (b"I" + b"9" * 2_000_000, "got no end of it"),
    # floods
    "opcodes": (b"N0" * 300_000, f"wanted at most {MAX_OPCODES} opcodes"),
    "lists": (b"]" * 600_000, f"wanted at most {MAX_OPCODES} opcodes"),
    "sets": (b"\x8f\x94" * 300_000, f"wanted at most {MAX_OPCODES} opcodes"),
    "marks": (b"(" * 600_000, f"wanted at most {MAX_OPCODES} opcodes"),
    "copies": (b"]" + b"2" * 600_000, f"wanted at most {MAX_OPCODES} opcodes"),
    "words": (s.text("a" * 10**6) * 40, "bytes of text"),
    "lines": ((b"V" + b"a" * 60_000 + b"\n") * 600, "wanted a line of at most 1000 bytes"),
    # depth
    "deep tuples": (b")" + b"\x85" * 490_000, "wanted a network G_ema"),
    "deep lists": (b"]" * 240_000 + b"a" * 239_999, "wanted a network G_ema"),
    "deep arguments": (
        argument(b")" + b"\x85" * 100_000), "nested or repeated without end"
    ),
    "deep dicts": (
        argument((b"}" + s.text("k")) * 100_000 + b"N" + b"s" * 100_000),
        "nested or repeated without end",
    ),
    "deep modules": (nested_modules(40), "nested or repeated without end"),
    # repetition
    "laughs": (argument(laughs(30)), "nested or repeated without end"),
    "laughing text": (
        argument(b"](" + s.text("x" * 10**6) + b"q\x00" + b"h\x00" * 99_000 + b"e"),
        "nested or repeated without end",
    ),
    "laughing modules": (nested_modules(25), "nested or repeated without end"),
    "list in itself": (argument(b"]q\x00h\x00a"), "nested or repeated without end"),
    "node in itself": (
        argument(LIST + b"q\x00}" + s.text("_content") + b"h\x00sb"),
        "nested or repeated without end",
    ),
    "module in itself": (own_child(), "nested or repeated without end"),
    "one storage, many views": (
        s.module_stream(
            {"w": s.tensor(s.blob(torch.zeros(250_000)), size=(250_000,)) + b"q\x00"}
            | {f"v{i}": b"h\x00" for i in range(5000)}
        ),
        "many times what their file holds",
    ),
    "expanded": (
        s.module_stream({"w": s.tensor(BLOB, size=(2**15, 2**15), stride=(0, 0))}), "many times what their file holds"
    ),
    "scalars": (argument(b"](" + s.call(*SCALAR, DTYPE, b"C\x01a") + b"e"), "scalar"),
}  # fmt: skip
