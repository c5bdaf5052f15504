"""Models on the disk: runs, checkpoints and converted models load; anything else is one line."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from stylenerf.engine.errors import UserError
from stylenerf.engine.model_io import Model, check_finite, check_sizes, least_numbers, load_model, save_model
from stylenerf.engine.training.checkpoint import write_checkpoint
from stylenerf.engine.training.config_io import to_dict
from stylenerf.models.camera import CameraPrior
from stylenerf.models.config import GeneratorConfig
from stylenerf.models.generator import Generator
from tests.inputs import cameras, seeded, source
from tests.models_at_hand import rewrite
from tests.public_forms import BASE, GENERATORS, make
from tests.runs import digests
from tests.tiny import build, tiny_config

PRIOR = CameraPrior("uniform", yaw=(-3.0, 3.0), pitch=(0.5, 2.5), radius=(0.9, 1.0), fov_deg=30.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with two checkpoints whose three networks all differ."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    cfg = tiny_config()
    state = build(cfg).state
    for images in (4, 8):
        with torch.no_grad():
            for p in state.average.parameters():
                p.add_(0.125)
        saved = {"state": state.state_dict(), "accumulator": {}, "first_figures": {}}
        write_checkpoint(folder, images, saved, {"config": to_dict(cfg), "label_dim": 0})
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A converted model's folder."""
    return save_model(tmp_path / "model", make("released"), PRIOR, {"file": "x.pkl"})


def numbers(model: Model) -> list[torch.Tensor]:
    return list(model.generator.state_dict().values())


def test_a_run_gives_its_newest_average(run: Path) -> None:
    cfg = tiny_config()
    model = load_model(run)
    assert (model.config, model.prior) == (cfg.generator, cfg.camera)
    assert model.path == run and model.meta["images_shown"] == 8
    newest = torch.load(run / "checkpoints" / "00002-images-8" / "state.pt", weights_only=True)["state"]
    got = model.generator.state_dict()
    assert got.keys() == newest["average"].keys()
    assert all(torch.equal(value, newest["average"][name]) for name, value in got.items())
    assert not torch.equal(got["mapping.layers.0.bias"], newest["generator"]["mapping.layers.0.bias"])
    assert not model.generator.training and not any(p.requires_grad for p in model.generator.parameters())


@pytest.mark.parametrize("inside", ["checkpoints", "checkpoints/00001-images-4", "checkpoints/00001-images-4/state.pt",
                                    "checkpoints/00002-images-8/manifest.json"])  # fmt: skip
def test_places_in_a_run(inside: str, run: Path) -> None:
    images = 4 if "images-4" in inside else 8
    assert load_model(run / inside).meta["images_shown"] == images
    assert load_model(str(run / inside), torch.device("cpu")).generator.cfg == tiny_config().generator


@pytest.mark.parametrize("case", GENERATORS)
def test_a_model_comes_back_bit_for_bit(case: str, tmp_path: Path) -> None:
    g = make(case)
    g.synthesis.default_samples = 5
    save_model(tmp_path / "m", g, PRIOR, {"file": "x.pkl"})
    model = load_model(tmp_path / "m" / "meta.json")
    assert (model.config, model.prior, model.meta["source"]) == (g.cfg, PRIOR, {"file": "x.pkl"})
    label = torch.eye(3)[:1] if g.cfg.label_dim else None
    z, camera = torch.randn(1, 6, generator=source(1)), cameras(1)
    one, other = (m(z, camera, label=label, generator=source(2)).image for m in (g, model.generator))
    assert torch.equal(one, other)


def test_nothing_is_overwritten(model: Path) -> None:
    before = digests(model.parent)
    for path in (model, model / "state.pt"):
        with pytest.raises(UserError, match=f"{path}: wanted a new or empty folder, got one that exists"):
            save_model(path, make("released"), PRIOR)
    assert digests(model.parent) == before


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="m: cannot write here: No space left on device"):
        save_model(tmp_path / "m", make("released"), PRIOR)
    assert list(tmp_path.iterdir()) == []


# what cannot be loaded


class Evil:
    def __reduce__(self) -> Any:
        return print, ("executed",)


WEIGHTS = make("released").state_dict()
WIDE: dict[str, Any] = to_dict(BASE)
BILINEAR = {**WIDE, "upsampler": {**WIDE["upsampler"], "mode": "bilinear"}}
EXPANDED = {f"t{i}": torch.zeros(1).expand(10**9, 10**6) for i in range(20)}
FEW = dict(list(WEIGHTS.items())[1:])


NESTED: Any = 1
for _ in range(400):
    NESTED = [NESTED]


def meta(**changes: Any) -> dict[str, Any]:
    return {"meta": changes}


def sizes(**changes: Any) -> dict[str, Any]:
    return meta(generator={**WIDE, **changes})


def state(value: Any) -> dict[str, Any]:
    return {"state": {"generator": value}}


CHANGED: dict[str, tuple[dict[str, Any], str]] = {
    "another meta": (meta(kind="mesh"), "wanted the meta.json of a run or of a converted model"),
    "no configuration": (meta(generator=None), "generator: wanted a section with the keys resolution, .*got null"),
    "no weights": ({"state": {}}, "state.pt: wanted a mapping 'generator', got NoneType"),
    "unknown key": (meta(camera={"jaw": 1}), "camera.jaw: unknown key"),
    "not a number": (meta(camera={"fov_deg": "wide"}), "camera.fov_deg: wanted float, got 'wide'"),
    "samples": (meta(default_samples=10**9), "default_samples: wanted null or 1 to 4096, got 1000000000"),
    "samples no number": (meta(default_samples="20"), "default_samples: wanted null or 1 to 4096, got '20'"),
    "huge": (sizes(w_dim=10**9), "the configuration takes at least .* numbers, the file"),
    "deep": (sizes(mapping_layers=10**9), "at least 1000000002 layers, the file"),
    "wide image": (sizes(resolution=4 * 2**40), "wanted at most 4096 samples and 8192"),
    "another width": (sizes(w_dim=4), "affine.weight and .* more missing or misshapen, none unknown"),
    "another mode": (meta(generator=BILINEAR), "none missing or misshapen, .*adapter.0.bias.* unknown"),
    "expanded": (sizes(w_dim=10**6) | state(EXPANDED), "takes at least .* numbers, the file has at most 40"),
    "missing tensor": (state(FEW), "synthesis.alpha missing or misshapen"),
    "text for a tensor": (state({**WEIGHTS, "mapping.w_avg": "x"}), "mapping.w_avg missing or misshapen"),
    "sparse tensor": (state({**WEIGHTS, "mapping.w_avg": torch.zeros(5).to_sparse()}), "mapping.w_avg missing or"),
    "no numbers": (state({**WEIGHTS, "mapping.w_avg": torch.zeros(5, device="meta")}), "mapping.w_avg missing"),
    "integers": (state({**WEIGHTS, "mapping.w_avg": torch.zeros(5, dtype=torch.int64)}), "mapping.w_avg missing or"),
    "nested meta": (meta(camera=NESTED), "wanted a model, got: "),
    "state a list": ({"state": []}, "wanted a mapping, got list"),
    "code": (state(Evil()), "refused: wanted tensors and plain values only, but it asks for "),
    "bare pickle": ({"raw": pickle.dumps(Evil(), protocol=2)}, "state.pt: "),
    "noise": ({"raw": b"x" * 999}, "state.pt: "),
    "no JSON": ({"meta": "{"}, "meta.json: wanted JSON"),
    "deep JSON": ({"meta": "[" * 100_000}, "meta.json: wanted JSON"),
    "JSON list": ({"meta": "[]"}, "meta.json: wanted a mapping, got list"),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGED)
def test_models_that_were_changed(case: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes, wanted = CHANGED[case]
    rewrite(model, **changes)
    with pytest.raises(UserError, match=wanted) as caught:
        load_model(model)
    assert str(caught.value).startswith(str(model)) and "\n" not in str(caught.value)
    assert "executed" not in capsys.readouterr().out


def test_damage_is_noticed(model: Path) -> None:
    data = bytearray((model / "state.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (model / "state.pt").write_bytes(data)
    with pytest.raises(
        UserError, match=r"model: wanted an intact checkpoint, got: state.pt does not match its SHA-256"
    ):
        load_model(model)
    (model / "state.pt").unlink()
    with pytest.raises(UserError, match=r"state.pt: No such file"):
        load_model(model)


OTHERS = {
    "none": "wanted a run, a checkpoint or a converted model, got nothing there",
    "x" * 300: "got nothing there",
    "x.pkl": "convert first: stylenerf convert .*x.pkl --out DIR",
    "photo.png": "wanted a run, a checkpoint or a converted model, got another file",
    "state.pt": "wanted a run or checkpoint directory, got one without",
    "empty": "wanted a run or checkpoint directory, got one without checkpoints/",
    "young": "young: wanted a run with an intact checkpoint, got none",
}


@pytest.mark.parametrize("name", OTHERS)
def test_paths_that_lead_to_no_model(name: str, tmp_path: Path) -> None:
    for file in ("x.pkl", "photo.png", "state.pt"):
        (tmp_path / file).write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "young" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match=OTHERS[name]) as caught:
        load_model(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_later_format_is_refused(model: Path) -> None:
    manifest = json.loads((model / "manifest.json").read_text())
    (model / "manifest.json").write_text(json.dumps({**manifest, "format_version": 99}))
    with pytest.raises(UserError, match="format version 99, this program reads 1"):
        load_model(model)


# the bound on sizes


@pytest.mark.parametrize("case", GENERATORS)
def test_least_numbers_is_a_lower_bound_and_not_far_off(case: str) -> None:
    cfg = GENERATORS[case]
    held = sum(value.numel() for value in seeded(lambda: Generator(cfg)).state_dict().values())
    assert held / 4 < least_numbers(cfg) <= held


def test_least_numbers_of_a_released_model() -> None:
    held = sum(value.numel() for value in Generator(GeneratorConfig()).state_dict().values())
    assert held / 1.5 < least_numbers(GeneratorConfig()) <= held


def test_sizes_and_numbers_that_fit() -> None:
    state = make("released").state_dict()
    check_sizes(BASE, state)
    check_finite(state)
    with pytest.raises(ValueError, match="a: wanted finite numbers, got 2 that are not"):
        check_finite({"a": torch.tensor([1.0, float("inf"), float("nan")])})
