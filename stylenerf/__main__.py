"""Entry of ``stylenerf``, ``python -m stylenerf`` and ``train.py``: Ctrl-C ends them in one line, whenever it comes."""

import os
import sys

EXIT_INTERRUPTED = 130


def start(entry: str = "main") -> int:
    """Import the command line and call its function ``entry``; returns the exit code of the process."""
    try:
        try:
            from .engine.command_line import main as cli  # not at the top: Ctrl-C may come while it is imported

            code: int = getattr(cli, entry)()
        finally:
            # from here on there is nothing to save, and the interpreter would print a traceback while it shuts down
            import signal

            signal.signal(signal.SIGINT, lambda number, frame: os._exit(EXIT_INTERRUPTED))
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(start())
