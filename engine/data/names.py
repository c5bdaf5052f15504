"""One spelling for the names of files, whoever wrote them.

Windows separates folders with a backslash, macOS stores accents decomposed (NFD), and most other systems composed
(NFC). Names of files, members of archives and keys of label files are compared in one form: '/', NFC.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from posixpath import normpath


def plain_name(name: str) -> str:
    """``name`` with '/' between the parts, without '.' parts, accents composed. Applied twice, it changes nothing."""
    return unicodedata.normalize("NFC", normpath(name.replace("\\", "/")))


def is_content(name: str) -> bool:
    """Whether a plain name is neither hidden nor part of macOS's ``__MACOSX``."""
    parts = name.split("/")
    return "__MACOSX" not in parts and not any(part.startswith(".") for part in parts)


def stored_names(names: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """The plain forms of ``names``, sorted, without hidden files; and plain form -> stored name where they differ.

    Of two files with one plain form, the one that is stored in that form has it, and the other keeps its own name.
    """
    plain: set[str] = set()
    stored: dict[str, str] = {}
    for name in sorted(set(names), key=lambda name: (plain_name(name) != name, name)):
        form = plain_name(name)
        if not is_content(form):
            continue
        if form in plain:
            form = name
        plain.add(form)
        if form != name:
            stored[form] = name
    return sorted(plain), stored
