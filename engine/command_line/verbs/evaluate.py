"""``stylenerf evaluate``: figures of a model or a set of pictures, with the protocol that they were made by."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import UserError
from ...ownership import check_writable

if TYPE_CHECKING:
    import torch

    from ...data import Dataset
    from ...model_io import Model
    from ...training.metrics.protocol import Result

HELP = """Evaluate a model or a set of pictures: FID, KID, precision and recall, sliced Wasserstein, views that agree.

    stylenerf evaluate runs/quickstart --out figures.json             against its own data; needs no detector
    stylenerf evaluate runs/ffhq256 --detector inception.pt --images 50000 --out fid.json
    stylenerf evaluate models/ffhq --data photos.zip --detector torch-fidelity:weights.pth --out fid.json
    stylenerf evaluate made/ --data photos/ --resolution 256 --detector inception.pt --out fid.json
    stylenerf compare fid.json other.json                             refuses figures of different protocols

FID, KID, precision and recall want a detector: a TorchScript file that you name (uint8 [N, 3, H, W] -> [N, D]; the one
of published figures is called inception-2015-12-05.pt), or torch-fidelity with its weights at hand. Nothing is
downloaded. Statistics of the data are kept by hash, so that only the first evaluation computes them. Intervals are of
95 %. Beside the figures lies their protocol: detector, resolution, resizing, counts, truncation, seed, data, mirror.

Of a model also, fast and strictly: view_residual_ratio (what is left of the difference of two views after one is
carried into the other; 0 is a solid), pose_sensitivity (0: the camera is ignored), and on procedural data depth_error.
With --out a picture of what is left: FILE.views.png.
"""
IMAGES = 2048


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SOURCE", help="a run, checkpoint, model or demo; or a folder or zip of images"
    )
    parser.add_argument("--data", metavar="PATH", help="a folder, zip or 'procedural' (default: the model's own data)")
    parser.add_argument("--out", metavar="FILE", required=True, help="a .json for figures and protocol")
    what = parser.add_argument_group("what is computed")
    what.add_argument("--detector", metavar="FILE", help="TorchScript file, or torch-fidelity[:WEIGHTS]")
    what.add_argument("--images", metavar="N", type=int, help=f"samples (default: {IMAGES}, of a set all)")
    what.add_argument("--reference-images", metavar="N", type=int, help="training images (default: all)")
    what.add_argument("--mirror", action="store_true", help="training images also flipped (default: as in training)")
    what.add_argument("--resolution", metavar="PX", type=int, help="of images from files (a model has its own)")
    what.add_argument("--truncation", metavar="PSI", type=float, default=1.0, help="of a model (default: %(default)s)")
    what.add_argument("--strict", action="store_true", help="samples of a model with every pixel a ray of its own")
    what.add_argument("--seed", metavar="N", type=int, default=0, help="of everything random (default: %(default)s)")
    what.add_argument(
        "--resamples", metavar="N", type=int, default=50, help="of FID's interval; 0: none (default: %(default)s)"
    )
    what.add_argument(
        "--subjects", metavar="N", type=int, default=8, help="for the figures on views; 0: none (default: %(default)s)"
    )
    how = parser.add_argument_group("how")
    how.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    how.add_argument("--batch", metavar="N", type=int, default=16, help="pictures at a time (default: %(default)s)")
    how.add_argument("--cache", metavar="DIR", help="statistics of data sets (default: ~/.cache/stylenerf/statistics)")
    how.add_argument("--no-cache", action="store_true", help="keep and use no statistics")
    how.add_argument("--no-progress", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Open everything, evaluate, write figures and protocol."""
    from ...applications.evaluate.job import Evaluation, check_sizes
    from ...applications.render.choices import MAX_SEED
    from ...applications.render.views import ViewOptions, check_options
    from ...device import pick_device
    from ...model_io import Model
    from ...pictures import labelled_rows, save_png
    from ...training.metrics.detector import load_detector
    from ...training.stats import ProgressBar

    out = Path(args.out)
    if out.suffix != ".json":
        raise UserError(f"--out: wanted a .json, got {args.out}")
    check_writable(out)
    for name, least in (("images", 2), ("reference_images", 2), ("batch", 1), ("resamples", 0), ("subjects", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')}: wanted at least {least}, got {value}")
    if not 0 <= args.seed <= MAX_SEED - args.subjects:
        raise UserError(f"--seed: wanted 0 to {MAX_SEED - args.subjects}, got {args.seed}")
    if not abs(args.truncation) <= 100:  # False for NaN
        raise UserError(f"--truncation: wanted a number, 0 to 1 as a rule, got {args.truncation}")
    device = pick_device(args.device)
    detector = None if args.detector is None else load_detector(args.detector, device)
    source, data = _open(args, device)
    check_sizes(source, data)
    if isinstance(source, Model):
        check_options(source, ViewOptions(strict=args.strict))
    evaluation = Evaluation(source, str(args.source), data, detector, _options(args, source, data), device)
    print(f"data:        {data.describe()}")
    with ProgressBar(evaluation.steps(), "evaluate", enabled=not args.no_progress) as bar:
        evaluation.step = lambda stage, n: bar.update(n, stage)
        result, pictures = evaluation.run()
    for line in table({str(args.source): result}):
        print(line)
    if pictures:
        save_png(labelled_rows(pictures), out.with_suffix(".views.png"))
        print(f"wrote:       {out.with_suffix('.views.png')}")
    result.write(out)
    print(f"wrote:       {out}")
    return 0


def _options(args, source, data):  # type: ignore[no-untyped-def]
    from ...applications.evaluate.job import EvaluateOptions
    from ...model_io import Model
    from ...training.metrics.reference import cache_folder, check_count

    of_model = isinstance(source, Model)
    images = (args.images or IMAGES) if of_model else check_count("--images", args.images, len(source))
    cache = None if args.no_cache else Path(args.cache) if args.cache else cache_folder()
    return EvaluateOptions(
        images, check_count("--reference-images", args.reference_images, len(data)), args.truncation, args.seed,
        args.strict, args.resamples, args.subjects, args.batch, cache,
    )  # fmt: skip


def _open(args: argparse.Namespace, device: torch.device) -> tuple[Model | Dataset, Dataset]:
    from ...data import open_dataset
    from ...model_io import DEMO, load_model
    from ...training.config import Config
    from ...training.config_io import from_dict

    if _holds_images(args.source) and args.source != DEMO:
        if args.data is None or args.resolution is None:
            raise UserError(f"--data, --resolution: wanted both, since {args.source} is no model, got one or none")
        size = args.resolution
        return open_dataset(args.source, resolution=size, report=print), open_dataset(
            args.data, resolution=size, mirror=args.mirror, report=print
        )
    if args.resolution is not None:
        raise UserError(f"--resolution: wanted none with a model, which has its own, got {args.resolution}")
    model = load_model(args.source, device)
    known = model.meta.get("config") or (model.meta.get("source") or {}).get("config")
    config = None if known is None else from_dict(Config, known, where="")
    path = args.data or (None if config is None else config.data.path)
    if path is None:
        raise UserError(
            f"--data: wanted a folder, a zip or 'procedural' ({args.source} does not name its data), got none"
        )
    own = config is not None and path == config.data.path
    data = open_dataset(
        path,
        resolution=model.generator.synthesis.growth().resolution,
        mirror=args.mirror or bool(own and config and config.data.mirror),
        use_labels=model.label_kind in ("class", "vector"),
        camera_prior=model.prior,
        num_scenes=config.data.scenes if config else 4096,
        seed=config.train.seed if config else 0,
        report=print,
    )
    return model, data


def _holds_images(path: str) -> bool:
    """Whether a path is meant as pictures: a zip, or a folder that is neither a run nor a model."""
    if not os.path.isdir(path):
        return path.lower().endswith(".zip")
    return not any((Path(path) / name).exists() for name in ("manifest.json", "checkpoints", "config.json"))


def table(results: dict[str, Result]) -> list[str]:
    """Figures as lines of text: a row for each figure, a column for each result."""
    names = list(dict.fromkeys(name for result in results.values() for name in result.figures))
    if len(results) == 1:
        (result,) = results.values()
        return [f"{name:28s} {_text(result.figures[name])}" for name in names]
    width = max(24, *(len(name) + 2 for name in results))
    lines = [f"{'':28s} " + "".join(f"{name:{width}s}" for name in results)]
    for name in names:
        cells = [_text(r.figures[name]) if name in r.figures else "-" for r in results.values()]
        lines.append(f"{name:28s} " + "".join(f"{cell:{width}s}" for cell in cells).rstrip())
    return lines


def _text(figure) -> str:  # type: ignore[no-untyped-def]
    if figure.value is None:
        return "not finite"
    span = "" if figure.low is None else f" [{figure.low:.4g}, {figure.high:.4g}]"
    return f"{figure.value:.5g}{span}"
