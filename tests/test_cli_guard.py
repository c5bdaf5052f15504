"""Exit codes, one-line errors and orderly interruption."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest

from stylenerf.engine.command_line.guard import run_guarded
from stylenerf.engine.errors import UserError
from stylenerf.engine.interrupt import Interrupt
from tests.conftest import ROOT


def raising(error: BaseException) -> Callable[[], NoReturn]:
    def fn() -> NoReturn:
        raise error

    return fn


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_own_code(returned: int | None, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_guarded(lambda: returned) == code
    assert capsys.readouterr() == ("", "")


ENDINGS = {
    "user": (UserError("train.batch: wanted int,\n  got 'x'"), 2, "error: train.batch: wanted int, got 'x'\n"),
    "interrupt": (KeyboardInterrupt(), 130, "interrupted\n"),
    "pipe": (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
    "full": (OSError(errno.ENOSPC, "No space left on device", "a/b"), 2, "error: a/b: No space left on device\n"),
    "full_unnamed": (OSError(errno.ENOSPC, "No space left on device"), 2, "error: No space left on device\n"),
    "quota": (OSError(errno.EDQUOT, "Disk quota exceeded", "a"), 2, "error: a: Disk quota exceeded\n"),
    "read_only": (OSError(errno.EROFS, "Read-only file system", "a"), 2, "error: a: Read-only file system\n"),
    "permission": (PermissionError(errno.EACCES, "Permission denied", "a"), 2, "error: a: Permission denied\n"),
    "permission_bare": (PermissionError("no\nway"), 2, "error: no way\n"),
}


@pytest.mark.parametrize("case", ENDINGS)
def test_ending(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    error, code, text = ENDINGS[case]
    assert run_guarded(raising(error)) == code
    assert capsys.readouterr() == ("", text)


@pytest.mark.parametrize(
    "error", [ValueError("x"), FileNotFoundError(errno.ENOENT, "gone"), SystemExit(5), MemoryError()]
)
def test_everything_else_passes_through(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        run_guarded(raising(error))
    assert caught.value is error


def python(code: str, stdout: int) -> subprocess.Popen[str]:
    # An unbuffered stdout would meet a broken pipe at the print, and hide what happens at the flush.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True)


LOUD = """
import sys
from stylenerf.engine.command_line.guard import run_guarded
from stylenerf.engine.errors import UserError
def loud():
    print("x" * {size})
    {then}
sys.exit(run_guarded(loud))
"""
LOUD_ENDINGS = {
    # Small output meets the failure when it is flushed, large output while it is printed.
    "small": (10, "pass", 141, "", "error: No space left on device\n"),
    "large": (1_000_000, "pass", 141, "", "error: No space left on device\n"),
    "small_then_error": (10, "raise UserError('x')", 2, "error: x\n", "error: x\n"),
}


@pytest.mark.parametrize("case", LOUD_ENDINGS)
def test_reader_that_has_gone_is_no_error(case: str) -> None:
    size, then, code, text, _ = LOUD_ENDINGS[case]
    reader, writer = os.pipe()
    os.close(reader)
    process = python(LOUD.format(size=size, then=then), writer)
    os.close(writer)
    assert process.communicate()[1] == text
    assert process.returncode == code


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, which fails every write")
@pytest.mark.parametrize("case", LOUD_ENDINGS)
def test_full_device_behind_stdout(case: str) -> None:
    size, then, _, _, text = LOUD_ENDINGS[case]
    with open("/dev/full", "w") as full:
        process = python(LOUD.format(size=size, then=then), full.fileno())
    assert process.communicate()[1] == text
    assert process.returncode == 2


@pytest.fixture
def own_handlers() -> Iterator[list[int]]:
    """Handlers that only note the signal, to see that they come back."""
    noted: list[int] = []
    before = {number: signal.signal(number, lambda n, frame: noted.append(n)) for number in Interrupt.SIGNALS}
    yield noted
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0)  # the handler runs between two bytecodes of the main thread


@pytest.mark.parametrize("first", Interrupt.SIGNALS)
@pytest.mark.parametrize("second", Interrupt.SIGNALS)
def test_first_signal_asks_second_insists(
    first: int, second: int, own_handlers: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    with Interrupt() as interrupt:
        assert not interrupt.requested
        send(first)
        assert interrupt.requested
        assert capfd.readouterr().err.count("interrupted: finishing this round, then saving") == 1
        with pytest.raises(KeyboardInterrupt):
            send(second)
    assert own_handlers == []
    send(first)
    assert own_handlers == [first]


def test_handlers_come_back_after_an_exception(own_handlers: list[int]) -> None:
    with pytest.raises(ValueError, match="x"), Interrupt():
        raise ValueError("x")
    send(signal.SIGTERM)
    assert own_handlers == [signal.SIGTERM]


def test_used_again_it_starts_afresh(own_handlers: list[int]) -> None:
    interrupt = Interrupt()
    with interrupt:
        send(signal.SIGINT)
    assert interrupt.requested  # still to be asked after the loop
    with interrupt:
        assert not interrupt.requested


def test_outside_the_main_thread_it_does_nothing(own_handlers: list[int]) -> None:
    seen: list[bool] = []

    def work() -> None:
        with Interrupt() as interrupt:
            seen.append(interrupt.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
    send(signal.SIGINT)
    assert own_handlers == [signal.SIGINT]


# In a process of its own: a fork of the test process would carry torch's threads with it.
WORKER = """
import os, signal, sys
from stylenerf.engine.interrupt import Interrupt
with Interrupt() as interrupt:
    child = os.fork()
    if child == 0:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        print("still here", interrupt.requested, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        print("outlived SIGTERM", flush=True)
        os._exit(0)
    print("ended by", os.waitpid(child, 0)[1], interrupt.requested, flush=True)
"""


def test_forked_worker_ignores_ctrl_c_and_obeys_sigterm() -> None:
    out, err = python(WORKER, subprocess.PIPE).communicate()
    assert out == "still here False\nended by 15 False\n"
    assert err == ""


TRAIN = """
import sys, time
from stylenerf.engine.command_line.guard import run_guarded
from stylenerf.engine.interrupt import Interrupt
def train():
    with Interrupt() as interrupt:
        print("started", flush=True)
        while not interrupt.requested:
            time.sleep(0.01)
        print("checkpoint written", flush=True)
        raise KeyboardInterrupt
sys.exit(run_guarded(train))
"""


@pytest.mark.parametrize("number", Interrupt.SIGNALS)
def test_orderly_end_of_a_command(number: int) -> None:
    process = python(TRAIN, subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert out == "checkpoint written\n"
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    assert process.returncode == 130
