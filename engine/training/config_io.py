"""Frozen dataclasses from plain mappings and YAML files, and back; strict, with one-line errors.

A key is written with dots (``train.batch``). Every error names the key, what was wanted and what came. Accepted field
types: bool, int, float, str, None, Literal, nested dataclasses, unions of these, ``tuple[T, ...]``, ``tuple[T, U]`` and
``list[T]``.
"""

import copy
import dataclasses
import difflib
import math
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from ..errors import UserError, one_line, os_reason, short, to_stderr

PRESETS = Path(__file__).parent / "presets"
T = TypeVar("T")
Plain = dict[str, Any]

# YAML 1.1 reads the common spelling `1e-8` (no dot) as text.
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
_SCALAR_NAMES: dict[Any, str] = {bool: "true or false", int: "int", float: "float", str: "string", type(None): "null"}

RENAMED = {"train.public_slips": "match_public_code"}  # old key -> new key, in the same section


def from_dict(cls: type[T], data: object, *, where: str = "config") -> T:
    """Build the dataclass ``cls`` from a mapping, checking every key and type.

    An int serves where a float is wanted, and so does numeric text (``1e-8``); a bool never serves as a number. Floats
    must be finite, since the result is written as JSON. ``where`` is put before each key in errors; it may be empty.

    Raises: UserError naming the dotted key; also for a ValueError raised by a dataclass's ``__post_init__``.
    """
    hints = _field_types(cls)
    if not isinstance(data, Mapping):
        raise _mismatch(where, "a section with the keys " + ", ".join(hints), data)
    for key in data:
        if key not in hints:
            raise _unknown_key(where, key, hints)
    required = {f.name for f in _fields(cls) if _has_no_default(f)}
    for name in hints:
        if name in required and name not in data:
            raise UserError(f"{_join(where, name)}: wanted {_describe(hints[name])}, got nothing")
    values = {key: _convert(value, hints[key], _join(where, key)) for key, value in data.items()}
    try:
        return cls(**values)
    except (ValueError, UserError) as error:
        raise UserError(f"{where}: {one_line(error)}" if where else one_line(error)) from None


def to_dict(cfg: object) -> Plain:
    """The dataclass as nested dicts, lists and scalars that JSON and YAML can write; inverse of ``from_dict``."""
    if not dataclasses.is_dataclass(cfg) or isinstance(cfg, type):
        raise TypeError(f"cfg must be a dataclass instance, got {cfg!r}")
    return {f.name: _plain(getattr(cfg, f.name)) for f in _fields(type(cfg))}


def leaves(data: Mapping[str, Any], where: str = "") -> Plain:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    flat: Plain = {}
    for key, value in data.items():
        name = _join(where, key)
        flat |= leaves(value, name) if isinstance(value, Mapping) else {name: value}
    return flat


def merge(a: Mapping[str, Any], b: Mapping[str, Any]) -> Plain:
    """``a`` overlaid with ``b``: mappings merge key by key, anything else of ``b`` replaces; neither is changed."""
    out = {key: copy.deepcopy(value) for key, value in a.items()}
    for key, value in b.items():
        old = out.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        out[key] = merge(old, value) if both else copy.deepcopy(value)  # type: ignore[arg-type]
    return out


def apply_overrides(data: Mapping[str, Any], overrides: Iterable[str], cls: type) -> Plain:
    """``data`` with each ``a.b=c`` laid over it, the value read as YAML; the path must name a field of ``cls``."""
    out = merge({}, data)
    for override in overrides:
        path, equals, text = override.partition("=")
        names = path.strip().split(".")
        if not equals or not all(names):
            raise _mismatch("--set", "key.name=value", override)
        _check_path(cls, names)
        nested: Any = _parse_yaml(text, f"--set {path.strip()}")
        for name in reversed(names):
            nested = {name: nested}
        out = merge(out, nested)
    return out


def with_present_names(data: Mapping[str, Any], source: object, report: Callable[[str], None] = to_stderr) -> Plain:
    """``data`` with the old keys of :data:`RENAMED` replaced by the new ones; reports each in one line."""
    out = merge({}, data)
    for former, name in RENAMED.items():
        *above, key = former.split(".")
        section: Any = out
        for part in above:
            section = section.get(part) if isinstance(section, dict) else None
        if isinstance(section, dict) and key in section and name not in section:
            section[name] = section.pop(key)
            report(f"{source}: {former} is now called {'.'.join([*above, name])}")
    return out


def read_yaml(path: Path) -> Plain:
    """The mapping in one YAML file (an empty file is an empty mapping); syntax errors name file and line."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: wanted a readable YAML file, got: {os_reason(error)}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: wanted UTF-8 text, got byte {error.object[error.start]:#04x} at {error.start}"
        ) from None
    data = _parse_yaml(text, str(path))
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise _mismatch(str(path), "a mapping at the top level", data)
    return data


def load_file(path: Path, presets_dir: Path) -> Plain:
    """One YAML file laid over the preset that its key ``base`` names, recursively; ``description`` is dropped."""
    return _load_chain(Path(path), Path(presets_dir), ())


def load_preset(cls: type[T], name: str, presets_dir: Path) -> T:
    """The preset ``<presets_dir>/<name>.yaml`` on top of its bases, as a ``cls``."""
    data = load_file(_preset_path(name, Path(presets_dir), "preset"), presets_dir)
    try:
        return from_dict(cls, data, where="")
    except UserError as error:
        raise UserError(f"preset {name}: {error}") from None


def list_presets(presets_dir: Path) -> dict[str, str]:
    """Name → description of every preset in the folder, sorted by name."""
    return {name: _text_key(path, read_yaml(path), "description") or "" for name, path in _presets(presets_dir).items()}


def _fields(cls: Any) -> list[dataclasses.Field[Any]]:
    return [f for f in dataclasses.fields(cls) if f.init]


def _field_types(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in _fields(cls)}


def _has_no_default(f: dataclasses.Field[Any]) -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


def _join(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _mismatch(where: str, wanted: str, got: object) -> UserError:
    return UserError(f"{where or 'config'}: wanted {wanted}, got {short(got)}")


def _unknown_key(where: str, key: object, known: Iterable[str]) -> UserError:
    name = _join(where, key)
    hint = _did_you_mean(RENAMED.get(name, key), known)
    return UserError(f"{name}: unknown key; known here: {', '.join(known)}{hint}")


def _did_you_mean(got: object, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(got), list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _describe(tp: Any) -> str:
    """Accepted values of a field of this type, for error messages."""
    if tp in _SCALAR_NAMES:
        return _SCALAR_NAMES[tp]
    if dataclasses.is_dataclass(tp):
        return "a section with the keys " + ", ".join(f.name for f in _fields(tp))
    origin, args = get_origin(tp), get_args(tp)
    if origin is Literal:
        return ("one of " if len(args) > 1 else "") + ", ".join(short(a) for a in args)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(a) for a in args)
    if origin is list or (origin is tuple and len(args) == 2 and args[1] is Ellipsis):
        return f"list of {_describe(args[0])}"
    if origin is tuple:
        return f"list of {len(args)} ({', '.join(_describe(a) for a in args)})"
    raise TypeError(f"field type {tp!r} is not supported in a configuration")


def _convert(value: Any, tp: Any, key: str) -> Any:
    if dataclasses.is_dataclass(tp) and isinstance(tp, type):
        return from_dict(tp, value, where=key)
    origin, args = get_origin(tp), get_args(tp)
    if origin in (Union, types.UnionType):
        return _convert_union(value, tp, args, key)
    if origin in (list, tuple):
        return _convert_sequence(value, tp, key)
    if origin is Literal:
        # Compare types too: 1 == True and 1 == 1.0, but they are different choices.
        if any(type(value) is type(choice) and value == choice for choice in args):
            return value
    elif tp is float:
        number = _as_float(value)
        if number is not None:
            return number
    elif type(value) is tp:
        return value
    raise _mismatch(key, "a finite float" if _is_nonfinite(value, tp) else _describe(tp), value)


def _as_float(value: object) -> float | None:
    """The finite float that ``value`` stands for, else None."""
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _is_nonfinite(value: object, tp: Any) -> bool:
    return tp is float and isinstance(value, float) and not math.isfinite(value)


def _convert_union(value: Any, tp: Any, args: Sequence[Any], key: str) -> Any:
    # Most unions accept at most one section or list type: its own error says more than the union's.
    fitting = [a for a in args if _is_structure(a, value)]
    if len(fitting) == 1:
        return _convert(value, fitting[0], key)
    # The exact type first, so that 3 stays an int in `float | int`.
    for member in sorted(args, key=lambda a: type(value) is not a):
        try:
            return _convert(value, member, key)
        except UserError:
            continue
    raise _mismatch(key, _describe(tp), value)


def _is_structure(tp: Any, value: object) -> bool:
    if isinstance(value, Mapping):
        return dataclasses.is_dataclass(tp)
    return isinstance(value, list | tuple) and get_origin(tp) in (list, tuple)


def _convert_sequence(value: Any, tp: Any, key: str) -> Any:
    origin, args = get_origin(tp), get_args(tp)
    if not isinstance(value, list | tuple):
        raise _mismatch(key, _describe(tp), value)
    if origin is tuple and args[-1] is not Ellipsis:
        if len(value) != len(args):
            raise _mismatch(key, _describe(tp), value)
        members: Sequence[Any] = args
    else:
        members = [args[0]] * len(value)
    return origin(_convert(item, member, f"{key}[{i}]") for i, (item, member) in enumerate(zip(value, members)))


def _plain(value: object) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a configuration holds plain values, got {value!r}")


def _check_path(cls: type, names: Sequence[str]) -> None:
    """Refuse a path that leads to no field of ``cls``."""
    sections: list[Any] = [cls]
    for i, name in enumerate(names):
        where = ".".join(names[:i])
        if not sections:
            raise UserError(
                f"{'.'.join(names)}: wanted the name of a field, but {where} is a single value, not a section"
            )
        known: dict[str, Any] = {}
        for section in sections:
            known.update(_field_types(section))
        if name not in known:
            raise _unknown_key(where, name, known)
        options = get_args(known[name]) if get_origin(known[name]) in (Union, types.UnionType) else (known[name],)
        sections = [option for option in options if dataclasses.is_dataclass(option)]


def _parse_yaml(text: str, source: str) -> Any:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None:
            _check_nodes(root, source, set())
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise UserError(f"{_at(source, mark)}: wanted valid YAML, got: {one_line(error.problem)}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{source}: wanted valid YAML, got: {one_line(error)}") from None
    except RecursionError:
        raise UserError(f"{source}: wanted a few levels of nesting, got too many") from None
    except (ValueError, KeyError, AttributeError) as error:
        # PyYAML's constructors raise these for a date such as 2024-99-99, `!!bool x`, `!!timestamp x`.
        raise UserError(f"{source}: wanted valid YAML, got a value that cannot be read: {one_line(error)}") from None


def _at(source: str, mark: Any) -> str:
    return source if mark is None else f"{source}, line {mark.line + 1}"


def _check_nodes(node: yaml.Node, source: str, seen: set[int]) -> None:
    """Refuse what safe_load accepts silently: duplicate keys (the last one would win) and aliases.

    Aliases can build circular or exponentially large values; ``base`` does what they are used for.
    """
    if id(node) in seen:
        raise UserError(f"{_at(source, node.start_mark)}: YAML aliases (*name) are not supported, write the value out")
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_nodes(item, source, seen)
    elif isinstance(node, yaml.MappingNode):
        keys: set[tuple[str, str]] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in keys:
                    raise UserError(f"{_at(source, key.start_mark)}: wanted each key once, got {key.value} twice")
                keys.add((key.tag, key.value))
            _check_nodes(key, source, seen)
            _check_nodes(value, source, seen)


def _presets(presets_dir: Path) -> dict[str, Path]:
    folder = Path(presets_dir)
    if not folder.is_dir():
        raise UserError(f"{folder}: wanted a folder of presets, got no such folder")
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _preset_path(name: str, presets_dir: Path, where: str) -> Path:
    known = _presets(presets_dir)
    if name not in known:
        raise UserError(f"{where}: wanted one of {', '.join(known)}, got {name!r}{_did_you_mean(name, known)}")
    return known[name]


def _text_key(path: Path, data: Plain, key: str) -> str | None:
    value = data.get(key)
    if value is not None and not isinstance(value, str):
        raise _mismatch(f"{path}: {key}", "string", value)
    return value


def _load_chain(path: Path, presets_dir: Path, above: tuple[Path, ...]) -> Plain:
    """``path`` laid over its bases; ``above`` is the chain of files that name it as a base, most recent last."""
    data = read_yaml(path)
    chain = (*above, path)
    base, _ = _text_key(path, data, "base"), _text_key(path, data, "description")
    own = with_present_names({k: v for k, v in data.items() if k not in ("base", "description")}, path)
    if base is None:
        return own
    base_path = _preset_path(base, presets_dir, f"{path}: base")
    if base_path.resolve() in {p.resolve() for p in chain}:
        names = " -> ".join(p.stem for p in (*chain, base_path))
        raise UserError(f"{path}: base: wanted presets that do not refer back to themselves, got {names}")
    return merge(_load_chain(base_path, presets_dir, chain), own)
