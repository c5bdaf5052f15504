"""The compile table: its rows, and that AMD's targets compile what CUDA's fast sine is in."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytest.importorskip("triton")

from bench.compiler import amd, table

PAGE = (
    f"before\n{table.BEGIN}\n| target | kernels |\n| --- | ---: |\n| gfx942 | 5 |\n| sm_80 | 7 |\n{table.END}\nafter\n"
)
METADATA = """
    .private_segment_fixed_size: {private}
    .sgpr_count:     52
    .sgpr_spill_count: {scalars}
    .vgpr_count:     64
    .vgpr_spill_count: {vectors}
"""


def test_rows_of_other_targets_stay() -> None:
    page = table.updated(PAGE, [("sm_80", "8"), ("sm_90", "9")])
    rows = [line for line in page.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert rows == ["| sm_80 | 8 |", "| sm_90 | 9 |", "| gfx942 | 5 |"]
    assert page.startswith("before\n") and page.endswith("\nafter\n")
    assert table.updated(page, []) == page


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="wanted the marks"):
        table.updated("nothing", [])


def test_every_kernel_of_the_page_compiles() -> None:
    text = table.PAGE.read_text().partition(table.BEGIN)[2].partition(table.END)[0]
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in text.splitlines() if line.startswith("| ")][2:]
    assert [row[0] for row in rows] == [target for target in table.TARGETS if target in {row[0] for row in rows}]
    assert rows and all(kernels == compiled for _, kernels, compiled in rows)


def test_only_some_kernels_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        table.main(["--only", "encode"])
    assert "add --print" in capsys.readouterr().err


FAULTS = {
    "none": ({"private": 0, "scalars": 0, "vectors": 0}, 65536, 0),
    "spilled": ({"private": 0, "scalars": 1, "vectors": 0}, 0, 1),
    "an array": ({"private": 16, "scalars": 0, "vectors": 0}, 0, 1),
    "too much shared, spilled": ({"private": 4, "scalars": 0, "vectors": 1}, 65537, 2),
}


@pytest.mark.parametrize(("fields", "shared", "count"), FAULTS.values(), ids=FAULTS)
def test_reads_amd_metadata(fields: dict[str, int], shared: int, count: int) -> None:
    report = amd.parse("_kernel", METADATA.format(**fields), shared)
    assert report.registers == 64
    assert len(report.problems) == count


def test_refuses_assembly_without_metadata() -> None:
    with pytest.raises(ValueError, match="has no"):
        amd.parse("_kernel", "s_endpgm", 0)


@pytest.mark.slow
@pytest.mark.parametrize("target", amd.WAVE)
def test_the_sine_has_a_form_for_amd(target: str) -> None:
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "bench.compiler.table", "--print", "--target", target, "--only", "encode/"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"| {target} | 2 | 2 | 0 | 0 |" in done.stdout
