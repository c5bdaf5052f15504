"""Snapshots as the public code writes them, from stand-ins: modules of the same names whose objects pickle alike."""

import pickle
import struct
import sys
import types
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SOURCE = "# the source text of the public module\n" * 50
OTHER_SOURCE = "# the source text of another public module\n" * 70
_OMEGA = {
    "omegaconf.dictconfig": ("DictConfig",),
    "omegaconf.listconfig": ("ListConfig",),
    "omegaconf.base": ("ContainerMetadata", "Metadata"),
    "omegaconf.nodes": ("AnyNode",),
}


def _reconstruct_persistent_obj(meta: Any) -> Any:
    raise AssertionError("a snapshot's objects are never made")


def _class(module: str, name: str, *bases: type) -> type:
    return type(name, bases, {"__module__": module, "__qualname__": name})


class Module(nn.Module):
    """A public module: its attributes travel with its class's name and source text."""

    class_name = "Generator"

    def __init__(self, class_name: str, source: str = SOURCE) -> None:
        super().__init__()
        self.class_name, self.source = class_name, source

    def __reduce__(self) -> Any:
        state = {name: value for name, value in self.__dict__.items() if name not in ("class_name", "source")}
        return persistent(self.class_name, state, self.source)


class Plain:
    """A public object that is no module."""

    def __init__(self, class_name: str, **state: Any) -> None:
        self.class_name, self.state = class_name, state

    def __reduce__(self) -> Any:
        return persistent(self.class_name, self.state, SOURCE)


def persistent(class_name: str, state: Mapping[str, Any], source: str) -> Any:
    meta = {"type": "class", "version": 6, "module_src": source, "class_name": class_name, "state": dict(state)}
    return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)


@contextmanager
def public_modules() -> Iterator[None]:
    """The public code's module names, for as long as something is pickled."""
    made = {name: types.ModuleType(name) for name in ("torch_utils", "torch_utils.persistence", "omegaconf", *_OMEGA)}
    made |= {name: types.ModuleType(name) for name in ("dnnlib", "dnnlib.util")}
    made["dnnlib.util"].EasyDict = _class("dnnlib.util", "EasyDict", dict)  # type: ignore[attr-defined]
    function = types.FunctionType(_reconstruct_persistent_obj.__code__, {}, "_reconstruct_persistent_obj")
    function.__module__ = "torch_utils.persistence"
    made["torch_utils.persistence"]._reconstruct_persistent_obj = function  # type: ignore[attr-defined]
    for module, names in _OMEGA.items():
        for name in names:
            setattr(made[module], name, _class(module, name))
    before = {name: sys.modules.get(name) for name in made}
    sys.modules.update(made)
    try:
        yield
    finally:
        for name, module in before.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module


def omega(value: Any, parent: Any = None) -> Any:
    """A value as the launcher's configuration holds it: every container and leaf a node that knows its parent."""
    name = {dict: "dictconfig.DictConfig", list: "listconfig.ListConfig", tuple: "listconfig.ListConfig"}
    module, cls = name.get(type(value), "nodes.AnyNode").split(".")
    node = getattr(sys.modules[f"omegaconf.{module}"], cls)()
    meta = getattr(sys.modules["omegaconf.base"], "Metadata" if cls == "AnyNode" else "ContainerMetadata")()
    holds = type(value) if isinstance(value, dict | list) else None
    meta.__dict__ |= {"ref_type": Any, "object_type": holds, "optional": True, "key": None, "flags": {}}
    meta.__dict__ |= {"resolver_cache": defaultdict(dict), "element_type": Any}
    meta.__dict__ |= {"flags_root": False, "key_type": int if cls == "ListConfig" else Any}
    node.__dict__ |= {"_metadata": meta, "_parent": parent, "_flags_cache": None}
    if isinstance(value, dict):
        node.__dict__["_content"] = {key: omega(item, node) for key, item in value.items()}
    elif isinstance(value, list | tuple):
        node.__dict__["_content"] = [omega(item, node) for item in value]
    else:
        node.__dict__["_val"] = value
    return node


def launched(value: dict[str, Any]) -> Any:
    """As the launcher leaves it: every leaf is an interpolation of another part of the whole configuration."""
    told: dict[str, Any] = {}

    def leaf(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: leaf(inner) for key, inner in item.items()}
        told[f"v{len(told)}"] = item
        return f"${{spec.told.v{len(told) - 1}}}"

    # a leaf may refer to a leaf that refers to another one
    root = omega({"model": {"kwargs": leaf(value)}, "spec": {"told": "${base}"}, "base": told})
    return root._content["model"]._content["kwargs"]


def launched_leaves(value: dict[str, Any]) -> Any:
    """The same leaves in plain attribute dicts: the containers' nodes are only recorded as parents."""

    def unwrap(node: Any) -> Any:
        content = node.__dict__.get("_content")
        return {key: unwrap(item) for key, item in content.items()} if isinstance(content, dict) else node

    return easy(unwrap(launched(value)))


def easy(value: Any) -> Any:
    """Nested mappings as the attribute dicts of the StyleGAN family."""
    if not isinstance(value, dict):
        return value
    return sys.modules["dnnlib.util"].EasyDict({key: easy(item) for key, item in value.items()})


def network(state: Mapping[str, Tensor], class_name: str = "Generator") -> Module:
    """A tree of stand-ins that holds ``state`` under its names."""
    root = Module(class_name)
    root.weight_gain = np.float64(0.125)
    for name, value in state.items():
        *path, leaf = name.split(".")
        here: nn.Module = root
        for i, part in enumerate(path):
            if part not in here._modules:
                below = path[i + 1 : i + 2]
                listed = bool(below) and below[0].isdigit()
                kind = nn.Sequential if part == "adapter" else nn.ModuleList
                here.add_module(part, kind() if listed else Module("Style2Layer" if i > 1 else "Part", OTHER_SOURCE))
            here = here._modules[part]  # type: ignore[assignment]
        if leaf in ("resample_filter", "w_avg", "alpha"):
            here.register_buffer(leaf, value)
        else:
            here.register_parameter(leaf, nn.Parameter(value, requires_grad=False))
    return root.eval()


def generator(
    kwargs: dict[str, Any], state: Mapping[str, Tensor], *, args: tuple[Any, ...] = (), form: Any = dict
) -> Module:
    """A public generator; ``form`` wraps the nested arguments (inside :func:`public_modules`)."""
    g = network(state)
    wrapped = {key: form(value) if isinstance(value, dict) else value for key, value in kwargs.items()}
    g._init_args, g._init_kwargs = args, wrapped
    synthesis = g._modules.get("synthesis")
    if isinstance(synthesis, nn.Module):
        camera = Plain("CameraRay", camera_matrix=torch.eye(4)[None], resolution_vol=16)
        synthesis.C, synthesis.V = camera, Plain("VolumeRenderer", C=camera)
    return g


def contents(g: Any, **changes: Any) -> dict[str, Any]:
    """The mapping that the public training loop writes."""
    training = {"class_name": "training.dataset.ImageFolderDataset", "path": "data.zip", "use_labels": False}
    d = network({"b4.out.weight": torch.ones(1, 2), "b4.out.bias": torch.zeros(1)}, "Discriminator")
    d.curr_status = 64
    d._init_args, d._init_kwargs = (), {"img_resolution": 64}
    return {"training_set_kwargs": training, "G": g, "D": d, "G_ema": g, "augment_pipe": None} | changes


def write_snapshot(path: Path, value: Any, protocol: int = 4) -> Path:
    """Pickle ``value`` inside :func:`public_modules`."""
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


# Streams by hand: what no honest pickler writes.

STOP = b"."


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def named(module: str, name: str) -> bytes:
    """STACK_GLOBAL."""
    return text(module) + text(name) + b"\x93"


def call(module: str, name: str, *args: bytes) -> bytes:
    """REDUCE with arguments that are streams themselves."""
    return named(module, name) + b"(" + b"".join(args) + b"tR"


def raw(value: Any) -> bytes:
    """Plain data as a stream without its frame and end."""
    body = pickle.dumps(value, protocol=3)
    return body[2:-1]


def stream(*parts: bytes) -> bytes:
    """A whole snapshot-like pickle: {"G_ema": parts}."""
    return b"\x80\x04}" + text("G_ema") + b"".join(parts) + b"s" + STOP


def blob(
    values: Tensor, *, magic: int = 0x1950A86A20F9469CFC6C, version: int = 1001, little: Any = True, kind: str = "",
    numel: int | None = None, counted: int | None = None, keys: tuple[str, ...] = ("1",), tail: bytes = b"",
) -> bytes:  # fmt: skip
    """A storage as torch's older form writes it, any part of it wrong."""
    names = {torch.float32: "FloatStorage", torch.float16: "HalfStorage", torch.float64: "DoubleStorage"}
    count = values.numel() if numel is None else numel
    name = f"ctorch\n{kind or names[values.dtype]}\n".encode()
    described = b"(" + raw("storage") + name + raw("1") + raw("cpu") + raw(count) + b"NtQ"
    pickles = [raw(magic), raw(version), raw({"little_endian": little}), described, raw(list(keys))]
    head = b"".join(b"\x80\x02" + part + STOP for part in pickles)
    return head + struct.pack("<q", count if counted is None else counted) + values.numpy().tobytes() + tail


def tensor(
    storage: bytes, offset: Any = 0, size: Any = (2,), stride: Any = (1,), hooks: bytes | None = None
) -> bytes:  # fmt: skip
    """_rebuild_tensor_v2 around a blob."""
    loaded = call("torch.storage", "_load_from_bytes", b"B" + struct.pack("<I", len(storage)) + storage)
    end = call("collections", "OrderedDict") if hooks is None else hooks
    return call("torch._utils", "_rebuild_tensor_v2", loaded, raw(offset), raw(size), raw(stride), b"\x89", end)


def mapping(parts: Mapping[str, bytes]) -> bytes:
    """A dict whose values are streams."""
    return b"}(" + b"".join(text(name) + part for name, part in parts.items()) + b"u"


def persistent_stream(state: bytes, class_name: str = "Generator", **changes: bytes) -> bytes:
    meta = {"type": raw("class"), "version": raw(6), "module_src": raw("pass"), "class_name": raw(class_name)}
    return call("torch_utils.persistence", "_reconstruct_persistent_obj", mapping({**meta, "state": state, **changes}))


def module_stream(
    parameters: Mapping[str, bytes] | bytes = b"}", modules: Mapping[str, bytes] | bytes = b"}", **more: bytes
) -> bytes:
    """A persistent module whose parts are streams."""
    parts = {"_parameters": parameters, "_buffers": b"}", "_modules": modules, "_init_args": b")", "_init_kwargs": b"}"}
    made = {name: part if isinstance(part, bytes) else mapping(part) for name, part in parts.items()}
    return persistent_stream(mapping(made | more))
