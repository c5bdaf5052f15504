"""Draw a preset's growth as the training code computes it: ``python docs/make_schedule.py`` writes ``growth.svg``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from stylenerf.engine.training.config import Config, load_config
from stylenerf.models.growth import Growth, growth_at, growth_levels

PICTURE = Path(__file__).resolve().parent / "growth.svg"
LEFT, TOP, WIDTH, HEIGHT = 80, 40, 620, 250  # the plot's frame in the picture
COLOURS = {"new": "#2a62c9", "volume": "#188e7a"}


def drawn(cfg: Config, name: str) -> str:
    """The picture: time in thousands of images to the right, the weight of each resolution in the image upwards."""
    g = cfg.generator
    levels = (g.start_resolution, *growth_levels(g.start_resolution, g.volume_resolution, g.resolution))
    last = 1.25 * cfg.growth.end_kimg
    row = HEIGHT / len(levels)
    shapes, labels = [], []
    for i, resolution in enumerate(levels):
        bottom = TOP + HEIGHT - i * row
        colour = COLOURS["volume" if resolution <= g.volume_resolution else "new"]
        heights = [bottom - 0.8 * row * weight(cfg, last * k / 400, resolution) for k in range(401)]
        points = [
            (LEFT + WIDTH * k / 400, y)
            for k, y in enumerate(heights)
            if y != heights[max(k - 1, 0)] or y != heights[min(k + 1, 400)]  # not within a level stretch
        ]
        outline = " ".join(f"{x:.1f},{y:.1f}" for x, y in [(LEFT, bottom), *points, (LEFT + WIDTH, bottom)])
        shapes.append(f'<polygon points="{outline}" fill="{colour}" fill-opacity="0.75"/>')
        labels.append(f'<text x="{LEFT - 8}" y="{bottom - 6:.1f}" text-anchor="end">{resolution} px</text>')
    for kimg in (0, cfg.growth.start_kimg, cfg.growth.end_kimg):
        x = LEFT + WIDTH * kimg / last
        shapes.append(f'<path d="M{x:.1f},{TOP} V{TOP + HEIGHT}" stroke="#777" stroke-dasharray="4 4"/>')
        labels.append(f'<text x="{x:.1f}" y="{TOP + HEIGHT + 20}" text-anchor="middle">{kimg:g}</text>')
    title = f'<text x="{LEFT}" y="22">{name}: weight of each resolution, by thousands of images shown</text>'
    size = f'width="{LEFT + WIDTH + 30}" height="{TOP + HEIGHT + 36}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="14" fill="#222">'
    body = "\n".join(['<rect width="100%" height="100%" fill="#fff"/>', *shapes, *labels, title])
    return f"{head}\n{body}\n</svg>\n"


def weight(cfg: Config, kimg: float, resolution: int) -> float:
    """Share of a resolution in the image that the discriminator sees after ``kimg`` thousand images."""
    g = cfg.generator
    now: Growth = growth_at(cfg.growth.alpha(round(1000 * kimg)), g.start_resolution, g.volume_resolution, g.resolution)
    newest = 1.0 if now.blend is None else now.blend
    if resolution == now.resolution:
        return newest
    return 1 - newest if resolution == now.previous else 0.0


if __name__ == "__main__":
    PICTURE.write_text(drawn(load_config("ffhq1024", None, []), "ffhq1024"))
