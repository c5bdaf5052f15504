"""``stylenerf render``: what lies in the folder, what goes on and what is refused."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stylenerf.engine.applications.render import jobs
from stylenerf.engine.applications.render.paths import PathOptions, camera_path
from stylenerf.engine.applications.render.subjects import save_subjects, subjects_from_seeds
from stylenerf.engine.applications.render.views import render_view
from stylenerf.engine.command_line.main import main
from stylenerf.engine.model_io import save_model
from stylenerf.engine.pictures import to_uint8
from stylenerf.models.camera import Camera
from tests.models_at_hand import PRIOR, tiny_model
from tests.runs import digests
from tests.tiny import TINY


@pytest.fixture
def desk(saved_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder of somebody who has a model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(saved_model)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("keep me")
    (tmp_path / "bad.json").write_text('[{"cam2world": 1, "fov_deg": 30}]')
    yield tmp_path


def render(arguments: str) -> int:
    return main(["render", "tiny", "--no-progress", *arguments.split()])


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def test_a_folder_of_everything(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = "image,depth,normals,opacity,foreground,background,depth16,depth-npy"
    assert render(f"--out all --seeds 1,4 --frames 2 --save {kinds} --format png,gif,webp --sheet") == 0
    out = capsys.readouterr().out
    assert out.startswith("rendered:    2 x 2 views, 16 px\nwrote:       all/frames\n")
    files = {str(p.relative_to("all")) for p in Path("all").rglob("*") if p.is_file()}
    looks = kinds.split(",")[:6]
    frames = [f"{k}-000{i}.png" for k in (*looks, "depth16") for i in (0, 1)] + ["depth-0000.npy", "depth-0001.npy"]
    moving = [f"{s}-{k}.{e}" for s in ("seed-1", "seed-4") for k in looks for e in ("gif", "webp")]
    wanted = {f"frames/{s}/{f}" for s in ("seed-1", "seed-4") for f in frames} | set(moving)
    assert files == wanted | {"job.json", "cameras.json", "latents.npz", "sheet.png"}


def test_frames_are_the_views_of_the_path(desk: Path) -> None:
    assert render("--out out --seeds 3 --path sweep --frames 3 --save image,depth-npy,depth16 --batch 2") == 0
    model = tiny_model()
    camera = camera_path(PRIOR, "sweep", PathOptions(frames=3)).camera
    view = render_view(model, subjects_from_seeds(model, [3]).repeat(3), camera)
    got = picture(Path("out/frames/seed-3/image-0002.png")).astype(int)
    assert np.abs(got - to_uint8(view.image[2]).permute(1, 2, 0).numpy().astype(int)).max() <= 1
    depth = np.load("out/frames/seed-3/depth-0002.npy")
    np.testing.assert_allclose(depth, view.depth[2].numpy(), atol=1e-5)
    grey = picture(Path("out/frames/seed-3/depth16-0002.png"))
    np.testing.assert_allclose(grey / 65535 * (1.3 - 0.7) + 0.7, depth, atol=1e-5)


def test_a_long_name_leaves_room_on_the_sheet(desk: Path) -> None:
    long, short = "x" * 100 + ".npz", "short.npz"
    for_both = subjects_from_seeds(tiny_model(), [1])
    save_subjects(long, for_both)
    save_subjects(short, for_both)
    assert render(f"--out long --latents {long} --frames 2 --sheet") == 0
    assert render(f"--out short --latents {short} --frames 2 --sheet") == 0
    assert picture(Path("long/sheet.png")).shape[1] < picture(Path("short/sheet.png")).shape[1] + 300


def test_the_folder_leads_on(desk: Path) -> None:
    assert render("--out one --seeds 5,6 --path grid --grid 2x2 --truncation 0.4") == 0
    assert render("--out two --latents one/latents.npz --cameras one/cameras.json") == 0
    one, two = digests(Path("one/frames/seed-5")), digests(Path("two/frames/latents-0"))
    assert one == two and len(one) == 4


def test_cameras_saved_with_latents(desk: Path) -> None:
    model = tiny_model()
    camera = PRIOR.at(torch.tensor([0.1, 0.9]), 0.5)
    save_subjects("seen.npz", subjects_from_seeds(model, [1, 2]), camera)
    assert render("--out out --latents seen.npz --path saved --save depth-npy") == 0
    view = render_view(model, subjects_from_seeds(model, [1, 2]), camera)
    np.testing.assert_allclose(np.load("out/frames/seen-1/depth-0000.npy"), view.depth[1].numpy(), atol=1e-5)
    assert [p.name for p in Path("out/frames/seen-1").iterdir()] == ["depth-0000.npy"]


def test_an_interrupted_job_goes_on_bit_for_bit(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = "--seeds 0-2 --frames 4 --save image,normals --batch 3 --format png,gif --sheet"
    assert render(f"--out whole {job}") == 0
    calls = []

    def interrupted(*args: object) -> None:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        original(*args)

    original = jobs._render_group
    monkeypatch.setattr(jobs, "_render_group", interrupted)
    assert render(f"--out part {job}") == 130
    assert not list(Path("part").rglob("*.part")) and len(list(Path("part").rglob("image-*"))) == 6
    Path("part/frames/seed-0/normals-0001.png").unlink()
    kept = Path("part/frames/seed-0/image-0001.png").stat().st_mtime_ns
    assert render(f"--out part {job}") == 2
    assert render(f"--out part {job} --resume") == 0
    assert len(calls) == 3 + 3  # the group with the lost picture, and the two that were missing
    assert Path("part/frames/seed-0/image-0001.png").stat().st_mtime_ns == kept  # beside the lost one
    assert digests(Path("part")) == digests(Path("whole"))


def test_a_job_that_was_killed_before_it_began_goes_on(desk: Path) -> None:
    Path("out").mkdir()
    Path("out/.job.123.part.json").write_text("{")
    assert render("--out out --frames 1 --resume") == 0
    assert "job.json" in digests(Path("out"))


def test_a_job_has_the_model_s_own_number_of_samples(desk: Path) -> None:
    model = tiny_model()
    path = camera_path(PRIOR, "still")
    job = jobs.RenderJob(subjects_from_seeds(model, [0]), ["seed 0"], path)
    before = jobs.describe_job(model, job)
    model.generator.synthesis.default_samples = 5
    assert {k for k, v in jobs.describe_job(model, job).items() if v != before[k]} == {"model_sha256"}


OTHERS = {
    "--seeds 1": "subjects, subjects",
    "--frames 3": "cameras, frames",
    "--save depth": "kinds",
    "--samples 4": "samples",
    "--fps 12": "fps",
    "--batch 2": "batch",
}


@pytest.mark.parametrize("change", OTHERS)
def test_another_job_is_refused(desk: Path, change: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert render("--out out --frames 2") == 0
    before = digests(Path("out"))
    capsys.readouterr()
    assert main(["render", "tiny", *f"--out out --resume --frames 2 {change}".split()]) == 2
    wanted = f"error: --resume: wanted the same job as in out, got one that differs in {OTHERS[change]}\n"
    assert capsys.readouterr().err == wanted
    assert main(["render", "tiny", *f"--out out --frames 2 {change}".split()]) == 2
    assert capsys.readouterr().err == (
        "error: out: wanted a new or empty folder, got one with a job in it (--resume goes on with it)\n"
    )
    assert digests(Path("out")) == before


def test_without_png_only_the_moving_picture_stays(desk: Path) -> None:
    assert render("--out out --frames 3 --format gif --enlarge 4 --resume") == 0
    assert picture(Path("out/seed-0-image.gif")).shape[:2] == (64, 64)
    assert sorted(digests(Path("out"))) == ["cameras.json", "job.json", "latents.npz", "seed-0-image.gif"]
    before = digests(Path("out"))
    assert render("--out out --frames 3 --format gif --enlarge 4 --resume") == 0
    assert digests(Path("out")) == before


def test_cameras_beside_the_frames(desk: Path) -> None:
    assert render("--out out --path ellipse --frames 5") == 0
    read = Camera.from_json(Path("out/cameras.json"))
    torch.testing.assert_close(read.cam2world, camera_path(PRIOR, "ellipse", PathOptions(frames=5)).camera.cam2world)
    assert json.loads(Path("out/job.json").read_text())["job"]["frames"] == 5


BAD = {
    "no folder": ("", "--out: wanted a new or empty folder, got nothing"),
    "full folder": ("--out full", "full: wanted a new or empty folder"),
    "full folder to go on in": ("--out full --resume", r"--resume: wanted a folder that a rendering began .*job.json"),
    "kind": ("--out new --save image,colour", "--save: wanted some of image, strict, .*, got image,colour"),
    "no kind": ("--out new --save=", "--save: wanted some of .*, got nothing"),
    "kind twice": ("--out new --save image,image", "--save: wanted some of"),
    "format": ("--out new --format avi", "--format: wanted some of png, gif, webp, mp4, got avi"),
    "raw in motion": ("--out new --save depth16 --format gif", "--save: wanted a kind that can be looked at"),
    "fps": ("--out new --fps 0", "--fps: wanted 0.1 to 1000"),
    "fps nan": ("--out new --fps nan", "--fps: wanted 0.1 to 1000"),
    "batch": ("--out new --batch 0", "--batch: wanted 1 to 4096, got 0"),
    "frames": ("--out new --frames 0", "--frames: wanted 1 to 100000, got 0"),
    "path": ("--out new --path spiral", "argument --path: invalid choice: 'spiral'"),
    "pitch": ("--out new --pitch 1 4", "--pitch: wanted 0 <= LOW <= HIGH <= pi, in radians"),
    "yaw": ("--out new --yaw 1 nan", "--yaw: wanted LOW <= HIGH"),
    "fov": ("--out new --fov 180", "--fov: wanted degrees between 0 and 180"),
    "radius": ("--out new --radius 0 1", "--radius: wanted two positive lengths"),
    "grid": ("--out new --path grid --grid 3by5", "--grid: wanted COLUMNSxROWS such as 5x3, got '3by5'"),
    "empty grid": ("--out new --path grid --grid 0x5", "--grid: wanted COLUMNS x ROWS"),
    "useless": ("--out new --path still --frames 5", "--frames: has no meaning for --path still"),
    "useless zoom": ("--out new --magnify 1 2", "--magnify: has no meaning for --path turntable"),
    "cameras and path": ("--out new --cameras c.json --path still", "--cameras: wanted alone .* got also --path"),
    "no cameras": ("--out new --cameras none.json", "none.json: wanted a JSON file of cameras, got: No such file"),
    "bad cameras": ("--out new --cameras bad.json", "bad.json: camera 0: wanted cam2world of 4 rows"),
    "nothing saved": ("--out new --path saved", "--path: wanted --latents FILE with cameras in it"),
    "enlarge": ("--out new --format gif --enlarge 17", "--enlarge: wanted 1 to 16, got 17"),
    "depth range": ("--out new --save depth --depth-range 2 1", "--depth-range: wanted two depths, NEAR < FAR"),
    "sheet of too much": ("--out new --sheet --seeds 0-99", "--sheet: wanted at most 64 rows .*, got 100"),
    "resolution": ("--out new --resolution 32", "--resolution: wanted the model's own 16 px, or --strict"),
    "seeds": ("--out new --seeds x", "--seeds: wanted numbers"),
    "latents": ("--out new --latents none.npz", "none.npz: wanted a .npz of subjects"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_writes_nothing(case: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, wanted = BAD[case]
    before = digests(desk)
    assert render(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and re.match(f"error: {wanted}", err), err
    assert digests(desk) == before and not (desk / "new").exists()


def test_no_such_model(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", "nothing", "--out", "new"]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not Path("new").exists()


def test_a_camera_outside_the_prior_is_told(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert render("--out out --path dolly --frames 2") == 0
    assert capsys.readouterr().err == (
        "warning: cameras stand 0.85 to 1.15 from the origin, those of the training 1: near and far no longer enclose "
        "the object evenly\n"
    )


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["render", "--help"])
    assert ended.value.code == 0 and "stylenerf render runs/quickstart --out turn" in capsys.readouterr().out


MODELS: dict[str, dict[str, object]] = {
    "no background": {"background": {"kind": "none"}},
    "styled background": {"background": {"kind": "styled", "hidden": 8, "depth": 2, "num_freqs": 2, "samples": 2}},
    "no upsampler": {"resolution": 8},
    "corners": {"field": {**TINY["generator"]["field"], "align_corners": True}},
    "wide layers": {"upsampler": {"channel_base": 128, "channel_max": 8, "kernel_size": 3}},
}


@pytest.mark.parametrize("case", MODELS)
def test_every_kind_of_model(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = tiny_model(**MODELS[case])
    save_model("tiny", model.generator, PRIOR)
    kinds = [k for k in jobs.KINDS if (k, case) not in (("background", "no background"), ("strict", "wide layers"))]
    assert render(f"--out out --frames 2 --save {','.join(kinds)} --sheet") == 0
    edge = model.config.resolution
    looks = [f"out/frames/seed-0/{k}-0001.png" for k in kinds if k in jobs.PICTURES]
    assert {picture(Path(p)).shape[:2] for p in looks} == {(edge, edge)}
    left = set(jobs.KINDS) - set(kinds)
    assert [render(f"--out new --save {kind}") for kind in left] == [2] * len(left)
    assert not Path("new").exists()


def test_a_model_that_is_still_growing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = tiny_model()
    model.generator.synthesis.alpha.fill_(0.0)
    save_model("tiny", model.generator, PRIOR)
    assert render("--out out --frames 1 --save image,strict,depth,normals") == 0
    edge = model.generator.synthesis.growth().resolution
    assert edge == 8 and {picture(p).shape[:2] for p in Path("out").rglob("*.png")} == {(8, 8)}
