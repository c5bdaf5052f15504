"""What stands between a command and the shell: one-line errors, exit codes, orderly interruption."""

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from ..errors import UserError, one_line, os_reason

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141  # what a shell shows for a program that SIGPIPE ended

_STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_NOTICE = b"\ninterrupted: finishing this round, then saving (once more to stop at once)\n"


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


class Interrupt:
    """Context manager: the first SIGINT or SIGTERM sets ``requested``, the second raises KeyboardInterrupt.

    A training loop asks ``requested`` after each step, writes its checkpoint and then raises KeyboardInterrupt itself,
    so that the command ends with 130 either way. The handlers that stood before come back on exit. Outside the main
    thread, which no signal reaches, nothing is installed.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self._requested = False
        self._owner = 0
        self._before: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        return self._requested

    def __enter__(self) -> "Interrupt":
        self._owner, self._requested = os.getpid(), False
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in self.SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            # None: it was installed from C and cannot be put back from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            self._handle_in_child(number)
        elif self._requested:
            raise KeyboardInterrupt
        else:
            self._requested = True
            with contextlib.suppress(OSError):
                os.write(2, _NOTICE)  # print() may be what the signal interrupted, and it is not reentrant

    def _handle_in_child(self, number: int) -> None:
        """A forked worker inherits this handler: Ctrl-C is its parent's business, SIGTERM has to end it."""
        if number == signal.SIGTERM:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


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
