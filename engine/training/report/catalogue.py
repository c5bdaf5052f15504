"""What the figures of a run mean, and which of their values are healthy."""

from __future__ import annotations

from dataclasses import dataclass

from .record import Points, Record

_KNOWN_ELSEWHERE = ("Progress/", "Stats/", "Time/", "Data/", "Growth/alpha")


@dataclass(frozen=True)
class Chart:
    """One chart of the report: lines by name, what they are and what is healthy, a sentence each."""

    title: str
    unit: str
    lines: dict[str, Points]
    meaning: str
    healthy: str = ""
    log_y: bool = False


def charts(record: Record) -> list[Chart]:
    """Every chart that the run has figures for, those of the result first; figures that are not known come last."""
    known = [*_results(record), *_training(record), *_resources(record)]
    used = {key for chart in known for key in _USED.get(chart.title, ())}
    keys = sorted({key for row in record.rows for key in row} - used)
    others = [
        Chart(key, "", {key: record.points(key)}, "A figure of this run that has no description.")
        for key in keys
        if not key.startswith(_KNOWN_ELSEWHERE) and key not in _SILENT
    ]
    return [chart for chart in [*known, *others] if any(chart.lines.values())]


_USED = {
    "Distance from the data": ("Metric/swd",),
    "Do views agree": ("Metric/view_residual_ratio", "Metric/view_residual_ratio_true"),
    "Does the camera matter": ("Metric/pose_sensitivity", "Metric/pose_sensitivity_true"),
    "Agreement with strict rendering": ("Metric/strict_psnr_db",),
    "FID": ("Metric/fid",),
    "KID": ("Metric/kid",),
    "Precision and recall": ("Metric/precision", "Metric/recall"),
    "Depth against the truth": ("Metric/depth_correlation",),
    "Error of the mean depth": ("Metric/depth_error",),
    "Solid share of two views": ("Metric/view_overlap",),
    "Losses": ("Loss/generator", "Loss/discriminator"),
    "Augmentation": ("Augment/p", "Score/real_sign"),
    "Regularisers": ("Loss/nerf_path", "Loss/distortion", "Loss/path_length", "Loss/r1"),
    "Scores of the discriminator": ("Score/real", "Score/fake"),
    "Gradient norms": tuple(f"Gradient/{p}_norm" for p in ("generator", "path_length", "discriminator", "r1")),
    "Gradient elements that are not finite": tuple(
        f"Gradient/{p}_nonfinite" for p in ("generator", "path_length", "discriminator", "r1")
    ),
    "Growth": ("Growth/resolution",),
    "Peak memory": ("Memory/peak_mib",),
}
_SILENT = ("Metric/view_difference", "Metric/view_residual")  # shown by their ratio


def _lines(record: Record, *keys: str) -> dict[str, Points]:
    return {_short(key): record.points(key) for key in keys if record.points(key)}


def _short(key: str) -> str:
    return key.split("/", 1)[1].removesuffix("_norm").removesuffix("_nonfinite").replace("_", " ")


def _results(record: Record) -> list[Chart]:
    swd = {f"{edge} px": points for edge, points in record.by_resolution("Metric/swd").items()}
    return [
        Chart(
            "Distance from the data", "sliced Wasserstein x 1000", swd,
            "How far the pictures are as a set from the training images, in details and colours. Figures at different "
            "resolutions do not compare, so each has its own line.",
            "Falls, then levels off. A lasting rise at one resolution: the best model lies behind.",
        ),
        *_by_features(record),
        Chart(
            "Variety of samples", "relative to the training images", {"variety": record.variety},
            "How much samples of one sheet differ from each other, over how much training images do.",
            "0.6 to 1.1 after the first pictures. Below 0.5 the generator repeats itself; near 0 all samples are one.",
        ),
        Chart(
            "Do views agree", "residual / difference", _lines(record, *_USED["Do views agree"]),
            "The share of the difference between two views that is left after one is carried into the other by its "
            "depth; 'true' is what the volume's resolution leaves of the training scenes.",
            "Falls, often below 0.6. At 1 the depth explains nothing: painted in 2-D, or the field is fog.",
        ),
        Chart(
            "Does the camera matter", "pose sensitivity", _lines(record, *_USED["Does the camera matter"]),
            "The difference between two views of one subject, over that between two subjects in one view.",
            "Near 'true' or a few tenths. Near 0 every camera sees the same side.",
        ),
        Chart(
            "Agreement with strict rendering", "dB", _lines(record, *_USED["Agreement with strict rendering"]),
            "How near a fast picture is to one in which every pixel is a ray of its own.",
            "Above 25 dB. Lower: the 2-D network adds what the field does not have.",
        ),
        Chart(
            "Depth against the truth", "correlation", _lines(record, *_USED["Depth against the truth"]),
            "The mean depth of samples against the mean true depth of the scenes (procedural data only).",
            "Above 0.9. Negative: the shapes are inside out.",
        ),
        Chart(
            "Error of the mean depth", "world units", _lines(record, *_USED["Error of the mean depth"]),
            "The same as a mean absolute difference, in which a wrong distance counts too.",
            "Falls; a few hundredths where cameras stand at distance 1.",
        ),
        Chart(
            "Solid share of two views", "share of pixels", _lines(record, *_USED["Solid share of two views"]),
            "Pixels where both of two views see something solid.",
            "As large as the objects in the pictures. 0: the field is fog. A sudden rise: a wall before the cameras.",
        ),
    ]  # fmt: skip


def _by_features(record: Record) -> list[Chart]:
    """Figures of a detector's features, where the run has one."""
    fid, kid = ({f"{e} px": p for e, p in record.by_resolution(key).items()} for key in ("Metric/fid", "Metric/kid"))
    return [
        Chart(
            "FID", "Frechet distance", fid,
            "Distance of samples from the training images in a detector's features; protocols lie in evaluations/.",
            "Falls, then levels off. Compare only figures of one protocol: stylenerf compare.",
        ),
        Chart(
            "KID", "kernel distance", kid, "The same by a kernel; without bias: few images may give less than 0.",
            "Falls towards 0.",
        ),
        Chart(
            "Precision and recall", "share", _lines(record, *_USED["Precision and recall"]),
            "The share of samples that look like training images, and of training images that samples cover.",
            "Both rise. High precision with falling recall: variety is being lost.",
        ),
    ]  # fmt: skip


def _training(record: Record) -> list[Chart]:
    return [
        Chart(
            "Losses", "", _lines(record, *_USED["Losses"]),
            "softplus(-D(fake)) for the generator; softplus(D(fake)) + softplus(-D(real)) for the discriminator. At "
            "chance they are 0.69 and 1.39.",
            "Both move little: 0.7 to 3 and 0.5 to 1.3. The discriminator's near 0 while the generator's climbs: it "
            "tells every picture.",
        ),
        Chart(
            "Scores of the discriminator", "logit", _lines(record, *_USED["Scores of the discriminator"]),
            "Its mean answer to training images and to samples; above 0 it says 'real'.",
            "A gap that stays. A gap that keeps widening: it learns the images by heart, as it does with few of them.",
        ),
        Chart(
            "Augmentation", "", _lines(record, *_USED["Augmentation"]),
            "Probability p of each transform, and the mean sign of the discriminator's answer to training images: 1 "
            "where it calls all of them real.",
            "The sign stays near augment.target, and p rises slowly and levels off. p at augment.limit with a sign "
            "near 1: too few images.",
        ),
        Chart(
            "Regularisers", "", _lines(record, *_USED["Regularisers"]),
            "NeRF path: colours of single rays against the picture. Distortion: spread of density along rays. Path "
            "length and R1: smoothness of generator and discriminator. Before their weights in the loss.",
            "Small and steady.", log_y=True,
        ),
        Chart(
            "Gradient norms", "", _lines(record, *_USED["Gradient norms"]),
            "Length of each phase's gradient before the optimiser.",
            "Drifts by less than tenfold. A spike that does not come down precedes divergence.", log_y=True,
        ),
        Chart(
            "Gradient elements that are not finite", "per step",
            {k: p for k, p in _lines(record, *_USED["Gradient elements that are not finite"]).items()
             if any(y for _, y in p)},
            "Elements that were infinite or NaN and were replaced.",
            "None. Some in half precision while it starts; lasting ones end a run.",
        ),
        Chart(
            "Growth", "px", _lines(record, "Growth/resolution"),
            "Resolution that is trained.", "Rises from the first to the last size as configured.", log_y=True,
        ),
    ]  # fmt: skip


def _resources(record: Record) -> list[Chart]:
    speed = [(x, 1000 / y) for x, y in record.points("Time/sec_per_kimg") if y > 0]
    return [
        Chart(
            "Images per second", "images/s", {"images/s": speed}, "Training images a second, snapshots not counted.",
            "Constant at one resolution. A fall: the data does not come fast enough, or others use the machine.",
        ),
        Chart(
            "Peak memory", "MiB", _lines(record, "Memory/peak_mib"),
            "Most memory so far: that of torch on a CUDA device, else of the process.",
            "Level once the last resolution is reached.",
        ),
    ]  # fmt: skip
