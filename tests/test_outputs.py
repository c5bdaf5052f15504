"""What a view leaves on the disk: normals of known surfaces, cutouts, raw depth, moving pictures that are whole."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stylenerf.engine.applications.render import outputs
from stylenerf.engine.applications.render.sheets import table, tile
from stylenerf.engine.errors import UserError
from stylenerf.models.camera import Camera, pixel_grid
from tests.inputs import source

FRONT = Camera.orbit(1.3, 0.7, 1.0, fov_deg=40.0, dtype=torch.float64)


def depth_of_plane(normal: torch.Tensor, distance: float, size: int) -> torch.Tensor:
    """Depth along the optical axis of the plane n p = -distance in camera space, n towards the camera."""
    aside = pixel_grid(size, dtype=torch.float64) * FRONT.tan_half_fov
    rays = torch.cat([aside, -torch.ones(size * size, 1, dtype=torch.float64)], dim=1)
    return (-distance / (rays @ normal)).reshape(1, size, size)


@pytest.mark.parametrize("tilt", [(0.0, 0.0), (0.5, 0.0), (-0.3, 0.6)])
def test_normals_of_a_plane_are_exact(tilt: tuple[float, float]) -> None:
    normal = torch.nn.functional.normalize(torch.tensor([*tilt, 1.0], dtype=torch.float64), dim=0)
    found = outputs.camera_normals(depth_of_plane(normal, 1.0, 9), FRONT)
    torch.testing.assert_close(found, normal[None, :, None, None].expand(1, 3, 9, 9))


def test_normals_of_a_sphere_point_outwards() -> None:
    size, radius = 65, 0.3
    aside = pixel_grid(size, dtype=torch.float64) * FRONT.tan_half_fov
    rays = torch.cat([aside, -torch.ones(size * size, 1, dtype=torch.float64)], dim=1)
    centre = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64)
    a, b, c = (rays**2).sum(1), -2 * rays @ centre, 1 - radius**2  # |t ray - centre|^2 = radius^2
    room = b**2 - 4 * a * c
    hit = (room > 0).reshape(1, size, size)
    depth = torch.where(room > 0, (-b - room.clamp(min=0).sqrt()) / (2 * a), 2.0).reshape(1, size, size)
    wanted = ((depth.reshape(-1, 1) * rays - centre) / radius).T.reshape(1, 3, size, size)
    found = outputs.camera_normals(depth, FRONT)
    cos = (found * wanted).sum(1)
    away = torch.nn.functional.max_pool2d((~hit).double()[:, None], 3, 1, 1)[:, 0] == 0  # no neighbour misses
    assert float(cos[away].min()) > 0.98
    assert float(cos[hit].min()) > 0.8  # beside the silhouette the neighbour that hits decides


def test_surface_depth_is_that_of_what_is_seen() -> None:
    opacity = torch.tensor([[[1.0, 0.5, 0.0]]])
    depth = torch.tensor([[[0.9, 0.5 * 0.9 + 0.5 * 1.3, 1.3]]])
    torch.testing.assert_close(outputs.surface_depth(depth, opacity, 1.3), torch.tensor([[[0.9, 0.9, 1.3]]]))


def test_a_cutout_laid_over_the_background_is_the_picture() -> None:
    colour, behind = torch.rand(2, 2, 3, 4, 4, generator=source(0)) * 2 - 1
    opacity = torch.rand(2, 4, 4, generator=source(1)) * 0.9 + 0.1
    image = opacity[:, None] * colour + (1 - opacity[:, None]) * behind
    cut = outputs.cutout(image, opacity, behind)
    torch.testing.assert_close(cut[:, :3], colour)
    torch.testing.assert_close(cut[:, 3], opacity * 2 - 1)


def test_a_cutout_is_shown_on_white() -> None:
    clear = Image.fromarray(np.array([[[10, 20, 30, 0], [10, 20, 30, 255]]], dtype=np.uint8))
    assert np.array(outputs.on_white(clear)).tolist() == [[[255, 255, 255], [10, 20, 30]]]


def test_small_maps_are_enlarged_by_repeating() -> None:
    found = outputs.enlarged(torch.tensor([[[[0, 255], [7, 9]]]], dtype=torch.uint8), 4)
    assert found[0, 0].tolist() == [[0, 0, 255, 255]] * 2 + [[7, 7, 9, 9]] * 2


def test_the_range_of_depths_is_that_of_what_is_seen() -> None:
    depth, opacity = torch.full((1, 20, 20), 1.3), torch.zeros(1, 20, 20)
    depth[0, 5:15, 5:15], opacity[0, 5:15, 5:15] = torch.linspace(0.9, 1.0, 10), 1.0
    ends = outputs.depth_ends(depth, opacity, 1.3)
    assert ends == pytest.approx((0.895, 1.005), abs=1e-6)
    image = outputs.depth_image(depth, opacity, ends, 1.3)[0, :, 10, 5:15].float()
    assert image.diff(dim=1).abs().sum(0).min() > 5  # each step has a colour of its own
    assert outputs.depth_ends(depth, torch.zeros(1, 20, 20), 1.3) is None
    assert outputs.depth_ends(torch.ones(1, 20, 20), torch.ones(1, 20, 20), 1.3) is None


def test_raw_depth_is_what_it_was(tmp_path: Path) -> None:
    depth = torch.tensor([[0.7, 1.0], [1.3, 2.0]])
    outputs.save_array(depth, tmp_path / "d.npy")
    assert np.load(tmp_path / "d.npy").tolist() == depth.tolist()
    outputs.save_depth_16bit(depth, tmp_path / "d.png", 0.7, 1.3)
    with Image.open(tmp_path / "d.png") as picture:
        assert np.array(picture).tolist() == [[0, 32768], [65535, 65535]]  # 65535 / 2 rounds to even
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.npy", "d.png"]


def pictures(count: int, size: tuple[int, int] = (32, 24)) -> Iterator[Image.Image]:
    """Frames of one grey each."""
    return (Image.new("RGB", size, (20 * i, 20 * i, 20 * i)) for i in range(count))


@pytest.mark.parametrize(("name", "milliseconds"), [("a.gif", 40), ("a.webp", 42)])
def test_a_moving_picture_has_its_frames_and_its_pace(name: str, milliseconds: int, tmp_path: Path) -> None:
    outputs.save_animation(pictures(5), tmp_path / name, fps=24)
    with Image.open(tmp_path / name) as found:
        assert getattr(found, "n_frames", 1) == 5 and found.size == (32, 24) and found.info["loop"] == 0
        for i in range(5):
            found.seek(i)
            found.load()
            assert abs(found.convert("RGB").getpixel((3, 3))[0] - 20 * i) <= 4  # type: ignore[index]
            assert found.info["duration"] == milliseconds
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_gif_has_a_greatest_pace(tmp_path: Path) -> None:
    outputs.save_animation(pictures(2), tmp_path / "a.gif", fps=1000)
    with Image.open(tmp_path / "a.gif") as found:
        assert found.info["duration"] == 20


@pytest.mark.parametrize("size", [(64, 48), (17, 33)])
def test_a_film(size: tuple[int, int], tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="wants pip install 'stylenerf-engine[video]'")
    imageio = pytest.importorskip("imageio.v2")
    outputs.save_animation(pictures(5, size), tmp_path / "a.mp4", fps=12)
    with imageio.get_reader(tmp_path / "a.mp4", format="FFMPEG") as film:
        frames = [np.asarray(frame) for frame in film]
        assert len(frames) == 5 and film.get_meta_data()["fps"] == 12
    assert frames[0].shape == (size[1] + size[1] % 2, size[0] + size[0] % 2, 3)
    assert all(abs(frame.mean() - 20 * i) < 6 for i, frame in enumerate(frames))
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[Image.Image]:
        yield from pictures(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        outputs.save_animation(broken(), tmp_path / "a.gif", fps=10)
    assert list(tmp_path.iterdir()) == []


def test_a_film_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(outputs.importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"--format: mp4 wants .* pip install 'stylenerf-engine\[video\]'"):
        outputs.check_animations(["gif", "mp4"])


def test_errors_name_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"wanted a name ending in gif, webp, mp4, got '\.avi'"):
        outputs.save_animation(pictures(1), tmp_path / "a.avi", fps=1)
    with pytest.raises(ValueError, match="frames must hold at least one picture"):
        outputs.save_animation(pictures(0), tmp_path / "a.gif", fps=1)
    with pytest.raises(ValueError, match=r"depth must be \[B, r, r\] with B=1 and r >= 2, got \[1, 1, 1\]"):
        outputs.camera_normals(torch.ones(1, 1, 1), FRONT)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="wanted a file that can be written"):
        outputs.save_text("x", tmp_path / "file" / "a.txt")


@pytest.mark.parametrize(("edge", "shown"), [(16, 128), (64, 128), (100, 100), (128, 128), (200, 200), (512, 256)])
def test_tiles_are_of_a_size_for_the_eye(edge: int, shown: int) -> None:
    assert tile(Image.new("RGB", (edge, edge))).size == (shown, shown)


def test_a_table_holds_its_pictures_where_they_belong() -> None:
    red, blue = (Image.new("RGB", (50, 50), c) for c in ((200, 0, 0), (0, 0, 200)))
    sheet = table([[None, red], [blue, red]], ["", "row"], ["", "column"], sources=True)
    width, height = sheet.size
    places = {"red": (-20, -20), "blue": (-90, -20), "none": (-90, -80)}
    seen = {name: sheet.getpixel((width + x, height + y)) for name, (x, y) in places.items()}
    assert seen == {"red": (200, 0, 0), "blue": (0, 0, 200), "none": (255, 255, 255)}
    close = table([[None, red], [blue, red]], ["", "row"], ["", "column"])
    assert (width - close.width, height - close.height) == (4, 4)  # sources stand a twelfth of 50 px apart
    with pytest.raises(ValueError, match=r"cells must be 1 rows of 2, got \[1\]"):
        table([[red]], ["a"], ["b", "c"])
