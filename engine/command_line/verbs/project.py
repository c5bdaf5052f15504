"""``stylenerf project``: photographs back to styles and cameras of a model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...applications.project.projection_options import ProjectionOptions
from ...applications.render.choices import TERMS
from ...applications.render.label_argument import add_label_argument
from ...errors import UserError, short
from ...interrupt import Interrupt
from .common import hold_folder, new_folder

if TYPE_CHECKING:
    from ....models.camera import Camera
    from ...applications.project.projection import Projector
    from ...applications.project.projection_job import ProjectionJob
    from ...applications.render.subjects import Subjects

HELP = """Find photographs in a model: style, background and camera of each (projection, or inversion).

    stylenerf project runs/ffhq256 me.jpg --out me                          style w and camera (yaw, pitch)
    stylenerf project runs/ffhq256 me.jpg --out me --space w+ --perceptual vgg16.pt
    stylenerf project runs/ffhq256 me.jpg --out me --tune 300               then let the generator give way: me/model
    stylenerf project runs/cars left.png front.png --out car --same-subject   one car, one style, a camera for each
    stylenerf project runs/cars a.png b.png --out two --camera fixed --yaw=-0.3,0.4 --pitch 1.5
    stylenerf project runs/quickstart made.png --out found --polish 15      to the last digit, on pixels
    stylenerf project --resume found                                        go on, bit for bit, after a stop
    stylenerf render me/model --out turn --latents me/latents.npz           what was found, from all sides

Photographs of any size: turned upright, centre-cropped to a square, resized. Subjects from several sides are rendered
first and the closest are followed, which costs --subjects x --cameras pictures. Without --perceptual pixels are
compared over a pyramid of averages. The perceptual network is a TorchScript file such as the vgg16.pt of StyleGAN2's
and StyleGAN3's projectors; TorchScript is a program: it runs no Python, but take it only from whom you trust.
Angles are radians, pitch from the zenith (pi/2 is level). The folder must be new or empty; Ctrl-C saves.
"""

_OPTIONS = (
    "space", "free", *TERMS, "fov", "same_subject", "subjects", "cameras", "starts", "steps", "polish", "tune", "rate",
    "noise", "regularise", "pixel_weight", "tune_rate", "locality", "label", "seed",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", nargs="?", help="a run's folder, a checkpoint, or a converted model")
    parser.add_argument("photos", metavar="PHOTO", nargs="*", help="any image that Pillow reads")
    parser.add_argument("--out", metavar="DIR", help="folder, new or empty")
    parser.add_argument("--resume", metavar="DIR", help="go on with the projection in a folder; takes no other choices")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    _add_wanted(parser)
    _add_how(parser)
    parser.add_argument(
        "--truth", metavar="FILE", help="the true styles and cameras, latents.npz of a rendering: prints distances"
    )
    parser.add_argument(
        "--video", choices=("gif", "webp", "none"), default="gif", help="of the way there (default: %(default)s)"
    )
    parser.add_argument(
        "--save-every", metavar="N", type=int, default=50, help="steps between saved states (default: %(default)s)"
    )
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")


def _add_wanted(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is looked for")
    group.add_argument("--space", choices=("w", "w+"), help="one style, or one for every layer (default: w)")
    group.add_argument("--same-subject", action="store_const", const=True, help="all photos show one subject")
    group.add_argument("--camera", choices=("fixed", "optimise"), help="default: optimise")
    group.add_argument("--free", metavar="LIST", help=f"what to optimise of {', '.join(TERMS)} (default: yaw,pitch)")
    where = "where the camera starts or stands: one number, or one for each photo (--yaw=-0.3,0.2)"
    group.add_argument("--yaw", metavar="RAD", help=where)
    group.add_argument("--pitch", metavar="RAD", help="the same")
    group.add_argument("--radius", metavar="R", help="the same, world units (default: the prior's middle)")
    group.add_argument("--roll", metavar="RAD", help="the same (default: 0)")
    group.add_argument("--fov", metavar="DEG", type=float, help="field of view (default: the model's)")
    add_label_argument(group)


def _add_how(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how")
    own = ProjectionOptions()

    def number(name: str, kind: type, text: str, metavar: str = "N") -> None:
        default = getattr(own, name)
        group.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, type=kind,
                           help=f"{text} (default: {default:g})")  # fmt: skip

    number("subjects", int, "subjects that the search renders")
    number("cameras", int, "sides it renders each from")
    number("starts", int, "of the closest, followed for a fifth of the steps")
    number("steps", int, "of the descent from the best of them")
    number("polish", int, "Levenberg-Marquardt steps on pixels afterwards, each as many pictures as unknowns")
    number("tune", int, "steps of pivotal tuning of the generator's weights, which becomes DIR/model")
    number("rate", float, "learning rate, in standard deviations", "X")
    number("noise", float, "on styles at the beginning, in standard deviations", "X")
    number("regularise", float, "pull towards the average: weight of the mean square of its coordinates", "X")
    number("tune_rate", float, "learning rate of the tuning", "X")
    number("locality", float, "weight of leaving other subjects and sides as they are while tuning", "X")
    number("seed", int, "of everything random")
    group.add_argument("--perceptual", metavar="FILE", help="TorchScript network that compares pictures; see above")
    group.add_argument("--pixel-weight", metavar="X", type=float, help="of pixels (default: 1, or 0.1 with a network)")


def run(args: argparse.Namespace) -> int:
    """Check everything, look, say what was found."""
    from ...training.stats import ProgressBar

    if args.save_every < 1:
        raise UserError(f"--save-every: wanted at least 1, got {args.save_every}")
    job = _resumed(args) if args.resume is not None else _new(args)
    p = job.projector
    truth = None if args.truth is None else _truth(args.truth, p)
    if args.resume is None:
        with ProgressBar(p.search_cost, "search", enabled=not args.no_progress) as bar:
            p.search(bar.update)
        job.save()
    _advance(job, args)
    made = job.finish(args.video)
    _report(job, truth)
    for path in made:
        print(f"wrote:       {path}")
    return 0


def _advance(job: ProjectionJob, args: argparse.Namespace) -> None:
    from ...training.stats import ProgressBar

    p, saved = job.projector, job.projector.step
    bar = ProgressBar(p.total, "project", initial=p.step, enabled=not args.no_progress)
    with bar, Interrupt() as interrupt:
        while p.step < p.total and not interrupt.requested:
            stage, losses = p.advance()
            bar.update(1, f"{stage}, loss {losses.mean():.5f}")
            if p.step - saved >= args.save_every:
                job.save()
                saved = p.step
        if p.step != saved:
            job.save()
        if interrupt.requested:
            raise KeyboardInterrupt


def _new(args: argparse.Namespace) -> ProjectionJob:
    from ...applications.project.perceptual import PerceptualNet
    from ...applications.project.photos import load_photos
    from ...applications.project.projection import Projector
    from ...applications.project.projection_job import ProjectionJob
    from ...device import pick_device
    from ...model_io import load_model

    if args.model is None or not args.photos:
        raise UserError("MODEL, PHOTO: wanted a model and at least one photograph (or --resume DIR), got fewer")
    out, options = new_folder(args), _options(args)
    device = pick_device(args.device)
    model = load_model(args.model, device)
    photos = load_photos(args.photos, model.generator.synthesis.growth().resolution)
    net = None if args.perceptual is None else PerceptualNet(args.perceptual, device)
    return ProjectionJob(Projector(model, photos, options, net), [str(p) for p in args.photos], out)


def _resumed(args: argparse.Namespace) -> ProjectionJob:
    from ...applications.project.projection_job import resume_job
    from ...device import pick_device

    given = [name for name in (*_OPTIONS, "model", "out", "camera", "perceptual") if getattr(args, name) is not None]
    if given:
        name = given[0] if given[0] != "model" else "MODEL"
        raise UserError(f"--resume: wanted alone (the projection has its own choices), got also {name}")
    out = Path(args.resume)
    if out.is_dir():
        hold_folder(args, out)  # before anything in it is read
    return resume_job(out, pick_device(args.device))


def _options(args: argparse.Namespace) -> ProjectionOptions:
    values: dict[str, Any] = {name: getattr(args, name) for name in _OPTIONS if getattr(args, name) is not None}
    values.update({name: _numbers(name, values[name]) for name in TERMS if name in values})
    if "fov" in values:
        values["fov_deg"] = values.pop("fov")
    if args.camera == "fixed":
        if args.free is not None:
            raise UserError(f"--free: has no meaning for --camera fixed, got {args.free}")
        values["free"] = ()
    elif args.free is not None:
        values["free"] = tuple(part.strip() for part in args.free.split(","))
    return ProjectionOptions(**values)


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
        if all(abs(v) < 1e6 for v in values):  # False for NaN
            return values
    except ValueError:
        pass
    raise UserError(f"--{name}: wanted a number, or one for each photo such as -0.3,0.2, got {short(text)}")


def _truth(path: str, p: Projector) -> tuple[Subjects, Camera]:
    """Styles and cameras of a file, the cameras perhaps in the cameras.json beside it, as ``render`` leaves them."""
    import torch

    from ...applications.render.paths import read_cameras
    from ...applications.render.subjects import load_subjects

    subjects, camera = load_subjects(path, p.source)
    beside = Path(path).with_name("cameras.json")
    if camera is None and beside.is_file():
        camera = read_cameras(beside)
    photos, cameras = len(p.criterion.photos), 0 if camera is None else len(camera)
    if camera is None or not {len(subjects), cameras} <= {1, photos}:
        raise UserError(f"--truth: wanted styles and cameras of 1 or {photos} photos (cameras in the file, or in "
                        f"cameras.json beside it), got {len(subjects)} and {cameras}")  # fmt: skip
    every = torch.arange(photos)
    return subjects[every % len(subjects)], camera.to(subjects.ws.device)[every % cameras]


def _report(job: ProjectionJob, truth: tuple[Subjects, Camera] | None) -> None:
    from ...applications.project.projection_job import camera_distance, latent_distance, subjects_and_cameras

    p = job.projector
    poses = p.chart.poses(p.projected)[0].tolist()
    for i, name in enumerate(job.file_names):
        yaw, pitch, radius, roll = poses[i]
        losses = f"loss {p.history[0, i]:.5f} to {p.history[-1, i]:.5f}, " if len(p.history) else ""
        print(f"{name + ':':12s} {losses}yaw {yaw:.4f}, pitch {pitch:.4f}, radius {radius:.4f}, roll {roll:.4f}")
    if truth is None:
        return
    stages = {"average": p.average, "search": p.found, "found": p.projected}
    for name, u in stages.items():
        subjects, camera = subjects_and_cameras(p, u)
        w, angle = latent_distance(subjects, truth[0]), camera_distance(camera, truth[1])
        print(f"{name + ':':12s} {w.mean():.4f} from the true w, {angle.mean():.5f} rad from the true camera")
