"""OmegaConf's interpolations, ``${a.b}``: looked up among the recorded nodes, nothing evaluated.

A node records its parent, so a path is followed from the root, or with leading dots from a container above the node.
Custom resolvers (``${oc.env:HOME}``) find no key and stay unresolved.
"""

import re
from collections.abc import Callable

from .objects import Record

PLACE = re.compile(r"\$\{([^${}]*)\}")
ABSENT = object()
MISSING = "???"  # a value that the configuration demands and nobody gave


class Unresolved(str):
    """The text of an interpolation whose value the file does not tell."""


def node_value(value: object) -> object:
    """Content of a node; ABSENT for anything else."""
    if isinstance(value, Record) and value.name.startswith("omegaconf.") and value.state is not None:
        for key in ("_content", "_val"):  # not _parent, which leads to the whole training configuration
            if key in value.state:
                return value.state[key]
    return ABSENT


def lookup(path: str, node: object, spend: Callable[[int], None], depth: int) -> object:
    """The value of ``path``, the inside of ``${...}``, at ``node``: a node or plain data, or ABSENT.

    ``spend`` is called with ``depth`` for every step, and raises once they are too many.
    """
    path = path.strip()
    names = path.lstrip(".")
    here = node if isinstance(node_value(node), dict | list | tuple) else _parent(node)
    if names != path:
        for _ in range(len(path) - len(names) - 1):
            spend(depth)
            here = _parent(here)
    else:
        while isinstance(parent := _parent(here), Record):
            spend(depth)
            here = parent
    for name in re.split(r"\.|(?=\[)", names):
        spend(depth)
        here = _child(here, name, spend, depth + 1)
    return here


def _parent(node: object) -> object:
    return node.state.get("_parent", ABSENT) if isinstance(node, Record) and node.state is not None else ABSENT


def _child(container: object, name: str, spend: Callable[[int], None], depth: int) -> object:
    content = container
    while isinstance(content, Record):
        spend(depth)
        node, content = content, node_value(content)
        if type(content) is str:  # a container may itself be an interpolation
            whole = PLACE.fullmatch(content)
            content = lookup(whole[1], node, spend, depth + 1) if whole else ABSENT
            depth += 1
    key = name[1:-1] if re.fullmatch(r"\[.*\]", name) else name
    if isinstance(content, dict):
        return content.get(key, ABSENT)
    if isinstance(content, list | tuple) and re.fullmatch(r"[0-9]{1,6}", key) and int(key) < len(content):
        return content[int(key)]
    return ABSENT
