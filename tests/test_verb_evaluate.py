"""``stylenerf evaluate`` and ``compare``: figures with their protocol, from models and from files; what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from stylenerf.engine.applications.evaluate import views
from stylenerf.engine.applications.evaluate.samples import model_images
from stylenerf.engine.applications.render.subjects import subjects_from_seeds
from stylenerf.engine.applications.render.views import ViewOptions
from stylenerf.engine.command_line.main import main
from stylenerf.engine.data import ProceduralScenes, open_dataset
from stylenerf.engine.training.metrics.consistency import reproject
from stylenerf.engine.training.metrics.depth import mean_depth_error
from stylenerf.engine.training.metrics.detector import load_detector
from stylenerf.engine.training.metrics.frechet import frechet_distance, gaussian_of
from stylenerf.engine.training.metrics.reference import reference
from stylenerf.models.camera import Camera
from tests.inputs import source
from tests.models_at_hand import PRIOR, tiny_model

CPU = torch.device("cpu")


class Colours(nn.Module):
    """A detector of six numbers."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.float() / 127.5 - 1
        return torch.cat([y.mean((2, 3)), y.std((2, 3))], dim=1)


class Asked(nn.Module):
    """One that must be asked for features, as the one of published figures."""

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        return x.float().mean((2, 3)) if return_features else x.float().flatten(1)


class Unfit(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float().mean()


@pytest.fixture
def desk(saved_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, detectors, and two sets of pictures."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(saved_model)
    for name, network in (("colours", Colours()), ("asked", Asked()), ("unfit", Unfit())):
        with pytest.warns(DeprecationWarning, match="torch.jit.script"):
            torch.jit.script(network).save(f"{name}.pt")
    for folder, seed in (("photos", 0), ("made", 1)):
        Path(folder).mkdir()
        pixels = torch.randint(0, 256, (12, 16, 16, 3), generator=source(seed), dtype=torch.uint8).numpy()
        for i, picture in enumerate(pixels):
            Image.fromarray(picture // (1 + i % 3)).save(f"{folder}/{i}.png")
    return tmp_path


def evaluate(arguments: str) -> int:
    return main(["evaluate", *arguments.split(), "--no-progress", "--cache", "cache"])


def written(path: str) -> dict[str, Any]:
    content = json.loads(Path(path).read_text())
    assert isinstance(content, dict)
    return content


FILES = "made --data photos --resolution 16 --detector colours.pt --resamples 4"


def test_sets_of_pictures(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(f"{FILES} --out a.json") == 0
    content = written("a.json")
    protocol, figures = content["protocol"], content["figures"]
    assert list(figures) == ["swd", "fid", "kid", "precision", "recall"]
    photos, made = (open_dataset(p, resolution=16, report=print) for p in ("photos", "made"))
    detector = load_detector("colours.pt")
    x, y = (
        detector.features(torch.stack([torch.tensor(d.image(i, 16)) for i in range(12)]).permute(0, 3, 1, 2))
        for d in (made, photos)
    )
    assert figures["fid"]["value"] == pytest.approx(frechet_distance(gaussian_of(x), gaussian_of(y)), rel=1e-6)
    assert figures["fid"]["low"] < figures["fid"]["high"] and figures["swd"]["low"] is None
    assert protocol == {
        "detector": detector.sha256, "resolution": 16, "resizing": protocol["resizing"], "images": 12,
        "reference_images": 12, "truncation": None, "rendering": None, "seed": 0, "data": photos.sha256(),
        "mirror": False,
    }  # fmt: skip
    assert "fid " in capsys.readouterr().out
    assert evaluate("photos --data photos --resolution 16 --detector colours.pt --resamples 0 --out same.json") == 0
    same = written("same.json")["figures"]
    assert same["fid"]["value"] == pytest.approx(0, abs=1e-6) and same["swd"]["value"] == 0


def test_statistics_are_kept_by_what_they_are_of(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos, detector = open_dataset("photos", resolution=16, report=print), load_detector("colours.pt")
    seen: list[int] = []
    monkeypatch.setattr(type(detector), "features", lambda self, x: seen.append(len(x)) or Colours()(x))
    digest, cache = photos.sha256(), Path("cache")

    def look(**changes: Any) -> int:
        seen.clear()
        arguments = {"data": photos, "digest": digest, "detector": detector, "resolution": 16, "count": 12} | changes
        reference(**arguments, device=CPU, cache=cache)
        return sum(seen)

    assert [look(), look(), look(count=11), look(digest="other"), look()] == [12, 0, 11, 12, 0]
    (file, *_) = sorted(cache.glob("*.npz"))
    for file in cache.glob("*.npz"):
        file.write_bytes(file.read_bytes()[:100])
    assert look() == 12 and look() == 0  # a damaged file is made anew
    Path("photos/3.png").write_bytes(Path("photos/4.png").read_bytes())
    assert open_dataset("photos", resolution=16, report=print).sha256() != digest
    Path("photos/0.png").rename("photos/00.png")
    scenes = [ProceduralScenes(resolution=r, num_scenes=4, seed=s).sha256() for r, s in ((8, 0), (16, 0), (8, 1))]
    assert scenes[0] == scenes[1] != scenes[2]


def test_a_model_against_scenes(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = "tiny --data procedural --images 6 --reference-images 8 --subjects 2 --batch 4"
    assert evaluate(f"{command} --truncation 0.7 --out b.json") == 0
    content = written("b.json")
    names = [f"{f}_{m}" for m in ("fast", "strict") for f in ("view_residual_ratio", "pose_sensitivity", "depth_error")]
    assert {"swd", "pose_sensitivity_true", *names} <= set(content["figures"])
    assert content["protocol"]["truncation"] == 0.7 and content["protocol"]["rendering"] == "fast"
    assert content["protocol"]["detector"] is None
    with Image.open("b.views.png") as picture:
        assert picture.height == 4 * 20
    assert "wrote:       b.views.png" in capsys.readouterr().out
    assert main(["compare", "b.json", "b.json"]) == 2
    Path("copy.json").write_bytes(Path("b.json").read_bytes())
    capsys.readouterr()
    assert main(["compare", "b.json", "copy.json"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["b.json", "copy.json"]


def test_a_sample_does_not_depend_on_its_batch() -> None:
    model = tiny_model()
    made = [
        torch.cat(list(model_images(model, 5, seed=3, truncation_psi=1.0, options=ViewOptions(), batch=batch)))
        for batch in (2, 5)
    ]
    assert made[0].dtype == torch.uint8 and (made[0].int() - made[1].int()).abs().max() <= 1
    assert len({image.numpy().tobytes() for image in made[0]}) == 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("--resamples 4 --reference-images 11", "reference_images 12 and 11"),
        ("--resamples 4 --seed 1 --images 10", "images 12 and 10; seed 0 and 1"),
        ("--resamples 4 --mirror --reference-images 12", "mirror False and True"),
        ("--resamples 4 --detector asked.pt", "detector "),
        ("--data made", "data "),
        ("--resolution 8", "resolution 16 and 8"),
    ],
)
def test_other_protocols_are_refused(desk: Path, capsys: pytest.CaptureFixture[str], change: str, said: str) -> None:
    assert evaluate(f"{FILES} --out a.json") == 0
    assert evaluate(f"{FILES} {change} --out b.json") == 0
    capsys.readouterr()
    assert main(["compare", "a.json", "b.json"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: compare: wanted figures of one protocol, got in a.json and b.json: {said}")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("made --out x.json", "--data, --resolution: wanted both, since made is no model"),
        ("tiny --out x.json", "--data: wanted a folder, a zip or 'procedural' (tiny does not name its data)"),
        ("tiny --data procedural --resolution 8 --out x.json", "--resolution: wanted none with a model"),
        (f"{FILES} --out x.txt", "--out: wanted a .json, got x.txt"),
        (f"{FILES} --out x.json --images 13", "--images: wanted 2 to 12, as many as there are, got 13"),
        (f"{FILES} --out x.json --resamples -1", "--resamples: wanted at least 0, got -1"),
        (f"{FILES} --out x.json --seed -1", "--seed: wanted 0 to "),
        (f"{FILES} --out x.json --truncation nan", "--truncation: wanted a number"),
        (f"{FILES} --out x.json --detector none.pt", "got none.pt: No such file"),
        (f"{FILES} --out x.json --detector photos/0.png", "--detector: wanted a TorchScript file, got photos/0.png"),
        (f"{FILES} --out x.json --detector unfit.pt", "--detector: wanted features [12, D], got []"),
        (f"{FILES} --out x.json --detector torch-fidelity:x.pth", "--detector: wanted torch-fidelity"),
        ("nowhere --data photos --out x.json", "nowhere: wanted"),
    ],
)
def test_what_is_wrong_is_one_line(
    desk: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    assert evaluate(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not Path("x.json").exists() and not Path("x.txt").exists()


@pytest.mark.parametrize(
    "spoil", [lambda c: c.pop("protocol"), lambda c: c["figures"].update(fid=3), lambda c: c.clear()]
)
def test_a_file_that_holds_no_figures_is_one_line(
    desk: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[dict[str, Any]], Any]
) -> None:
    assert evaluate(f"{FILES} --out a.json") == 0
    content = written("a.json")
    spoil(content)
    Path("b.json").write_text(json.dumps(content))
    assert main(["compare", "a.json", "b.json"]) == 2
    assert "b.json: wanted figures" in capsys.readouterr().err


def test_the_detector_of_published_figures_is_asked_for_features(desk: Path) -> None:
    images = torch.full((2, 3, 8, 8), 100, dtype=torch.uint8)
    assert load_detector("asked.pt").features(images).tolist() == [[100.0] * 3] * 2


def test_the_scenes_themselves_agree_and_a_picture_does_not() -> None:
    """A true 3-D renderer leaves little of a view's difference; one that ignores the camera has none to explain."""
    scenes, edge = ProceduralScenes(resolution=64, num_scenes=4, camera_prior=PRIOR), 64
    cameras = [Camera.orbit(np.pi / 2, yaw, fov_deg=30) for yaw in (-0.15, 0.15)]
    images, depths = [], []
    for camera in cameras:
        seen = [scenes.view(k, edge, camera) for k in range(4)]
        images.append(torch.stack([torch.as_tensor(s.image) for s in seen]).permute(0, 3, 1, 2).float() / 127.5 - 1)
        depths.append(torch.stack([torch.as_tensor(s.depth) for s in seen]).float())
    many = [camera[torch.zeros(4, dtype=torch.long)] for camera in cameras]
    true = reproject(images[0], depths[0], many[0], images[1], depths[1], many[1], occlusion_tolerance=0.05)
    painted = reproject(images[0], depths[0], many[0], images[0], depths[0], many[1], occlusion_tolerance=0.05)
    assert true.residual < 0.2 * true.baseline
    assert painted.residual > 3 * true.residual and painted.baseline == 0
    assert views._sensitivity(images[0], images[1]) > 0.05 and views._sensitivity(images[0], images[0]) == 0


def test_depth_error_by_hand() -> None:
    """Means 1 and 1.2 of two maps; a background counts as far: (|1 - 1.2| + |2 - 1.5|) / 2 = 0.35."""
    fake = torch.tensor([[[0.9, 2.0]], [[1.1, float("inf")]]])
    true = torch.tensor([[[1.2, 1.5]]])
    assert mean_depth_error(fake, true, far=2.0) == pytest.approx(0.35)


@pytest.mark.slow
def test_strict_views_of_the_demo_agree_better_than_fast_ones() -> None:
    from stylenerf.engine.model_io import load_model

    model = load_model("demo")
    figures, _ = views.view_figures(model, subjects_from_seeds(model, [0, 1], truncation_psi=1.0), None)
    for name in ("", "_solid"):
        fast, strict = (figures[f"view_residual_ratio_{mode}{name}"].value for mode in ("fast", "strict"))
        assert strict < fast
