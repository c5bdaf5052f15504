"""Subjects taken elsewhere: textured meshes and splats, read and drawn by others, and what is left out of them."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from stylenerf.engine.applications.mesh.isosurface import Mesh, face_parts, isosurface, without_loose_parts
from stylenerf.engine.applications.mesh.mesh import MeshOptions, extract_mesh, view_cameras
from stylenerf.engine.applications.mesh.mesh_files import write_mesh
from stylenerf.engine.applications.mesh.splats import surfels, write_splats
from stylenerf.engine.applications.mesh.texture import bake_texture, seen_colours
from stylenerf.engine.applications.render.subjects import subjects_from_seeds
from stylenerf.engine.applications.render.views import Bakes, ViewOptions, render_view
from stylenerf.engine.command_line.main import main
from stylenerf.engine.model_io import Model, load_model
from stylenerf.engine.pictures import to_uint8
from tests.known_density import give_known_density
from tests.models_at_hand import tiny_model
from tests.rasterisers import draw_splats, draw_triangles, psnr_db, read_splats, read_textured, to_camera

pytest.importorskip("skimage", reason="scikit-image is not installed: pip install 'stylenerf-engine[mesh]'")
pytest.importorskip("trimesh", reason="trimesh is not installed: pip install 'stylenerf-engine[mesh]'")


@pytest.fixture(scope="module")
def model() -> Model:
    return give_known_density(tiny_model())


@pytest.fixture
def desk(saved_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(saved_model)
    yield tmp_path


def balls(points: torch.Tensor) -> torch.Tensor:
    """Three balls: two large ones, and a small one."""
    places = torch.tensor([[-0.5, 0, 0, 0.3], [0.5, 0, 0, 0.25], [0, 0.6, 0, 0.08]])
    return (places[:, 3] - (points[:, None] - places[:, :3]).norm(dim=-1)).amax(1)


def test_loose_parts_are_small_ones() -> None:
    mesh = isosurface(balls, (-1, -1, -1), (1, 1, 1), level=0.0, resolution=40)
    sizes = np.bincount(face_parts(mesh))
    assert len(sizes) == 3 and sizes[0] > sizes[1] > sizes[2]
    kept, left_out = without_loose_parts(mesh)
    assert len(kept.faces) == sizes[:2].sum() and len(left_out) == 1
    assert left_out[0] == pytest.approx(0.08**2 / (0.08**2 + 0.3**2 + 0.25**2), rel=0.2)
    assert kept.vertices[:, 1].max() < 0.4
    assert without_loose_parts(kept) == (kept, [])


def test_a_texture_shows_every_triangle_its_own_colours(model: Model, tmp_path: Path) -> None:
    subject = subjects_from_seeds(model, [3])
    mesh, level = extract_mesh(model, subject, MeshOptions(14, level=16.0, colours=False))
    write_mesh(mesh, tmp_path / "a.glb", texture=bake_texture(model, subject, mesh, level))
    names, corners, uv, image = read_textured(tmp_path / "a.glb")
    assert names == ["part-1"] and corners.shape == (*uv.shape[:2], 3) == (len(mesh.faces), 3, 3)
    np.testing.assert_allclose(corners, mesh.vertices[mesh.faces], atol=1e-6)
    normals = mesh.normals[mesh.faces].mean(1)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    want = seen_colours(model, subject, corners.mean(1), normals, level).astype(int)
    middle = uv.mean(1) * len(image) - 0.5
    low = np.floor(middle).astype(int)
    x, y = middle.T - low.T
    rows = np.asarray(image, float)[::-1]
    found = sum(
        (w * rows[low[:, 1] + b, low[:, 0] + a].T).T
        for a, b, w in ((0, 0, (1 - x) * (1 - y)), (1, 0, x * (1 - y)), (0, 1, (1 - x) * y), (1, 1, x * y))
    )
    assert want.std() > 3 and np.abs(found - want).mean() < 1.5


def test_splats_lie_flat_on_the_surface(model: Model, tmp_path: Path) -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], np.float32)
    faces = np.array([[0, 1, 2], [1, 3, 2]], np.int32)
    for normal in ([0, 0, 1], [0, 0, -1], [0.6, 0, 0.8]):
        mesh = Mesh(vertices, faces, np.tile(np.float32(normal), (4, 1)), np.full((4, 3), 128, np.uint8))
        write_splats(surfels(mesh), tmp_path / f"{normal[2]}.ply")
        read = read_splats(tmp_path / f"{normal[2]}.ply")
        w, x, y, z = (read[f"rot_{k}"] for k in range(4))
        third = np.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], 1)
        np.testing.assert_allclose(third, mesh.normals, atol=1e-6)
        assert (read["scale_2"] < read["scale_0"] - 2).all() and (read["scale_0"] == read["scale_1"]).all()
        np.testing.assert_allclose(1 / (1 + np.exp(-read["opacity"])), 0.98, atol=1e-6)
        np.testing.assert_allclose(0.5 + 0.28209479 * read["f_dc_1"], 128 / 255, atol=1e-6)
        assert list(read)[:6] == ["x", "y", "z", "nx", "ny", "nz"] and not any(k.startswith("f_rest") for k in read)


def test_the_verb_writes_both_forms(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["mesh", "tiny", "--no-progress", "--grid", "12", "--level", "12"]
    assert main([*common, "--out", "a.glb"]) == 0 and main([*common, "--out", "s.ply", "--splats"]) == 0
    assert len(read_textured(Path("a.glb"))[1]) > 20 and len(read_splats(Path("s.ply"))["x"]) > 20
    capsys.readouterr()
    assert main([*common, "--out", "b.obj", "--splats"]) == 2
    assert capsys.readouterr().err == "error: --splats: wanted --out FILE.ply, got b.obj\n"
    assert main([*common, "--out", "b.ply", "--splats", "--no-colours"]) == 2
    assert capsys.readouterr().err == "error: --splats: wanted colours, got --no-colours\n"


def test_a_picture_is_what_the_splats_paper_says() -> None:
    """One round splat in the middle: its opacity at the centre, e^-1/2 of it one standard deviation aside."""
    pose = np.eye(4)
    pose[2, 3] = 1.0  # at z = 1, looking down
    splat = {k: np.zeros(1) for k in ("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "rot_1", "rot_2", "rot_3")}
    deviation = np.sqrt(2.0**2 - 0.3) / 32  # two pixels of 64, with what every splat is widened by
    splat |= {f"scale_{k}": np.log([deviation]) for k in range(3)} | {"opacity": np.zeros(1), "rot_0": np.ones(1)}
    picture = draw_splats(splat, pose, 1.0, np.zeros((65, 65, 3)))
    assert picture[32, 32, 0] == pytest.approx(127.5 / 2, rel=0.01)
    assert picture[32, 34, 1] == pytest.approx(127.5 / 2 * np.exp(-0.5), rel=0.05)
    assert to_camera(np.array([0.0, 0.5, 0.0]), pose, 1.0, 64)[0].tolist() == [32.0, 16.0]


@pytest.mark.slow
def test_five_views_of_the_exports_resemble_the_strict_ones(tmp_path: Path) -> None:
    model, edge = load_model("demo"), 128
    subject, cameras, bakes = subjects_from_seeds(model, [0]), view_cameras(model, 5), Bakes(model)
    mesh, level = extract_mesh(model, subject, MeshOptions(64, outline=True, colours=False))
    mesh, _ = without_loose_parts(mesh)
    write_mesh(mesh, tmp_path / "a.glb", texture=bake_texture(model, subject, mesh, level))
    colours = seen_colours(model, subject, mesh.vertices, mesh.normals, level)
    write_splats(surfels(dataclasses.replace(mesh, colours=colours)), tmp_path / "a.ply")
    textured, splats = read_textured(tmp_path / "a.glb")[1:], read_splats(tmp_path / "a.ply")
    for i in range(5):
        whole, behind = (
            to_uint8(render_view(model, subject, cameras[i], options, bakes=bakes).image)[0].permute(1, 2, 0).numpy()
            for options in (
                ViewOptions(strict=True, resolution=edge, samples=96),
                ViewOptions(strict=True, resolution=edge, parts="background"),
            )
        )
        pose, tan = cameras[i].cam2world[0].double().numpy(), float(cameras[i].tan_half_fov[0, 0])
        found = (
            psnr_db(draw_triangles(*textured, pose, tan, behind), whole),
            psnr_db(draw_splats(splats, pose, tan, behind), whole),
        )
        print(f"view {i}: mesh {found[0]:.2f} dB, splats {found[1]:.2f} dB")
        assert min(found) >= 25
