"""What is said in one line."""

import errno
import os

import pytest

from stylenerf.engine.errors import UserError, one_line, os_errors, os_reason, remark_once, short


def test_one_line() -> None:
    assert one_line("a\n  b\tc ") == "a b c"
    assert one_line(EOFError()) == "EOFError"


def test_reason_of_the_system() -> None:
    assert os_reason(FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "x")) == "No such file or directory"
    assert os_reason(OSError("of\nour own")) == "of our own"
    with pytest.raises(UserError, match=r"^there: cannot write here: No space left on device$"), os_errors("there"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_remark_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        remark_once("said in test_errors")
    assert capsys.readouterr().err == "said in test_errors\n"


def test_short() -> None:
    assert [short(None), short("a"), short([1, 2])] == ["null", "'a'", "[1, 2]"]
    assert short("x" * 78) == f"'{'x' * 78}'"
    assert short("x" * 79) == f"'{'x' * 76}..."
