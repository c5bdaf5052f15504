"""Make the README's pictures from a finished quickstart run: ``python docs/make_pictures.py runs/quickstart``."""

import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from stylenerf.engine.pictures import save_png

DOCS = Path(__file__).resolve().parent


def enlarged(path: Path, factor: int = 2) -> Image.Image:
    picture = Image.open(path).convert("RGB")
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def side_by_side(*pictures: Image.Image, gap: int = 16) -> Image.Image:
    width = sum(p.width for p in pictures) + gap * (len(pictures) - 1)
    sheet = Image.new("RGB", (width, max(p.height for p in pictures)), "white")
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + gap
    return sheet


def main(run: Path) -> None:
    images = run / "images"
    newest = {kind: sorted(images.glob(f"{kind}-*.png"))[-1] for kind in ("samples", "turn", "depth")}
    pair = side_by_side(enlarged(images / "reals.png", 1), enlarged(newest["samples"], 1))
    save_png(pair, DOCS / "quickstart-samples.png")
    save_png(enlarged(newest["turn"]), DOCS / "quickstart-turn.png")
    save_png(enlarged(newest["depth"]), DOCS / "quickstart-depth.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
