"""Describes a snapshot in readable lines; everything that comes from the file is escaped and cut to length."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ...errors import UserError
from .modules import arguments_of, tensors_of
from .objects import Persistent, Record, TensorRecord
from .refusals import Refused, kind, shown
from .snapshot import Snapshot

if TYPE_CHECKING:
    from .generator import Converted

MAX_LINES = 400  # per list
MAX_OBJECTS = 50
MAX_VISITED = 500_000


def describe(snapshot: Snapshot, which: str = "G_ema") -> Iterator[str]:
    """Globals and what is refused; objects, sources, arguments and tensors of one network; what would become of it."""
    yield f"snapshot:    {snapshot.path}"
    yield f"             {snapshot.size_bytes} bytes, pickle protocol {snapshot.protocol}, SHA-256 {snapshot.sha256}"
    yield ""
    yield "globals (named in the file, never imported):"
    yield from _cut(f"    {count:6d}  {_plain_text(name)}" for name, count in sorted(snapshot.globals_named.items()))
    yield ""
    if snapshot.refused:
        yield "refused:"
        reasons = ((count, reason.removeprefix("refused ")) for reason, count in snapshot.refused.items())
        yield from _cut(f"    {count:6d}  {reason}" for count, reason in reasons)
        yield "    so this file would not be converted"
        return
    yield "objects:"
    objects = (f"    {_plain_text(name):22s} {_object(value)}" for name, value in snapshot.objects.items())
    yield from _cut(objects, MAX_OBJECTS)
    yield ""
    yield "module sources (data, never compiled):"
    yield from _cut(_sources(snapshot))
    yield ""
    network = snapshot.objects.get(which)
    if isinstance(network, Persistent):
        yield from _network(which, network)
    yield "refused:"
    yield "    nothing in the file"
    yield ""
    from .generator import convert_network  # imports torch, which nothing before needs

    try:
        yield from summary(convert_network(snapshot, which))
    except UserError as error:
        yield f"not convertible: {error}"


def summary(converted: Converted) -> list[str]:
    """The converted model in a few lines."""
    generator, prior = converted.generator, converted.prior
    cfg, alpha = generator.cfg, float(generator.synthesis.alpha)
    numbers = sum(p.numel() for p in generator.parameters())
    samples = generator.synthesis.default_samples or cfg.field.render_samples or cfg.field.samples
    unit = "rad" if prior.angular else "of a turn"
    yaw, pitch, radius = (f"{low:.4g} to {high:.4g}" for low, high in (prior.yaw, prior.pitch, prior.radius))
    lines = [
        f"generator:   {cfg.resolution} px from a {cfg.volume_resolution} px volume, {numbers / 1e6:.2f} M parameters",
        f"             z {cfg.z_dim}, w {cfg.w_dim}, labels {cfg.label_dim}, background {cfg.background.kind}, "
        f"upsampling {cfg.upsampler.mode}",
        f"             {samples} samples per ray and pass, growth {'complete' if alpha == 1 else f'at {alpha:.4g}'}",
        f"camera:      {prior.distribution}, yaw {yaw}, pitch {pitch} {unit}, radius {radius}, "
        f"view {prior.fov_deg:g} deg",
    ]
    if converted.completed:
        told = ", ".join(f"{name} {_plain_text(str(value))}" for name, value in converted.completed.items())
        lines.append(f"completed:   {told} (not among the arguments, read off the network)")
    return lines


def _cut(lines: Iterator[str], most: int = MAX_LINES) -> Iterator[str]:
    for i, line in enumerate(lines):
        if i == most:
            yield f"    ... (only the first {most} are shown)"
            return
        yield line


def _plain_text(text: str) -> str:
    return shown(text)[1:-1]


def _object(value: object) -> str:
    """One line about a top-level object."""
    if isinstance(value, Persistent):
        try:
            tensors = tensors_of(value)
        except Refused as error:
            return f"{_plain_text(value.class_name)}, {error}"
        return f"{_plain_text(value.class_name)}, {len(tensors)} tensors, {_millions(tensors)}"
    if isinstance(value, dict | list | tuple):
        return f"{type(value).__name__} of {len(value)}"
    return _value(value)


def _millions(tensors: dict[str, TensorRecord]) -> str:
    return f"{sum(record.numel for record in tensors.values()) / 1e6:.3f} M numbers"


def _value(value: object) -> str:
    return _plain_text(str(value)) if value is None or type(value) in (bool, int, float, str) else kind(value)


def _network(which: str, network: Persistent) -> Iterator[str]:
    yield f"arguments of {which}:"
    try:
        args, kwargs = arguments_of(network)
        yield from _cut(f"    {name}: {text}" for name, text in _leaves([*args, kwargs] if args else kwargs, ""))
    except Refused as error:
        yield f"    {error}"
    yield ""
    yield f"tensors of {which}:"
    try:
        tensors = tensors_of(network)
        yield from _cut(_tensor(name, record) for name, record in tensors.items())
        yield f"    {len(tensors)} tensors, {_millions(tensors)}"
    except Refused as error:
        yield f"    {error}"
    yield ""


def _tensor(name: str, record: TensorRecord) -> str:
    shape = "x".join(map(str, record.shape)) or "scalar"
    return f"    {_plain_text(name):56s} {record.storage.dtype.name:9s} {shape:16s} {record.numel}"


def _leaves(value: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """(dotted name, text) of plain data that is no deeper than arguments may be."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{prefix}.{_plain_text(key)}" if prefix else _plain_text(key))
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for i, item in enumerate(value):
            yield from _leaves(item, f"{prefix}[{i}]")
    else:
        yield prefix, _plain_text(str(value)) if not isinstance(value, str) else shown(value)


def _sources(snapshot: Snapshot) -> Iterator[str]:
    """Each source text once, with the classes that came with it."""
    classes: dict[str, set[str]] = {}
    for item in _persistent(snapshot.objects):
        classes.setdefault(item.source, set()).add(_plain_text(item.class_name))
    for source, names in classes.items():
        digest = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
        yield f"    {len(source):7d} characters, SHA-256 {digest}"
        some = sorted(names)[:20]
        yield f"            {', '.join(some)}{', ...' if len(names) > len(some) else ''}"


def _persistent(root: object) -> Iterator[Persistent]:
    """Every persistent object that can be reached, each once."""
    waiting, seen = [root], set[int]()
    while waiting and len(seen) < MAX_VISITED:
        value = waiting.pop()
        if id(value) in seen:
            continue
        if isinstance(value, Persistent | Record | dict | list | tuple):
            seen.add(id(value))
        if isinstance(value, Persistent):
            yield value
        if isinstance(value, Persistent | Record):
            waiting.append(value.state)
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(value)
