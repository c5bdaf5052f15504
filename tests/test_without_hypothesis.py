"""Without hypothesis its tests are skipped with that reason, and all others run."""

import subprocess
import sys

import pytest

from tests import without_hypothesis
from tests.conftest import ROOT

ABSENT = """\
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hypothesis":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import pytest
sys.exit(pytest.main(["-p", "no:hypothesispytest", "-p", "no:cacheprovider", "-q", *sys.argv[1:]]))
"""


@pytest.mark.slow
def test_tests_run_without_it() -> None:
    asked = [sys.executable, "-c", ABSENT, "tests/test_modulated_conv.py"]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hypothesis is not installed" in done.stdout and "passed" in done.stdout


def test_strategies_of_any_shape_can_be_built() -> None:
    st = without_hypothesis.Anything()
    assert isinstance(st.lists(st.integers(0, 3) | st.none(), min_size=1).map(len), without_hypothesis.Anything)
    with pytest.raises(AttributeError):
        st.__wrapped__  # noqa: B018  (what tools look for is not there)


def test_settings_leave_the_test_alone() -> None:
    def test() -> None: ...

    assert without_hypothesis.Settings()(max_examples=3)(test) is test
