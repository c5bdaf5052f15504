"""The model that comes with the package: found by its name, small, solid and consistent between views."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from stylenerf.engine.model_io import DEMO_FOLDER, load_model
from stylenerf.engine.training.checkpoint import FILES
from stylenerf.models.camera import pixel_grid
from stylenerf.models.generator import RenderOptions

MOST_BYTES = 4 * 2**20


def test_demo_is_a_name_unless_a_folder_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_model("demo").path == DEMO_FOLDER
    (tmp_path / "demo").mkdir()
    with pytest.raises(Exception, match=r"^demo: wanted"):
        load_model("demo")


def test_demo_is_small_and_says_how_it_was_made() -> None:
    files = {file.name for file in DEMO_FOLDER.iterdir()}
    assert files == set(FILES)
    assert sum(file.stat().st_size for file in DEMO_FOLDER.iterdir()) <= MOST_BYTES
    source = load_model(DEMO_FOLDER).meta["source"]
    assert source["config"]["generator"]["resolution"] == 128
    assert len(source["figures"]) > 1


def test_demo_shows_what_its_field_holds() -> None:
    """Fast pictures agree with strict ones, every pixel a ray of its own."""
    model = load_model(DEMO_FOLDER)
    g, generator = model.generator.synthesis, torch.Generator().manual_seed(0)
    count, edge = 4, model.config.resolution
    ws = model.generator.mapping(torch.randn(count, model.config.z_dim, generator=generator), truncation_psi=0.7)
    z_bg = g.draw_background(count, generator)
    camera = model.prior.sample(count, generator)
    fast = g(ws, camera, z_bg=z_bg).image.clamp(-1, 1).flatten(2)
    drawn = torch.randperm(edge**2, generator=generator)[:1024]
    pixels = pixel_grid(edge, align_corners=model.config.field.align_corners)[drawn]
    strict = g.strict(ws, camera, pixels, z_bg=z_bg, options=RenderOptions()).colours.clamp(-1, 1)
    psnr_db = 10 * math.log10(4 / (fast[..., drawn] - strict).square().mean())
    assert psnr_db >= 30
