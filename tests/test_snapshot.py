"""Reading snapshots: honest ones in every spelling, hostile ones refused by name, nothing run, nothing spent."""

import bz2
import hashlib
import io
import lzma
import os
import random
import re
import struct
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stylenerf.engine.applications.convert.inspection import describe
from stylenerf.engine.applications.convert.interpolation import Unresolved
from stylenerf.engine.applications.convert.modules import arguments_of, make_tensors, tensors_of
from stylenerf.engine.applications.convert.refusals import Refused
from stylenerf.engine.applications.convert.snapshot import read_snapshot
from stylenerf.engine.errors import UserError
from stylenerf.models.generator import Generator
from tests import snapshots as s
from tests.inputs import seeded
from tests.public_forms import BASE, public_kwargs, public_state
from tests.snapshot_files import ARRAY, DTYPE, LIST, OD, SCALAR, file, honest, message

__all__ = ["file", "honest"]  # the fixtures

TWO = torch.tensor([1.5, -2.0])
TWO_BLOB = s.blob(TWO)


# what honest files hold


def test_a_network_comes_back(honest: Path) -> None:
    g, found = seeded(lambda: Generator(BASE)), read_snapshot(honest)
    network = found.network("G_ema")
    tensors = make_tensors(tensors_of(network), 2**20)
    wanted = public_state(g)
    assert tensors.keys() == wanted.keys() and all(torch.equal(tensors[name], wanted[name]) for name in wanted)
    assert arguments_of(network) == ([], public_kwargs(BASE))
    assert (found.sha256, found.protocol) == (hashlib.sha256(honest.read_bytes()).hexdigest(), 4)
    assert found.size_bytes == honest.stat().st_size and not found.refused
    assert network.source == s.SOURCE and network.state["weight_gain"] == 0.125


FORMS = {
    "plain": dict,
    "omegaconf": s.omega,
    "easydict": s.easy,
    "interpolated": s.launched,
    "interpolated leaves": s.launched_leaves,
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_spellings(protocol: int, form: Any, file: Path) -> None:
    with s.public_modules():
        public = s.generator({"a": {"b": {"c": [1, 2.5]}}, "d": "x"}, {"synthesis.w": TWO}, args=(1,), form=form)
        s.write_snapshot(file, s.contents(public), protocol)
    found = read_snapshot(file)
    assert arguments_of(found.network("G")) == ([1], {"a": {"b": {"c": [1, 2.5]}}, "d": "x"})
    assert list(found.objects) == ["training_set_kwargs", "G", "D", "G_ema", "augment_pipe"]


# the whole configuration, then: text, what it means
INTERPOLATIONS: dict[str, tuple[str, Any]] = {
    "absolute": ("${spec.map}", 8),
    "spaces": ("${ spec.map }", 8),
    "text around": ("r${spec.map}_${spec.name}", "r8_x"),
    "nested": ("${spec.${spec.key}}", 8),
    "of another": ("${spec.again}", 8),
    "list": ("${spec.list[1]}", 2.5),
    "list with a dot": ("${spec.list.1}", 2.5),
    "in brackets": ("${spec[map]}", 8),
    "a section": ("${spec.part}", {"deep": True, "more": "x"}),
    "beside": ("${.own}", 3),
    "above": ("${..above}", 4),
    "far above": ("${...spec.map}", 8),
    "through a section that is one": ("${spec.link.deep}", True),
    "nothing there": ("${spec.nothing}", None),
    "past the list": ("${spec.list[2]}", None),
    "below a leaf": ("${spec.map.more}", None),
    "above the root": ("${......spec}", None),
    "resolver": ("${oc.env:HOME}", None),
    "open": ("${spec.map", None),
    "empty": ("${}", None),
    "section in text": ("a${spec.part}", None),
    "never given": ("${spec.never}", None),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("case", INTERPOLATIONS)
def test_interpolations(case: str, protocol: int, file: Path) -> None:
    text, wanted = INTERPOLATIONS[case]
    spec = {"map": 8, "name": "x", "key": "map", "again": "${spec.map}", "list": [1, 2.5], "link": "${spec.part}"}
    spec |= {"part": {"deep": True, "more": "${spec.name}"}, "never": "???"}
    with s.public_modules():
        root = s.omega({"spec": spec, "kwargs": {"above": 4, "inner": {"own": 3, "a": text}}})
        g = s.generator({"inner": s.omega({}), "d": 1}, {"w": TWO})
        g._init_kwargs["inner"] = root._content["kwargs"]._content["inner"]
        s.write_snapshot(file, {"G_ema": g}, protocol)
    found = arguments_of(read_snapshot(file).network("G_ema"))[1]["inner"]
    assert isinstance(found, dict)
    if wanted is None:
        assert isinstance(found["a"], Unresolved) and found["own"] == 3
    else:
        assert found == {"own": 3, "a": wanted} and type(found["a"]) is type(wanted)


CIRCLES = {
    "itself": {"a": "${inner.a}"},
    "two": {"a": "${.b}", "b": "${.a}"},
    "its section": {"a": "${inner}"},
    "own container": {"a": "${.}"},
    "laughs": {"x0": "ha", **{f"x{i + 1}": f"${{.x{i}}}${{.x{i}}}" for i in range(25)}},
    "laughing lists": {"x0": [1], **{f"x{i + 1}": [f"${{inner.x{i}}}"] * 9 for i in range(9)}},
    "long": {"a": "${b" * 100_000},
    "long path": {"a": "${" + "b." * 400_000 + "}"},
}


@pytest.mark.parametrize("case", CIRCLES)
def test_interpolations_without_end(case: str, file: Path) -> None:
    with s.public_modules():
        root = s.omega({"inner": CIRCLES[case]})
        g = s.generator({}, {"w": TWO})
        g._init_kwargs["inner"] = root._content["inner"]
        s.write_snapshot(file, {"G_ema": g})
    started = time.process_time()
    try:
        arguments_of(read_snapshot(file).network("G_ema"))
    except Refused as error:
        assert "nested or repeated without end" in str(error)
    else:
        assert case in ("long", "own container")
    assert time.process_time() - started < 3


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_unsaved_names_in_every_protocol(protocol: int, file: Path) -> None:
    with s.public_modules():
        net = s.network({"w": TWO})
        net.register_buffer("unsaved", TWO, persistent=False)
        s.write_snapshot(file, {"G_ema": net}, protocol)
    found = read_snapshot(file).network("G_ema")
    assert found.state["_non_persistent_buffers_set"] == {"unsaved"} and list(tensors_of(found)) == ["w"]


TENSORS: dict[str, torch.Tensor] = {
    "transposed": torch.arange(6.0).view(2, 3).T,
    "part": torch.arange(10.0)[3:9:2],
    "scalar": torch.tensor(3.5),
    "empty": torch.zeros(0, 4),
    "half": torch.tensor([1.0, 65504.0]).half(),
    "bfloat16": torch.tensor([1.0, -3e38]).bfloat16(),
    "double": torch.tensor([1e300], dtype=torch.float64),
    "one long step": torch.arange(8.0)[::7][:1],
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors(name: str, file: Path) -> None:
    wanted = TENSORS[name]
    with s.public_modules():
        s.write_snapshot(file, {"G_ema": s.network({"w": wanted, "deep.er.3.v": wanted})})
    tensors = make_tensors(tensors_of(read_snapshot(file).network("G_ema")), 2**20)
    assert list(tensors) == ["w", "deep.er.3.v"]
    assert all(t.dtype == wanted.dtype and torch.equal(t, wanted) for t in tensors.values())


def test_what_a_state_dict_leaves_out(file: Path) -> None:
    with s.public_modules():
        net = s.network({"w": TWO})
        net.register_buffer("unsaved", TWO, persistent=False)
        net.register_buffer("absent", None)
        net.add_module("nothing", None)
        s.write_snapshot(file, {"G_ema": net})
    assert list(tensors_of(read_snapshot(file).network("G_ema"))) == ["w"]


def test_numbers_of_numpy(file: Path) -> None:
    with s.public_modules():
        g = s.generator({"f": np.float32(0.5), "i": np.int64(-3), "a": np.arange(6.0).reshape(2, 3)}, {"w": TWO})
        g._init_kwargs["t"] = np.asfortranarray(np.arange(4).reshape(2, 2))
        s.write_snapshot(file, {"G_ema": g})
    found = arguments_of(read_snapshot(file).network("G_ema"))[1]
    assert found == {"f": 0.5, "i": -3, "a": [[0.0, 1, 2], [3, 4, 5]], "t": [[0, 1], [2, 3]]}


# files that are something else


def saved_by_torch(*, zip_form: bool, protocol: int = 2) -> bytes:
    out = io.BytesIO()
    torch.save({"G_ema": {"w": TWO}}, out, _use_new_zipfile_serialization=zip_form, pickle_protocol=protocol)
    return out.getvalue()


CHECKPOINT = r"weights without a snapshot's arguments; convert takes the network-snapshot-\*.pkl"
OTHERS = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer.*git lfs pull"),
    "html": (b"\n<!DOCTYPE html><html>", "a web page"),
    "html upper": (b"<HTML><body>", "a web page"),
    "zip": (b"PK\x03\x04" + bytes(50), "a zip archive; unpack it first"),
    "gzip": (b"\x1f\x8b\x08" + bytes(50), "a gzip archive; unpack it first"),
    "bzip2": (bz2.compress(b"x"), "a bzip2 archive; unpack it first"),
    "xz": (lzma.compress(b"x"), "an xz archive; unpack it first"),
    "tar": (bytes(257) + b"ustar\x0000", "a tar archive; unpack it first"),
    "torch, older form": (saved_by_torch(zip_form=False), f"checkpoint in torch's older form, {CHECKPOINT}"),
    "torch, older form, protocol 4": (saved_by_torch(zip_form=False, protocol=4), f"older form, {CHECKPOINT}"),
    "torch, zip form": (saved_by_torch(zip_form=True), f"checkpoint in torch's zip form, {CHECKPOINT}"),
    "safetensors": (
        (64).to_bytes(8, "little") + b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'.ljust(72),
        f"a safetensors file, {CHECKPOINT}",
    ),
    "numpy": (b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', }", "an array of numpy's"),
    "empty": (b"", "got an empty one"),
    "text": (b"hello, this is no pickle", "damaged: .*byte"),
    "zeros": (bytes(1000), "damaged: 0x00 is no opcode"),
    "noise": (random.Random(0).randbytes(500), "damaged"),
    "no mapping": (b"\x80\x04]\x94.", "wanted a mapping with G_ema in it, got a list"),
    "number": (b"\x80\x02K\x01.", "wanted a mapping with G_ema in it, got a int"),
    "other keys": (b"\x80\x04}K\x01Ns.", "wanted a mapping with G_ema in it, got a dict"),
    "nothing in it": (b"\x80\x04}.", "wanted a network G_ema, got none at all"),
    "not a network": (s.stream(b"N"), "wanted a network G_ema, got none at all"),
    "more after it": (s.stream(b"N") + b"more", "4 bytes follow its end"),
    "newer protocol": (b"\x80\x09}.", "unsupported pickle protocol: 9"),
    "no end": (b"\x80\x04}", "cut off"),
    "too much at the end": (b"\x80\x04}}.", "wanted one value at the end, got 2"),
    "open mark": (b"\x80\x04(}.", "1 open marks"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_other_files_are_told_apart(case: str, file: Path) -> None:
    data, wanted = OTHERS[case]
    assert re.search(wanted, message(file, data))


def test_paths_that_lead_to_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    cases = {"none.pkl": "No such file", "": "got a folder", "pipe": "got a pipe or device", "x" * 300: "too long"}
    found = {}
    for name in cases:
        with pytest.raises(UserError) as caught:
            read_snapshot(tmp_path / name)
        found[name] = str(caught.value)
    assert [name for name in cases if cases[name] not in found[name]] == []
    with pytest.raises(UserError, match="null byte"):
        read_snapshot("a\0b")


# files that want something run

CANARY = "touch canary"
FORBIDDEN = [
    "os.system", "posix.system", "nt.system", "subprocess.Popen", "subprocess.check_output", "builtins.eval",
    "builtins.exec", "builtins.getattr", "builtins.__import__", "builtins.open", "builtins.compile", "builtins.type",
    "builtins.object", "builtins.map", "builtins.print", "__builtin__.eval", "__builtin__.getattr",
    "importlib.import_module", "runpy._run_code", "runpy.run_path", "pickle.loads", "_pickle.loads", "cPickle.loads",
    "torch.load", "torch.jit.load", "torch.hub.load", "torch.storage.UntypedStorage", "torch.serialization.load",
    "numpy.load", "numpy.lib.npyio.load", "numpy.testing._private.utils.runstring",
    "numpy.f2py.crackfortran.getlincoef", "functools.partial", "operator.attrgetter", "operator.methodcaller",
    "operator.itemgetter", "posix.execv", "types.FunctionType", "types.CodeType", "codecs.decode", "_codecs.decode",
    "copyreg._reconstructor", "copy_reg._reconstructor", "copyreg.add_extension", "marshal.loads", "ctypes.CDLL",
    "shutil.rmtree", "pathlib.Path", "sys.exit", "sys.modules", "builtins.bytes", "builtins.breakpoint", "pty.spawn",
    "webbrowser.open", "timeit.timeit", "logging.config.dictConfig", "torch_utils.persistence.import_hook",
    "torch_utils.persistence", "dnnlib.util.call_func_by_name", "dnnlib.tflib.network.Network",
    "torch._utils._rebuild_tensor", "torch.nn.modules.linear.Linear", "omegaconf.omegaconf.OmegaConf",
    "collections.Counter", "collections.namedtuple", "numpy.core.multiarray.fromstring", "torch.storage.os",
    "typing.get_type_hints", "stylenerf.engine.applications.convert.snapshot.read_snapshot",
    "tests.snapshots.stream", "cloudpickle.loads",
    "dill.loads", "joblib.load", "torch.package.PackageImporter", "torch._dynamo.compile", "builtins.setattr",
    "builtins.globals", "builtins.vars", "os.popen", "os.remove", "io.open", "_io.FileIO", "socket.socket",
    "urllib.request.urlopen", "code.interact", "gc.get_objects", "weakref.ref", "threading.Thread", "signal.alarm",
    "numpy.ndarray.tofile", "torch.from_file", "torch.ops.load_library", "torch.FloatStorage",
    "builtins.staticmethod",
    "a b.c\u202ed",  # it would turn the text of an error around
]  # fmt: skip
WAYS = {
    "stack global": lambda m, n: s.stream(s.call(m, n, s.raw(CANARY))),
    "global": lambda m, n: s.stream(f"c{m}\n{n}\n(X".encode() + struct.pack("<I", 3) + b"runtR"),
    "instance": lambda m, n: s.stream(b"(" + s.raw(CANARY) + f"i{m}\n{n}\n".encode()),
    "object": lambda m, n: s.stream(b"(" + s.named(m, n) + s.raw(CANARY) + b"o"),
    "new": lambda m, n: s.stream(s.named(m, n) + b")\x81"),
    "new with keywords": lambda m, n: s.stream(s.named(m, n) + b")}\x92"),
    "only named": lambda m, n: s.stream(s.named(m, n)),
    "protocol 0": lambda m, n: f"c{m}\n{n}\n(S'{CANARY}'\ntR.".encode(),
    "protocol 0 in a dict": lambda m, n: f"(dp0\nVG_ema\np1\nc{m}\n{n}\n(V{CANARY}\ntRs.".encode(),
    "as factory": lambda m, n: s.stream(s.call("collections", "defaultdict", s.named(m, n))),
    "as key": lambda m, n: b"\x80\x04}" + s.named(m, n) + b"Ns.",
    "in a tensor": lambda m, n: s.stream(s.tensor(f"c{m}\n{n}\n.".encode())),
}  # fmt: skip


def split(name: str) -> tuple[str, str]:
    module, _, attribute = name.rpartition(".")
    return module, attribute


@pytest.mark.parametrize("name", FORBIDDEN)
def test_forbidden_globals_are_refused_by_name(name: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    before = set(sys.modules)
    assert message(file, s.stream(s.call(*split(name), s.raw(CANARY)))) == f"refused global {name!a}"
    assert set(sys.modules) == before and os.listdir(file.parent) == [file.name]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_a_global_is_refused(way: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    wanted = "wanted text or a number as a key" if way == "as key" else "refused global 'posix.system'"
    assert wanted in message(file, WAYS[way]("posix", "system"))
    assert os.listdir(file.parent) == [file.name]


# a dotted path that spells an allowed one, or reaches through it
REACHING = [
    ("torch", "storage._load_from_bytes"), ("torch.storage", "_load_from_bytes.__globals__"),
    ("collections", "OrderedDict.fromkeys"), ("builtins", "dict.__init__"), ("", "collections.OrderedDict"),
    ("collections.OrderedDict", ""), ("collections ", "OrderedDict"), ("COLLECTIONS", "OrderedDict"),
    ("typing", "Any.__class__"), ("torch._utils", "_rebuild_parameter.__globals__.os.system"),
]  # fmt: skip


@pytest.mark.parametrize("module, name", REACHING)
def test_only_the_exact_spelling_is_known(module: str, name: str, file: Path) -> None:
    assert message(file, s.stream(s.named(module, name))) == f"refused global {f'{module}.{name}'!a}"


MISUSED: dict[str, tuple[bytes, str]] = {
    # known globals, otherwise than honest files use them
    "call of a type": (s.call("builtins", "list", b"]"), "refused call of 'builtins.list'"),
    "int of many digits": (s.call("builtins", "int", s.raw("9" * 9999)), "refused call of 'builtins.int'"),
    "instance of a function": (s.named("torch.storage", "_load_from_bytes") + b")\x81", "must be a type, not Global"),
    "call of a class": (s.call("omegaconf.base", "Metadata"), "refused call of 'omegaconf.base.Metadata'"),
    "instance with arguments": (s.named("omegaconf.base", "Metadata") + b"}\x85\x81", "with arguments"),
    "instance with keywords": (s.named("omegaconf.base", "Metadata") + b")}" + s.text("a") + b"Ns\x92", "NEWOBJ_EX"),
    "old instance": (b"(icollections\nOrderedDict\n", "refused opcode INST"),
    "old object": (b"(" + s.named("collections", "OrderedDict") + b"o", "refused opcode OBJ"),
    "call of a value": (s.raw("os.system") + b")R", "'str' object is not callable"),
    "call of a record": (LIST + b")R", "'ListConfig' object is not callable"),
    "arguments no tuple": (s.named("collections", "OrderedDict") + b"]R", "argument list must be a tuple"),
    "dict from arguments": (s.call("collections", "OrderedDict", b"]"), "refused an OrderedDict made from arguments"),
    "callable factory": (s.call("collections", "defaultdict", s.named("typing", "Any")), "refused a defaultdict"),
    "set of a set": (s.call("builtins", "set", b"\x8f"), "not made from a short list"),
    "set of lists": (s.call("builtins", "set", b"]]a"), "wanted text or a number as a key, got list"),
    "long set": (s.call("builtins", "set", b"](" + b"N" * 65 + b"e"), "not made from a short list"),
    "old set of a set": (s.call("__builtin__", "set", b"\x8f"), "not made from a short list"),
    "call of an old type": (s.call("__builtin__", "dict"), "refused call of '__builtin__.dict'"),
    "bytes of another encoding": (s.call("_codecs", "encode", s.raw("x"), s.raw("rot13")), "that is not Latin-1"),
    "bytes that are none": (s.call("_codecs", "encode", s.raw("\u1234"), s.raw("latin1")), "that is not Latin-1"),
    "two factories": (s.call("collections", "defaultdict", b"N", b"N"), "defaultdict"),
    # states
    "state of a dict": (b"}}b", "'dict' object has no attribute '__dict__'"),
    "state of a global": (s.named("collections", "OrderedDict") + b"}b", "Dict.__setstate__() missing"),
    "state of a tensor": (s.tensor(s.blob(TWO)) + b"}b", "refused state for a TensorRecord"),
    "attributes of a tensor": (s.tensor(s.blob(TWO)) + b"]b", "refused state for a TensorRecord"),
    "attributes of a storage": (
        s.call("torch.storage", "_load_from_bytes", b"B" + struct.pack("<I", len(TWO_BLOB)) + TWO_BLOB) + b"]b",
        "refused state for a Storage",
    ),
    "attributes of a function": (s.named("torch._utils", "_rebuild_parameter") + b"N}" + s.text("make") + b"Ns\x86b",
                                 "refused state for a torch._utils._rebuild_parameter"),
    "attributes of a class": (s.named("omegaconf.base", "Metadata") + b"N}" + s.text("state") + b"Ns\x86b",
                              "refused by Python's unpickler: Record.__setstate__() missing"),
    "attributes of a list": (b"]N}" + s.text("append") + b"Ns\x86b", "'append' is read-only"),
    "attributes of an OrderedDict": (OD + b"N}" + s.text("items") + b"Ns\x86b", "that is a tuple"),
    "state of a network": (s.module_stream() + b"}b", "refused state for a Persistent"),
    "state of a list": (b"]}b", "'list' object has no attribute '__dict__'"),
    "state that is a list": (LIST + b"]b", "not a mapping of attributes"),
    "state with slots": (LIST + b"}}\x86b", "not a mapping of attributes"),
    "second state": (LIST + b"}b}b", "refused a second state"),
    "state of an odd OrderedDict": (OD + b"]b", "refused state for an OrderedDict that is a list"),
    # registries and outside references
    "extension 1": (b"\x82\x01", "refused opcode EXT1"),
    "extension 2": (b"\x83\x01\x02", "refused opcode EXT2"),
    "extension 4": (b"\x84\x01\x00\x00\x00", "refused opcode EXT4"),
    "persistent id": (s.raw("os.system") + b"Q", "refused persistent id 'os.system'"),
    "persistent object": (b"]Q", "refused persistent id list"),
    "persistent line": (b"Pos.system\n", "refused opcode PERSID"),
    "buffer": (b"\x97", "refused opcode NEXT_BUFFER"),
    "buffer made read-only": (b"]\x98", "refused opcode READONLY_BUFFER"),
    # persistent objects
    "no description": (s.call("torch_utils.persistence", "_reconstruct_persistent_obj"), "without its description"),
    "function": (s.persistent_stream(b"}", type=s.raw("function")), "refused a persistent object of type 'function'"),
    "endless type": (s.persistent_stream(b"}", type=b"]q\x00h\x00a"), "refused a persistent object of type list"),
    "source no text": (s.persistent_stream(b"}", module_src=b"N"), "whose class and source are not text"),
    "state no mapping": (s.persistent_stream(b"]"), "not a mapping of attributes"),
    # numpy
    "object array": (s.call("numpy", "dtype", s.raw("O8")), "refused numpy dtype 'O8'"),
    "dtype of fields": (s.call("numpy", "dtype", b"]"), "refused numpy dtype list"),
    "dtype subclass": (DTYPE + s.raw((3, "<", (), None, None, -1, -1, 0)) + b"b", "not one plain number"),
    "big-endian dtype": (DTYPE + s.raw((3, ">", None, None, None, -1, -1, 0)) + b"b", "not little-endian"),
    "scalar too short": (s.call(*SCALAR, DTYPE, b"C\x01a"), "refused a numpy scalar of 1 bytes, wanted 8"),
    "scalar of text": (s.call(*SCALAR, DTYPE, s.raw("12345678")), "refused a numpy scalar"),
    "array subclass": (
        s.call("numpy.core.multiarray", "_reconstruct", s.named("collections", "OrderedDict"), b")", b"C\x01b"),
        "not a numpy.ndarray",
    ),
    "array too short": (ARRAY + b"(K\x01" + s.raw((3,)) + DTYPE + b"\x89C\x01at" + b"b", "with 1 bytes"),
    "array of lists": (ARRAY + b"(K\x01" + s.raw((1,)) + DTYPE + b"\x89]t" + b"b", "not one of plain numbers"),
    "array too large": (ARRAY + b"(K\x01" + s.raw((2**62, 4)) + DTYPE + b"\x89C\x00t" + b"b", "refused a numpy array"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISUSED)
def test_known_globals_serve_one_purpose(case: str, file: Path) -> None:
    data, wanted = MISUSED[case]
    assert wanted in message(file, s.stream(data))


# what is no pickle at all leaves nothing to look at
@pytest.mark.parametrize("case", [case for case, (_, wanted) in MISUSED.items() if "opcode" not in wanted])
def test_looking_notes_what_converting_refuses(case: str, file: Path) -> None:
    data, wanted = MISUSED[case]
    file.write_bytes(s.stream(data))
    found = read_snapshot(file, tolerant=True)
    assert any(wanted in reason for reason in found.refused)
    assert "    so this file would not be converted" in list(describe(found))
