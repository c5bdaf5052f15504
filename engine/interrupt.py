"""Orderly interruption: the first Ctrl-C asks a loop to save and stop, the second stops it."""

import contextlib
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_NOTICE = b"\ninterrupted: finishing this round, then saving (once more to stop at once)\n"


class Interrupt:
    """Context manager: the first SIGINT or SIGTERM sets ``requested``, the second raises KeyboardInterrupt.

    A training loop checks ``requested`` after each step, writes its checkpoint and raises KeyboardInterrupt itself, so
    that the exit code is 130 either way. The previous handlers are restored on exit. Nothing is installed outside the
    main thread, which alone receives signals.
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
            # None: installed from C, and cannot be restored from Python.
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
                os.write(2, _NOTICE)  # the signal may have interrupted print(), which is not reentrant

    def _handle_in_child(self, number: int) -> None:
        """Handler inherited by a forked worker: Ctrl-C is left to the parent, SIGTERM ends the worker."""
        if number == signal.SIGTERM:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
