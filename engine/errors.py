"""User errors: one clear line, no traceback; one-line texts of other errors."""

import contextlib
import functools
import sys
from collections.abc import Iterator
from pathlib import Path

_MAX_SHOWN = 80


class UserError(Exception):
    """Bad input of any kind. The message names the argument, the wanted and the given value; exit code 2."""


def one_line(error: object) -> str:
    """Message of an error, or its type if the message is empty, with all white space collapsed to single blanks."""
    return " ".join(str(error).split()) or type(error).__name__


def os_reason(error: OSError) -> str:
    """The system's reason, without the error's number and path."""
    return error.strerror or one_line(error)


def short(value: object) -> str:
    """A value as messages show it: None as YAML's null, else its repr, of a long one the beginning."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


@contextlib.contextmanager
def os_errors(path: str | Path, what: str = "cannot write here") -> Iterator[None]:
    """Turn an OSError into a UserError that names ``path``."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: {what}: {os_reason(error)}") from error


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


remark_once = functools.cache(to_stderr)
