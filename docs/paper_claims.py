"""The paper's claims in small: variants of the quickstart, trained and compared, quality and consistency side by side.

    python docs/paper_claims.py                                all of it: hours on a CPU
    python docs/paper_claims.py --seeds 1 --only default,bilinear
    python docs/paper_claims.py --add "half the rate: optimiser.generator_lr=0.002 optimiser.discriminator_lr=0.0015"

All are of 64 px from a volume of 16 px, a quarter instead of the quickstart's half, so that the upsampler has more to
do.

Runs lie in runs/claims. A finished one is kept, one that was stopped goes on where it stopped. After each run claims.md
is a table of the last figures (docs/train.md explains them), and claims.png shows two latents of each variant under a
turning camera.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from stylenerf.engine.pictures import save_png
from stylenerf.engine.training.stats import Row, read_stats

ROOT = Path(__file__).resolve().parent.parent
SMALL = "generator.volume_resolution=16 growth.start_kimg=1.5 growth.end_kimg=2.25 train.snapshot_kimg=1.75"
VARIANTS = {
    "default": "",
    "path loss off": "loss.nerf_path_weight=0",
    "path loss times 5": "loss.nerf_path_weight=5",
    "pixelshuffle": "generator.upsampler.mode=pixelshuffle",
    "bilinear": "generator.upsampler.mode=bilinear",
    "StyleGAN2's": "generator.upsampler.mode=default generator.upsampler.kernel_size=3 loss.nerf_path_weight=0",
    "without growth": "growth.enabled=false",
}
FIGURES = {  # column -> key, digits
    "SWD x 1000": ("Metric/swd", 0),
    "residual / difference": ("Metric/view_residual_ratio", 2),
    "of the scenes": ("Metric/view_residual_ratio_true", 2),
    "to strict, dB": ("Metric/strict_psnr_db", 1),
    "pose sensitivity": ("Metric/pose_sensitivity", 2),
    "depth correlation": ("Metric/depth_correlation", 2),
}


def main() -> None:
    options, variants = arguments()
    chosen = list(variants)
    jobs = [(name, seed) for seed in range(options.seeds) for name in chosen]
    started, trained = time.monotonic(), 0
    for number, (name, seed) in enumerate(jobs):
        run = folder(options.out, name, seed)
        if last_row(run).get("Progress/images", 0) >= options.kimg * 1000:
            continue
        left_min = (time.monotonic() - started) / trained * (len(jobs) - number) / 60 if trained else None
        estimate = "" if left_min is None else f"; about {left_min:.0f} minutes left"
        print(f"run {number + 1} of {len(jobs)}: {name}, seed {seed}{estimate}", flush=True)
        train(run, seed, options.kimg, variants[name].split())
        trained += 1
        report(options.out, chosen, options.seeds)
    print(report(options.out, chosen, options.seeds))


def arguments() -> tuple[argparse.Namespace, dict[str, str]]:
    """The command line, and the variants that it asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/claims"), help="default: %(default)s")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each variant (default: %(default)s)")
    parser.add_argument("--kimg", type=float, default=3.5, help="thousand images of each run (default: %(default)s)")
    parser.add_argument("--only", help="variants by name, separated by commas: " + ", ".join(VARIANTS))
    parser.add_argument("--add", action="append", default=[], metavar="NAME: KEY=VALUE ...", help="one more variant")
    options = parser.parse_args()
    for text in options.add:
        if ": " not in text:
            parser.error(f"argument --add: wanted NAME: KEY=VALUE ..., got {text!r}")
    variants = VARIANTS | dict(text.split(": ", 1) for text in options.add)
    names = options.only.split(",") if options.only else list(variants)
    if unknown := [name for name in names if name not in variants]:
        parser.error(f"argument --only: wanted some of {', '.join(variants)}, got {', '.join(unknown)}")
    return options, {name: variants[name] for name in names}


def folder(out: Path, name: str, seed: int) -> Path:
    return out / f"{name.replace(' ', '-')}-{seed}"


def train(run: Path, seed: int, kimg: float, overrides: list[str]) -> None:
    """A new run, or the rest of one that was stopped."""
    settings = [f"train.total_kimg={kimg}"]
    start = ["--resume", str(run)]
    if not (run / "config.json").exists():
        start = ["--preset", "quickstart", "--out", str(run)]
        settings += [f"train.seed={seed}", *SMALL.split(), *overrides]
    sets = [part for text in settings for part in ("--set", text)]
    command = [sys.executable, str(ROOT / "train.py"), *start, *sets, "--no-progress"]
    log = run.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as output:
        if subprocess.run(command, stdout=output, stderr=subprocess.STDOUT).returncode:
            sys.exit(f"{run}: training failed, see {log}")


def last_row(run: Path) -> Row:
    """The last row of statistics that has figures; empty before there is one."""
    rows = read_stats(run / "stats.jsonl") if (run / "stats.jsonl").exists() else []
    return next((row for row in reversed(rows) if "Metric/view_residual" in row), {})


def report(out: Path, names: list[str], seeds: int) -> str:
    """Write table and picture of what is there; returns the table."""
    lines = ["| variant | runs | " + " | ".join(FIGURES) + " |", "|---" * (len(FIGURES) + 2) + "|"]
    strips = []
    for name in names:
        rows = [row for seed in range(seeds) if (row := last_row(folder(out, name, seed)))]
        if rows:
            cells = [cell([row[key] for row in rows if row.get(key) is not None], n) for key, n in FIGURES.values()]
            lines.append(f"| {name} | {len(rows)} | " + " | ".join(cells) + " |")
            strips.append(sorted((folder(out, name, 0) / "images").glob("turn-*.png"))[-1:])
    text = "\n".join(lines) + "\n"
    (out / "claims.md").write_text(text, encoding="utf-8")
    pictures = [Image.open(path).convert("RGB") for strip in strips for path in strip]
    if pictures:
        save_png(stacked(pictures), out / "claims.png")
    return text


def cell(values: list[float], digits: int) -> str:
    """Mean, and the range of several runs."""
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def stacked(strips: list[Image.Image], rows: int = 2) -> Image.Image:
    """The first latents of each variant, in the order of the table."""
    height = rows * strips[0].height // 4
    sheet = Image.new("RGB", (max(s.width for s in strips), len(strips) * (height + 8)), "white")
    for i, strip in enumerate(strips):
        sheet.paste(strip.crop((0, 0, strip.width, height)), (0, i * (height + 8)))
    return sheet


if __name__ == "__main__":
    main()
