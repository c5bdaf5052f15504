"""Damaged and random snapshots end in one line or in a model, never otherwise; and no reading runs anything."""

import pickletools
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stylenerf.engine.applications.convert.generator import convert_network
from stylenerf.engine.applications.convert.inspection import describe
from stylenerf.engine.applications.convert.objects import known_globals
from stylenerf.engine.applications.convert.refusals import Refused
from stylenerf.engine.applications.convert.scan import Budget, scan
from stylenerf.engine.applications.convert.snapshot import read_snapshot
from stylenerf.engine.applications.convert.unpickler import load
from stylenerf.engine.errors import UserError
from tests import snapshots as s
from tests.bombs import BLOB
from tests.conftest import ROOT
from tests.snapshot_files import ARRAY, DTYPE, LIST, OD, file, honest
from tests.sweeps import sweep

__all__ = ["file", "honest"]  # the fixtures

CODES = sorted(pickletools.code2op, key=ord)

CODES = sorted(pickletools.code2op, key=ord)


def outcome(file: Path, data: bytes) -> str:
    """Look, then convert: "converted" or the error; anything but a UserError passes through and fails the test."""
    file.write_bytes(data)
    try:
        assert all(line.isprintable() for line in describe(read_snapshot(file, tolerant=True)))
    except UserError as error:
        assert "\n" not in str(error)
    try:
        convert_network(read_snapshot(file))
    except UserError as error:
        assert "\n" not in str(error)
        return str(error)
    return "converted"


def damaged(data: bytes, seed: int) -> bytes:
    """One of: a byte or a bit changed, a few bytes cut out or put in, the end cut off, a part repeated."""
    rng = random.Random(seed)
    at, length = rng.randrange(len(data)), rng.randrange(1, 9)
    where = data.find(b"_init_kwargs"[: rng.randrange(4, 12)], at) if seed % 2 else at  # the numbers fill most of it
    at = max(where, 0) + rng.randrange(60) if seed % 2 else at
    at = min(at, len(data) - 1)
    ways = (
        lambda: data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :],
        lambda: data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :],
        lambda: data[:at] + data[at + length :],
        lambda: data[:at] + rng.randbytes(length) + data[at:],
        lambda: data[:at],
        lambda: data[:at] + data[max(at - 40, 0) :],
        lambda: data[:at] + rng.choice(CODES).encode("latin-1") + data[at + 1 :],
    )
    return rng.choice(ways)()


@pytest.mark.parametrize("group", sweep(range(10), always=(0,)))
def test_damage(group: int, honest: Path, file: Path) -> None:
    data = honest.read_bytes()
    found = {outcome(file, damaged(data, seed)) for seed in range(40 * group, 40 * group + 40)}
    assert len(found) > 10  # most are found out, each in its own words


@pytest.mark.parametrize("part", range(1, 40))
def test_truncation(part: int, honest: Path, file: Path) -> None:
    data = honest.read_bytes()
    assert "wanted a whole snapshot" in outcome(file, data[: len(data) * part // 40])


PIECES = [
    *(code.encode("latin-1") for code in CODES),
    *(opcode + bytes([i]) for opcode in (b"h", b"q") for i in range(4)),
    *(s.text(word) for word in ("_content", "state", "os", "system")),
    *(s.raw(value) for value in (2, (2,), (1,))),
    *(s.named(*name) for name in (("builtins", "dict"), ("os", "system"), ("collections", "OrderedDict"))),
    s.named("torch._utils", "_rebuild_parameter"),
    *(OD, LIST, DTYPE, ARRAY, s.module_stream(), s.tensor(BLOB), b"C\x08" + bytes(8)),
    s.call("torch.storage", "_load_from_bytes", b"B\x02\x00\x00\x00\x80\x02"),
]
STREAMS = st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(STREAMS)
def test_random_streams(file: Path, body: bytes) -> None:
    assert outcome(file, s.stream(body)) != "converted"


PLAIN_PIECES = [
    b")", b"N", b"K\x01", s.text("a"), b"}", b"\x8f", b"(", b"0", b"\x94", b"h\x00", b"h\x01", b"\x85", b"\x86", b"t",
    b"s", b"}(", b"u", b"\x90", b"\x91",
]  # fmt: skip


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.sampled_from(PLAIN_PIECES), max_size=12).map(b"".join))
def test_whatever_is_loaded_has_plain_keys(body: bytes) -> None:
    """The scan judges keys by its own account of stack and memo; the unpickler's must agree with it."""
    budget = Budget()
    try:
        value = load(scan(b"]((" + body + b"te.", budget), known_globals(budget))
    except Refused:
        return
    waiting, seen = [value], set[int]()
    while waiting:
        inside = waiting.pop()
        if id(inside) in seen or not isinstance(inside, dict | list | tuple | set | frozenset):
            continue
        seen.add(id(inside))
        waiting.extend(inside.values() if isinstance(inside, dict) else inside)
        if not isinstance(inside, list | tuple):
            assert all(key is None or type(key) in (str, int, float, bool) for key in inside)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(STREAMS)
def test_random_tensors(file: Path, body: bytes) -> None:
    assert outcome(file, s.stream(s.module_stream({"w": s.tensor(b"\x80\x02" + body)}))) != "converted"


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes(file: Path, data: bytes) -> None:
    assert outcome(file, b"\x80\x04" + data) != "converted"


# The interpreter itself tells of every import, compilation, execution, process and file opened to be written.
WATCHED = """
import os, sys
from pathlib import Path
from stylenerf.engine.errors import UserError
from stylenerf.engine.applications.convert.objects import known_globals
from stylenerf.engine.applications.convert.refusals import Refused
from stylenerf.engine.applications.convert.scan import Budget, scan
from stylenerf.engine.applications.convert.snapshot import read_snapshot
from stylenerf.engine.applications.convert.unpickler import load
from stylenerf.engine.applications.convert.generator import convert_network
from stylenerf.engine.applications.convert.inspection import describe
def use(path):
    try:
        list(describe(read_snapshot(path, tolerant=True)))
        convert_network(read_snapshot(path))
    except UserError as error:
        return str(error)
    return "converted"
quiet = ("mmap.__new__", "object.__getattr__", "sys._getframe", "builtins.id")
def hook(event, args):
    if event == "exec":
        args = (args[0].co_filename, args[0].co_names)
    written = event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if written or event not in (*quiet, "open"):
        events.add((event, repr(args)[:200]))
events = set()
first, *paths = sys.argv[1:]
assert use(first) == "converted"  # whatever is imported late is imported now
sys.addaudithook(hook)
assert use(first) == "converted"
ours = set(events)  # the annotations of our own dataclasses are evaluated
before = set(sys.modules)
outcomes = [use(path) for path in paths]
seen = events - ours
assert outcomes[0] == "converted", outcomes
assert all("refused global" in text for text in outcomes[1:]), outcomes
assert not seen, seen
assert set(sys.modules) == before, set(sys.modules) - before
"""


@pytest.mark.slow
def test_nothing_is_imported_compiled_run_or_written(honest: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    code = f"import os\nopen({str(canary)!r}, 'w').write('x')\nos.system('touch {canary}')\n"
    data = honest.read_bytes()
    assert data.count(s.SOURCE.encode()) == 1
    padded = code + "#" * (len(s.SOURCE) - len(code))  # the same length, so that the stream stays whole
    files = {"source.pkl": data.replace(s.SOURCE.encode(), padded.encode())}
    for module, name in (("posix", "system"), ("builtins", "exec"), ("subprocess", "call"), ("antigravity", "x")):
        files[f"{module}.pkl"] = s.stream(s.call(module, name, s.raw(f"touch {canary}")))
    files["import_hook.pkl"] = s.stream(s.call("torch_utils.persistence", "import_hook", s.raw(code)))
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    paths = [str(honest), *(str(tmp_path / name) for name in files)]
    run = subprocess.run([sys.executable, "-c", WATCHED, *paths], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    assert not canary.exists()
