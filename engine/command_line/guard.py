"""The end of a command: one-line errors and exit codes."""

import contextlib
import errno
import os
import sys
from collections.abc import Callable

from ..errors import UserError, one_line, os_reason

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141  # what a shell shows for a program that SIGPIPE ended

_STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def run_guarded(fn: Callable[[], int | None]) -> int:
    """Call ``fn`` and return the exit code of the process.

    ``fn``'s own code (None is 0); 2 and one line on stderr for a UserError, a full disk or a refused permission; 130
    for KeyboardInterrupt; 141, in silence, when the reader of our output has gone. Any other exception is a bug and
    passes through with its traceback.
    """
    write_any_text()
    try:
        code = fn() or 0
        print(end="", flush=True)  # so that a closed pipe is met inside the try and not at interpreter exit
        return code
    except UserError as error:
        return _fail(one_line(error))
    except KeyboardInterrupt:
        _say("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_BROKEN_PIPE
    except OSError as error:
        if isinstance(error, PermissionError) or error.errno in _STORAGE_ERRORS:
            where = f"{error.filename}: " if error.filename else ""
            return _fail(where + os_reason(error))
        raise
    finally:
        _settle_stdout()


def write_any_text() -> None:
    """Let stdout and stderr escape what their encoding has no sign for: output is never an error."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) in ("strict", "surrogateescape") and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _fail(line: str) -> int:
    _say(f"error: {line}")
    return EXIT_USER_ERROR


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # stderr may be the pipe that broke
        print(line, file=sys.stderr, flush=True)


def _settle_stdout() -> None:
    """Point a stdout that cannot be written at nothing: the interpreter flushes it once more and would complain."""
    try:
        print(end="", flush=True)
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())
            os.close(null)
