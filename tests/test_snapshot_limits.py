"""Snapshots that lie about sizes, ask for more than is there, or are damaged: refused soon and in little memory."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stylenerf.engine.applications.convert.generator import convert_network
from stylenerf.engine.applications.convert.inspection import describe
from stylenerf.engine.applications.convert.snapshot import read_snapshot
from stylenerf.engine.command_line.main import main
from stylenerf.engine.errors import UserError
from tests import snapshots as s
from tests.bombs import BLOB, GIB10, MANY, ONE_HASH, SOUND, TWO, argument, le
from tests.conftest import ROOT
from tests.snapshot_files import LIST, OD, file, message

__all__ = ["file"]  # the fixture


# tensors that do not add up

TENSORS: dict[str, tuple[bytes, str]] = {
    "size": (s.tensor(BLOB, size=(3,)), "reaches element 3 of 2"),
    "stride": (s.tensor(BLOB, stride=(2,)), "reaches element 3 of 2"),
    "offset": (s.tensor(BLOB, offset=1), "reaches element 3 of 2"),
    "offset past the end, no elements": (s.tensor(BLOB, offset=3, size=(0,)), "reaches element 3 of 2"),
    "huge": (s.tensor(BLOB, size=(2**62,)), "refused a tensor of size (46"),
    "huge product": (s.tensor(BLOB, size=(2**20, 2**30), stride=(0, 0)), "refused a tensor of size"),
    "no elements, but huge": (s.tensor(BLOB, size=(0, 2**62), stride=(1, 1)), "refused a tensor of size"),
    "wide integers": (s.tensor(BLOB, size=(2**100,), stride=(2**100,)), "refused a tensor of size"),
    "negative size": (s.tensor(BLOB, size=(-1,)), "not plain"),
    "negative stride": (s.tensor(BLOB, offset=1, stride=(-1,)), "not plain"),
    "negative offset": (s.tensor(BLOB, offset=-1), "not plain"),
    "offset no integer": (s.tensor(BLOB, offset=0.0), "not plain"),
    "offset true": (s.tensor(BLOB, offset=True), "not plain"),
    "size of text": (s.tensor(BLOB, size=("2",)), "not plain"),
    "size a list": (s.tensor(BLOB, size=[2]), "not plain"),
    "many dims": (s.tensor(BLOB, size=(1,) * 9, stride=(1,) * 9), "not plain"),
    "uneven dims": (s.tensor(BLOB, size=(1, 2)), "refused a tensor of 2 sizes and 1 strides"),
    "hooks": (s.tensor(BLOB, hooks=OD + s.raw(1) + b"Ns"), "with hooks"),
    "hooks no OrderedDict": (s.tensor(BLOB, hooks=b"}"), "with hooks"),
    "few arguments": (s.call("torch._utils", "_rebuild_tensor_v2", b"N"), "refused a tensor with 1 arguments"),
    "storage of nothing": (s.call("torch._utils", "_rebuild_tensor_v2", b"N" * 6), "not plain"),
    "parameter of nothing": (s.call("torch._utils", "_rebuild_parameter", b"N\x88", OD), "not a tensor"),
    "parameter and hooks": (s.call("torch._utils", "_rebuild_parameter", SOUND, b"\x88N"), "with hooks"),
    "storage no bytes": (s.call("torch.storage", "_load_from_bytes", s.raw("x")), "a storage that is not bytes"),
    "magic": (s.tensor(s.blob(TWO, magic=1)), "magic number"),
    "version": (s.tensor(s.blob(TWO, version=1002)), "magic number"),
    "big-endian": (s.tensor(s.blob(TWO, little=False)), "not little-endian"),
    "endianness unknown": (s.tensor(s.blob(TWO, little=1)), "not little-endian"),
    "counts disagree": (s.tensor(s.blob(TWO, counted=1)), "does not count 2 elements"),
    "more counted": (s.tensor(s.blob(TWO, numel=3)), "of 3 elements has 8 bytes"),
    "less counted": (s.tensor(s.blob(TWO, numel=1)), "of 1 elements has 8 bytes"),
    "negative count": (s.tensor(s.blob(TWO, numel=-1)), "refused a storage of -1 elements"),
    "vast count": (s.tensor(s.blob(TWO, numel=2**62)), "elements has 8 bytes"),
    "more after it": (s.tensor(s.blob(TWO, tail=b"x")), "of 2 elements has 9 bytes"),
    "other key": (s.tensor(s.blob(TWO, keys=("2",))), "one described storage with its key"),
    "two keys": (s.tensor(s.blob(TWO, keys=("1", "1"))), "one described storage with its key"),
    "other type": (s.tensor(s.blob(TWO, kind="ComplexFloatStorage")), "refused global 'torch.ComplexFloatStorage'"),
    "type untyped": (s.tensor(s.blob(TWO, kind="UntypedStorage")), "refused global 'torch.UntypedStorage'"),
    "zip form": (s.tensor(b"PK\x03\x04" + bytes(40)), "torch's zip form"),
    "empty blob": (s.tensor(b""), "storage cannot be read: the file is cut off"),
    "cut blob": (s.tensor(BLOB[:-9]), "does not count 2 elements"),
    "noise": (s.tensor(bytes(99)), "storage cannot be read"),
    "old description": (s.tensor(BLOB.replace(b"NtQ", b"tQ")), "a form that is not torch's"),
    "view of another": (s.tensor(BLOB.replace(b"NtQ", b"K\x01tQ")), "a form that is not torch's"),
    "call inside": (s.tensor(BLOB.replace(b"\nFloatStorage\n", b"\nFloatStorage\n)R")), "object is not callable"),
}  # fmt: skip


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_do_not_add_up(case: str, file: Path) -> None:
    data, wanted = TENSORS[case]
    assert wanted in message(file, s.stream(s.module_stream({"w": data})))


NETWORKS: dict[str, tuple[bytes, str]] = {
    "parameter no tensor": (s.module_stream({"w": b"N", "v": s.raw("x")}), "refused 'v': wanted a tensor, got a str"),
    "module no module": (s.module_stream(modules={"a": s.raw(1)}), "refused 'a': wanted a module, got a int"),
    "module a tensor": (s.module_stream(modules={"a": SOUND}), "refused 'a': wanted a module, got a TensorRecord"),
    "module without parts": (s.module_stream(modules={"a": s.persistent_stream(b"}")}), "a module with _parameters"),
    "parts no mapping": (s.module_stream(b"]"), "refused the network: wanted a module with _parameters"),
    "dotted name": (s.module_stream({"a.b": SOUND}), "refused a module or tensor called 'a.b'"),
    "no name": (s.module_stream({"": SOUND}), "refused a module or tensor called ''"),
    "long name": (s.module_stream({"n" * 5000: SOUND}), "refused a module or tensor called 'nnn"),
    "number as name": (s.module_stream(b"}K\x01" + SOUND + b"s"), "refused a module or tensor called '1'"),
    "no arguments": (s.module_stream(_init_kwargs=b"N"), "without its constructor's arguments"),
    "arguments no mapping": (s.module_stream(_init_kwargs=b"]"), "not a list and a mapping"),
    "argument a tensor": (argument(SOUND), "wanted plain data, got a TensorRecord"),
    "argument a type": (argument(s.named("typing", "Any")), "got a typing.Any"),
    "argument without state": (argument(LIST), "wanted plain data, got a omegaconf.listconfig.ListConfig"),
    "argument's name": (s.module_stream(_init_kwargs=b"}K\x01Ns"), "argument's name: wanted short text, got '1'"),
    "integers": (
        s.module_stream({"w": s.tensor(s.blob(TWO, kind="IntStorage"))}), "wanted floating-point numbers, got int32"
    ),
    "other network": (s.module_stream({"w": SOUND}), "'Generator' without synthesis.fg_nerf: no StyleNeRF generator"),
    "name that a terminal obeys": (s.persistent_stream(b"]", "\x1b[2J"), r"refused a state of '\x1b[2J'"),
}  # fmt: skip


@pytest.mark.parametrize("case", NETWORKS)
def test_networks_that_are_none(case: str, file: Path) -> None:
    data, wanted = NETWORKS[case]
    assert wanted in message(file, s.stream(data))
    assert all(line.isprintable() for line in describe(read_snapshot(file, tolerant=True)))


KEYS: dict[str, tuple[bytes, str]] = {
    "a tuple": (b"})Ns", "wanted text or a number as a key, got tuple"),
    "a deep tuple": (b"})" + b"\x85" * 100_000 + b"Ns", "wanted text or a number as a key, got tuple"),
    "a frozenset": (b"}(\x91Ns", "wanted text or a number as a key, got frozenset"),
    "a record": (b"}" + LIST + b"Ns", "wanted text or a number as a key, got any"),
    "a long integer": (b"}" + s.raw(2**70) + b"Ns", "wanted an integer key of at most 64 bits, got one of 71"),
    "in a set": (b"\x8f()\x90", "wanted text or a number as a key, got tuple"),
    "without a value": (b"}(Nu", "odd number of items for SETITEMS"),
    "into a list": (b"]NNs", "list indices must be integers or slices"),
    "appended to a dict": (b"}Na", "'dict' object has no attribute 'append'"),
    "added to a list": (b"](N\x90", "'list' object has no attribute 'add'"),
}  # fmt: skip


@pytest.mark.parametrize("case", KEYS)
def test_keys_and_containers(case: str, file: Path) -> None:
    data, wanted = KEYS[case]
    assert wanted in message(file, s.stream(data))


def test_the_numbers_of_one_hash_are_what_they_are_called() -> None:
    """Far fewer of them take far longer than other numbers do, so the cases above are the worst there are."""
    assert {hash(i) for i in ONE_HASH} == {0}

    def seconds(keys: list[int]) -> float:
        started = time.process_time()
        assert len(set(keys)) == len(dict.fromkeys(keys)) == len(frozenset(keys)) == len(keys)
        return time.process_time() - started

    assert seconds(ONE_HASH[:2000]) > 10 * seconds(MANY[:2000])


def test_ten_gigabytes_on_a_disk_that_are_not_there(file: Path) -> None:
    """A file with a hole: 10 GB long, nothing in it; and one whose hole is a text and whose hole is bytes."""
    with open(file, "wb") as sparse:
        sparse.truncate(GIB10)
    with pytest.raises(UserError, match="wanted a snapshot of at most 8 GiB, got 10737418240 bytes"):
        read_snapshot(file)
    for opcode, wanted in ((b"\x8d", "bytes of text"), (b"\x8e", "one value at the end|no opcode")):
        size = 7 * 2**30
        with open(file, "wb") as sparse:
            sparse.write(b"\x80\x04" + opcode + le("<Q", size))
            sparse.truncate(size + 12)
        with pytest.raises(UserError, match=wanted):
            read_snapshot(file)


def test_a_huge_file_without_a_network_is_not_read_through(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """7 GiB of tensor bytes, and no G_ema: the file's SHA-256 would take its reading."""

    def never(data: object) -> None:
        raise AssertionError("the whole file was read")

    size = 7 * 2**30
    with open(file, "wb") as sparse:
        sparse.write(b"\x80\x04}" + s.text("D") + b"\x8e" + le("<Q", size))
        sparse.seek(size, os.SEEK_CUR)
        sparse.write(b"s.")
    monkeypatch.setattr("hashlib.sha256", never)
    started = time.process_time()
    assert main(["convert", str(file), "--out", str(file.parent / "model")]) == 2
    with pytest.raises(UserError, match="wanted a network G_ema, got none at all"):
        convert_network(read_snapshot(file))
    assert time.process_time() - started < 3


# every bomb in one process that may not take half a gigabyte more than it has
POOR = """
import resource, sys, time
from pathlib import Path
from stylenerf.engine.applications.convert.inspection import describe
from stylenerf.engine.applications.convert.snapshot import read_snapshot
from stylenerf.engine.errors import UserError
from tests import snapshots as s
from tests.bombs import BOMBS
from tests.snapshot_files import message
file = Path(sys.argv[1])
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 512 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for name, (data, wanted) in BOMBS.items():
    started = time.process_time()
    text = message(file, s.stream(data))
    if wanted not in text or time.process_time() - started > 5:
        print(name, time.process_time() - started, text)
    if len(data) < 100_000:
        try:
            sum(len(line) for line in describe(read_snapshot(file, tolerant=True)))
        except UserError:
            pass
print("done")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc to know how much memory it has")
@pytest.mark.slow
def test_bombs_are_refused_soon_and_take_little_memory(file: Path) -> None:
    command = [sys.executable, "-c", POOR, str(file)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert (run.returncode, run.stdout, run.stderr) == (0, "done\n", "")


def test_text_that_cannot_be_encoded_is_shown_as_any_other(file: Path) -> None:
    """Half of a surrogate pair, which pickles carry: in sources, names, arguments and keys."""
    lone = b"X" + le("<I", 5) + "a\udc80b".encode("utf-8", "surrogatepass")
    inner = s.module_stream({"w": SOUND}, {"n": s.persistent_stream(s.mapping({}), module_src=lone)})
    outer = s.module_stream(_init_kwargs=b"}" + lone + lone + b"s", _modules=b"}" + lone + inner + b"s")
    file.write_bytes(b"\x80\x04}" + s.text("G_ema") + outer + b"s" + lone + outer + b"s.")
    lines = list(describe(read_snapshot(file, tolerant=True)))
    assert "udc80" in "".join(lines) and all(line.isprintable() for line in lines)
    "".join(lines).encode("ascii")
