"""Statistics file, accumulator, progress line, peak memory."""

import errno
import io
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from stylenerf.engine.errors import UserError
from stylenerf.engine.training.stats import Accumulator, ProgressBar, StatsWriter, peak_memory_mib, read_stats


def row(images: int) -> dict[str, Any]:
    return {"Progress/images": images, "Loss/g": images / 7, "Time/step_ms": 1.0}


def written(path: Path, *counts: int) -> StatsWriter:
    writer = StatsWriter(path)
    for images in counts:
        writer.write(row(images))
    writer.flush()
    return writer


def counts(path: Path) -> list[int]:
    return [r["Progress/images"] for r in read_stats(path)]


def test_rows_are_exact_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "run" / "stats.jsonl"
    with StatsWriter(path) as writer:
        writer.write({"Progress/images": 3, "Loss/g": 0.1, "Run/note": "é\n", "Run/none": None})
        assert not path.exists()
    assert path.read_bytes().count(b"\n") == 1
    assert read_stats(path) == [
        {"Progress/images": 3, "Loss/g": 0.1, "Run/note": "é\n", "Run/none": None, "Stats/nonfinite_values": 0}
    ]
    written(path, 4)
    assert counts(path) == [3, 4]


def test_nonfinite_values_become_null_and_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl"
    with StatsWriter(path) as writer:
        writer.write({"Loss/g": float("nan"), "Loss/d": float("inf"), "Loss/r1": -float("inf"), "Loss/pl": 1.0})
        writer.write({"Loss/g": 2.0})

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]
    assert lines == [
        {"Loss/g": None, "Loss/d": None, "Loss/r1": None, "Loss/pl": 1.0, "Stats/nonfinite_values": 3},
        {"Loss/g": 2.0, "Stats/nonfinite_values": 0},
    ]


@pytest.mark.parametrize("key", ["loss", "Loss", "loss/g", "Loss/g/fake", "Loss/", "/g", "Loss/g loss"])
def test_key_must_have_a_group_and_a_name(key: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"key must look like Group/name_unit, got '{key}'"):
        StatsWriter(tmp_path / "stats.jsonl").write({key: 1.0})


def test_value_must_be_plain(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="Loss/g must be a number, a string or None, got Tensor"):
        StatsWriter(tmp_path / "stats.jsonl").write({"Loss/g": torch.ones(())})  # type: ignore[dict-item]


def test_flush_syncs_once_and_only_when_there_is_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    path = tmp_path / "stats.jsonl"
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(path.read_bytes()))
    writer = written(path, 1, 2)
    writer.flush()
    assert [s.count(b"\n") for s in synced] == [2]


TAILS = {
    "whole": (b"", [1, 2]),
    "cut_row": (b'{"Progress/images": 3, "Lo', [1, 2]),
    "cut_number": (b'{"Progress/images": 3', [1, 2]),
    "cut_inside_a_letter": (b'{"Run/note": "\xc3', [1, 2]),
    "zeros": (b"\0" * 50, [1, 2]),
    "only_the_line_break_is_missing": (b'{"Progress/images": 3}', [1, 2, 3]),
}


@pytest.mark.parametrize("case", TAILS)
def test_half_written_last_line(case: str, tmp_path: Path) -> None:
    tail, kept = TAILS[case]
    path = tmp_path / "stats.jsonl"
    written(path, 1, 2)
    path.write_bytes(path.read_bytes() + tail)
    assert counts(path) == kept
    written(path, 9)
    assert counts(path) == [*kept, 9]
    assert path.read_bytes().count(b"\n") == len(kept) + 1


def test_bad_line_elsewhere_is_named(tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl"
    path.write_text('{"Progress/images": 1}\nnonsense\n{"Progress/images": 2}\n')
    with pytest.raises(UserError, match=r"stats\.jsonl, line 2: wanted a JSON object, got b'nonsense'"):
        read_stats(path)
    with pytest.raises(UserError, match=r"none: wanted a statistics file, got: No such file"):
        read_stats(tmp_path / "none")


@pytest.mark.parametrize(("images", "kept"), [(0, []), (1, [1]), (2, [1, 2]), (5, [1, 2, 3])])
def test_truncate_after(images: int, kept: list[int], tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl"
    writer = written(path, 1, 2, 3)
    path.write_bytes(path.read_bytes() + b'{"Progress/im')
    writer.truncate_after(images)
    assert counts(path) == kept
    written(path, 9)
    assert counts(path) == [*kept, 9]
    assert os.listdir(tmp_path) == ["stats.jsonl"]


def test_truncate_after_without_a_file(tmp_path: Path) -> None:
    StatsWriter(tmp_path / "stats.jsonl").truncate_after(3)
    assert os.listdir(tmp_path) == []


def test_truncate_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "stats.jsonl"
    writer = written(path, 1, 2, 3)
    before = path.read_bytes()

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"stats\.jsonl: wanted a file that can be written, got No space left"):
        writer.truncate_after(1)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["stats.jsonl"]


def test_resumed_file_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    """Killed after 5 rows and half a line, resumed from the checkpoint at 3."""
    whole, resumed = tmp_path / "whole.jsonl", tmp_path / "resumed.jsonl"
    written(whole, 1, 2, 3, 4, 5, 6)
    written(resumed, 1, 2, 3, 4, 5)
    with open(resumed, "ab") as file:
        file.write(b'{"Progress/images": 6, "Lo')
    writer = StatsWriter(resumed)
    writer.truncate_after(3)
    for images in (4, 5, 6):
        writer.write(row(images))
    writer.flush()
    assert resumed.read_bytes() == whole.read_bytes()


def test_failed_flush_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "stats.jsonl"
    writer = written(path, 1)
    before = path.read_bytes()
    writer.write(row(2))

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=r"stats\.jsonl: cannot write statistics: No space left on device"):
            writer.flush()
    assert path.read_bytes() == before
    writer.flush()
    assert counts(path) == [1, 2]


def test_write_that_the_kernel_cuts_short(tmp_path: Path) -> None:
    """A real limit on the size of a file: a part of the rows is written, then the kernel refuses."""
    path = tmp_path / "stats.jsonl"
    writer = written(path, 1)
    before = path.read_bytes()
    for images in range(2, 30):
        writer.write(row(images))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot write statistics: File too large"):
            writer.flush()
        assert path.read_bytes() == before
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    writer.flush()
    assert counts(path) == list(range(1, 30))


def test_unwritable_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"file/stats\.jsonl: cannot write statistics: (Not a directory|File exists)"):
        StatsWriter(tmp_path / "file" / "stats.jsonl")


def test_accumulator_takes_means() -> None:
    means = Accumulator()
    for value in (1, 2.0, torch.tensor(6.0), torch.tensor([[3]], dtype=torch.int64)):
        means.add("Loss/g", value)
    means.add("Loss/d", torch.tensor(0.5, dtype=torch.float16))
    assert means.summarise() == {"Loss/g": 3.0, "Loss/d": 0.5}  # (1 + 2 + 6 + 3) / 4
    means.reset()
    assert means.summarise() == {}


def test_accumulator_keeps_neither_graph_nor_memory_of_the_caller() -> None:
    means = Accumulator()
    weight = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    means.add("Loss/g", weight)
    means.add("Loss/g", weight * 3)
    assert not any(isinstance(s, torch.Tensor) and s.requires_grad for s in means._sums.values())
    with torch.no_grad():
        weight.fill_(100.0)
    assert means.summarise() == {"Loss/g": 4.0}


@pytest.mark.parametrize("values", [[1.0, torch.ones(1)], [torch.ones(()), 1.0]], ids=["number_first", "tensor_first"])
def test_accumulator_does_not_read_tensors_while_adding(
    values: list[float | torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: torch.Tensor) -> None:
        raise AssertionError("a tensor was read")

    means = Accumulator()
    with monkeypatch.context() as patch:
        for name in ("item", "tolist", "__float__", "__bool__", "cpu", "numpy"):
            patch.setattr(torch.Tensor, name, refuse)
        for value in values:
            means.add("Loss/g", value)
    assert means.summarise() == {"Loss/g": 1.0}


def test_accumulator_sums_in_float64() -> None:
    means = Accumulator()
    for value in (1e8, 1.0, -1e8, 1.0):  # in float32, 1e8 + 1 is 1e8
        means.add("Loss/g", torch.tensor(value))
    assert means.summarise() == {"Loss/g": 0.5}


def test_accumulator_refuses_vectors() -> None:
    with pytest.raises(ValueError, match=r"Loss/g must be a scalar, got a tensor of shape \[2\]"):
        Accumulator().add("Loss/g", torch.ones(2))


def test_accumulator_goes_on_bit_for_bit_after_a_reload() -> None:
    values = torch.rand(50, generator=torch.Generator().manual_seed(0))
    through, before, after = Accumulator(), Accumulator(), Accumulator()
    for i in range(50):
        through.add("Loss/g", values[i])
        (before if i < 20 else after).add("Loss/g", values[i])
        if i == 19:
            after.load_state_dict(before.state_dict())
    assert after.state_dict() == through.state_dict()
    assert after.summarise() == through.summarise()


class Screen(io.StringIO):
    def __init__(self, tty: bool) -> None:
        super().__init__()
        self._tty = tty

    def isatty(self) -> bool:
        return self._tty


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_progress_on_a_terminal_redraws_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    screen, clock = Screen(tty=True), Clock()
    with ProgressBar(200, "train", screen, clock=clock) as bar:
        bar.update(10)  # too soon after the start to draw
        assert screen.getvalue() == ""
        clock.now_s += 10
        bar.update(10, postfix="loss 1.5")
        assert screen.getvalue() == "\rtrain:  10% 20/200, 2/s, 0:01:30 left, loss 1.5\x1b[K"
        clock.now_s += 0.05
        bar.update(1)
        assert screen.getvalue().count("\r") == 1
    assert screen.getvalue().endswith("\rtrain:  10% 21/200, 2.09/s, 0:01:26 left, loss 1.5\x1b[K\n")


def test_progress_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    screen, clock = Screen(tty=True), Clock()
    bar = ProgressBar(10, "a" * 50, screen, clock=clock)
    clock.now_s += 1
    bar.update()
    assert screen.getvalue() == "\r" + "a" * 19 + "\x1b[K"


def test_progress_elsewhere_prints_plain_lines_now_and_then() -> None:
    screen, clock = Screen(tty=False), Clock()
    with ProgressBar(100, "train", screen, clock=clock) as bar:
        for _ in range(25):
            clock.now_s += 1
            bar.update(1)
    assert screen.getvalue().splitlines() == [
        "train:  10% 10/100, 1/s, 0:01:30 left",
        "train:  20% 20/100, 1/s, 0:01:20 left",
        "train:  25% 25/100, 1/s, 0:01:15 left",
    ]


def test_progress_does_not_repeat_its_last_line() -> None:
    screen, clock = Screen(tty=False), Clock()
    with ProgressBar(1, "train", screen, clock=clock) as bar:
        clock.now_s += 11
        bar.update(1)
    assert screen.getvalue() == "train: 100% 1/1, 0.09091/s, 0:00:00 left\n"


def test_progress_of_a_resumed_run_counts_only_its_own_rate() -> None:
    clock = Clock()
    bar = ProgressBar(10_000, "train", Screen(tty=False), initial=9_000, clock=clock)
    clock.now_s += 10
    bar.update(100)
    assert bar.line() == "train:  91% 9100/10000, 10/s, 0:01:30 left"


def test_progress_without_a_rate_or_a_total() -> None:
    assert ProgressBar(5, "a", Screen(tty=False), clock=Clock()).line() == "a:   0% 0/5, 0/s, ? left"
    assert ProgressBar(0, "a", Screen(tty=False), clock=Clock()).line() == "a: 0, 0/s"


def test_progress_disabled_is_silent() -> None:
    screen, clock = Screen(tty=True), Clock()
    with ProgressBar(5, "a", screen, enabled=False, clock=clock) as bar:
        clock.now_s += 100
        bar.update(3)
    assert screen.getvalue() == ""
    assert bar.count == 3


def test_progress_goes_to_stderr_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar(1, "a") as bar:
        bar.update()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("a: 100% 1/1")


def test_progress_survives_a_closed_terminal() -> None:
    screen, clock = Screen(tty=False), Clock()
    with ProgressBar(5, "a", screen, clock=clock) as bar:
        screen.close()
        clock.now_s += 100
        bar.update(5)
    assert bar.count == 5


@pytest.mark.skipif(sys.platform != "linux", reason="compares with /proc")
def test_peak_memory_counts_mib() -> None:
    status = Path("/proc/self/status").read_text()
    (high_water_kib,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    # A process started by a larger one begins with its parent's peak, hence no tight upper bound.
    assert 0.9 < (peak_memory_mib() or 0) / (high_water_kib / 1024) < 50


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_peak_memory_of_a_gpu() -> None:
    torch.cuda.reset_peak_memory_stats()
    block = torch.zeros(8 << 20, dtype=torch.float32, device="cuda")  # 8 Mi elements of 4 bytes
    assert 32 <= (peak_memory_mib(block.device) or 0) < 32 + 512
