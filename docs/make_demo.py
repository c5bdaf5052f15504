"""Put a trained run into the package as the model ``demo``, and draw its picture and curves for the documentation.

    python train.py --preset demo --out runs/demo       half an hour or more; --resume runs/demo goes on
    python docs/make_demo.py runs/demo

Wants matplotlib and scikit-image: ``pip install 'stylenerf-engine[plots,mesh]'``.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from stylenerf.engine.applications.mesh.mesh import MeshOptions, extract_mesh
from stylenerf.engine.applications.mesh.raster import draw_mesh
from stylenerf.engine.applications.render.outputs import depth_image, normals_image
from stylenerf.engine.applications.render.path_options import PathOptions
from stylenerf.engine.applications.render.paths import camera_path
from stylenerf.engine.applications.render.subjects import subjects_from_seeds
from stylenerf.engine.applications.render.views import ViewOptions, render_view
from stylenerf.engine.model_io import DEMO_FOLDER, Model, load_model, save_model
from stylenerf.engine.pictures import grid, save_png, to_uint8
from stylenerf.engine.plots import line_chart
from stylenerf.engine.training.stats import Row, read_stats

DOCS = Path(__file__).resolve().parent
SEEDS = (0, 1, 2, 3)
VIEWS = 5


def main(run: Path) -> None:
    rows = [row for row in read_stats(run / "stats.jsonl") if "Metric/swd" in row]
    pack(run, rows)
    draw_curves(rows)
    save_png(picture(load_model(DEMO_FOLDER)), DOCS / "demo.png")


def pack(run: Path, rows: list[Row]) -> None:
    """Replace the package's demo by the run's average generator, with configuration and figures."""
    model = load_model(run)
    figures = [{key: value for key, value in row.items() if key.startswith(("Progress", "Metric"))} for row in rows]
    source = {"preset": "demo", "config": model.meta["config"], "figures": figures}
    with tempfile.TemporaryDirectory() as folder:
        new = save_model(Path(folder) / "demo", model.generator, model.prior, source)
        shutil.rmtree(DEMO_FOLDER, ignore_errors=True)
        shutil.copytree(new, DEMO_FOLDER)


def draw_curves(rows: list[Row]) -> None:
    """Distance from the data, and agreement of views, during training."""
    charts = {
        "Metric/swd": ("Sliced Wasserstein distance (x 1000)", "distance"),
        "Metric/view_residual_ratio": (
            "Difference of two views that reprojection leaves",
            "residual / difference",
        ),
    }
    pictures = []
    for key, (title, label) in charts.items():
        points = [(row["Progress/images"] / 1000, row[key]) for row in rows if row.get(key) is not None]
        pictures.append(line_chart({"demo": points}, title, "thousand images", label, size=(640, 400)))
    both = Image.new("RGB", (sum(p.width for p in pictures), pictures[0].height), "white")
    both.paste(pictures[0], (0, 0))
    both.paste(pictures[1], (pictures[0].width, 0))
    save_png(both, DOCS / "demo-curves.png")


@torch.no_grad()
def picture(model: Model) -> Image.Image:
    """A row for each subject: views under a turning camera, then depth, normals and mesh of the middle one."""
    tiles: list[torch.Tensor] = []
    path = camera_path(model.prior, "sweep", PathOptions(frames=VIEWS)).camera
    middle, field = path[VIEWS // 2 : VIEWS // 2 + 1], model.config.field
    for seed in SEEDS:
        one = subjects_from_seeds(model, [seed], truncation_psi=0.7)
        tiles += [to_uint8(render_view(model, one, path[i : i + 1]).image)[0] for i in range(VIEWS)]
        strict = render_view(model, one, middle, ViewOptions(strict=True, samples=24))
        mesh, _ = extract_mesh(model, one, MeshOptions(largest=True))
        drawn = draw_mesh(mesh, middle, model.config.resolution).colours
        assert drawn is not None
        tiles.append(depth_image(strict.depth, strict.opacity, (field.near, field.far), field.far)[0])
        normals = normals_image(strict.depth, strict.opacity, middle, field.far)
        tiles += [to_uint8(image)[0] for image in (normals, drawn)]
    return grid(torch.stack(tiles), columns=VIEWS + 3)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
