"""Snapshot files for the tests that read them: fixtures, what reading answers, streams that several tests send."""

from pathlib import Path

import pytest

from stylenerf.engine.applications.convert.generator import convert_network
from stylenerf.engine.applications.convert.snapshot import Snapshot, read_snapshot
from stylenerf.engine.errors import UserError
from stylenerf.models.generator import Generator
from tests import snapshots as s
from tests.inputs import seeded
from tests.public_forms import BASE, public_kwargs, public_state

OD = s.call("collections", "OrderedDict")
LIST = s.named("omegaconf.listconfig", "ListConfig") + b")\x81"
DTYPE = s.call("numpy", "dtype", s.raw("f8"), b"\x89", b"\x88")
SCALAR = ("numpy.core.multiarray", "scalar")
ARRAY = s.call("numpy.core.multiarray", "_reconstruct", s.named("numpy", "ndarray"), b"K\x00\x85", b"C\x01b")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "snapshot.pkl"


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small snapshot with one network."""
    g = seeded(lambda: Generator(BASE))
    with s.public_modules():
        public = s.generator(public_kwargs(BASE), public_state(g), form=s.omega)
        return s.write_snapshot(tmp_path_factory.mktemp("honest") / "small.pkl", {"G_ema": public})


def read(file: Path, data: bytes) -> Snapshot:
    file.write_bytes(data)
    return read_snapshot(file)


def message(file: Path, data: bytes) -> str:
    """The one line that refuses ``data``, without the path."""
    with pytest.raises(UserError) as caught:
        found = read(file, data)
        convert_network(found)
    text = str(caught.value)
    assert text.startswith(f"{file}: ") and "\n" not in text and text.isprintable() and len(text) < 700
    return text.removeprefix(f"{file}: ")
