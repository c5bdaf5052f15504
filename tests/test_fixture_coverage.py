"""Every array of the reference files is compared by a test, is the input of a comparison, or is excused here."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from importlib import import_module

import pytest

from tests.conftest import FULL_SET, ROOT, load_fixture
from tests.recorded.small_set import SMALL_SET, load_small_set, subset

# the test modules that say what they compare
FILES = sorted(path for path in (ROOT / "tests").glob("test_*.py") if "\nCOMPARED = " in path.read_text())
MODULES = [import_module(f"tests.{path.stem}") for path in FILES]

# read by the tests of the 2-D ops and of training, which name these groups in their own text
ELSEWHERE = {
    "units.npz": {
        "biasact/": "test_bias_act.py",
        "convresample/": "test_conv_resample.py",
        "modconv/": "test_modulated_conv.py",
        "upfirdn/": "test_upfirdn2d.py",
        "upfirdn_helpers/": "test_upfirdn2d.py",
        "setup_filter/": "test_upfirdn2d.py",
        "filter_": "test_upfirdn2d.py",
    },
    "disc_tiny.npz": {"softplus/": "test_train_phases.py"},
    "gen_ffhq_tiny.npz": {},
}
EXCUSED = {
    "*resample_filter": "the constant [1, 3, 3, 1] filter that public modules carry; ours is made, not loaded",
    "z_app_bg": "a code that the public background draws and never reads",
    "meta/seed": "the seed of the file itself",
    "meta/jitter_1ulp_img_err": "a guide to the tolerance, not a result",
}


def declared(file: str) -> list[str]:
    return [pattern for module in MODULES for pattern in module.COMPARED.get(file, [])]


def matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


@pytest.mark.parametrize("file", ELSEWHERE)
def test_every_array_is_accounted_for(file: str) -> None:
    patterns, groups = declared(file), tuple(ELSEWHERE[file])
    left = [n for n in load_fixture(file).names if not n.startswith(groups) and not matches(n, [*patterns, *EXCUSED])]
    assert not left


@pytest.mark.skipif(not FULL_SET.is_dir(), reason="needs the full set of recorded numbers")
def test_the_small_set_is_part_of_the_full_set() -> None:
    small, part = load_small_set(), subset(FULL_SET)
    assert {file: [*arrays] for file, arrays in small.items()} == {file: [*arrays] for file, arrays in part.items()}
    for file, arrays in part.items():
        for name, want in arrays.items():
            got = small[file][name]
            assert (got.dtype, got.shape, got.tobytes()) == (want.dtype, want.shape, want.tobytes()), f"{file} {name}"


def test_the_small_set_is_small() -> None:
    assert sum(path.stat().st_size for path in SMALL_SET.parent.iterdir() if path.is_file()) <= 2_000_000


# the small set has all units, but a part of the discriminator
@pytest.mark.parametrize("file", ["units.npz", "disc_tiny.npz"] if FULL_SET.is_dir() else ["units.npz"])
def test_nothing_is_declared_that_is_not_there(file: str) -> None:
    names = load_fixture(file).names
    assert not [pattern for pattern in declared(file) if not any(fnmatchcase(n, pattern) for n in names)]


@pytest.mark.parametrize("file, group", [(file, group) for file in ELSEWHERE for group in ELSEWHERE[file]])
def test_other_files_name_their_groups(file: str, group: str) -> None:
    text = (ROOT / "tests" / ELSEWHERE[file][group]).read_text()
    assert file in text and group in text


@pytest.mark.parametrize("pattern", EXCUSED)
def test_excuses_are_needed(pattern: str) -> None:
    assert any(fnmatchcase(name, pattern) for file in ELSEWHERE for name in load_fixture(file).names)
