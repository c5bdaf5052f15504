"""Signs of health and of trouble in a run, with the figures that they come from and what helps."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .record import Record

Level = Literal["bad", "watch", "good"]
Kind = Literal[
    "nonfinite", "discriminator", "blind", "distance", "variety", "depth", "views", "camera", "strict", "few", "spike"
]

CHANCE = 2 * math.log(2)  # the discriminator's loss if it answers 0 to everything
# Loss of the discriminator over the last quarter. Healthy runs of quickstart and demo stay at 0.48 to 1.3; at 0.2 every
# picture is told with a probability of 0.9, and the generator's gradient no longer says how to be better.
D_AHEAD, D_WON = 0.4, 0.2
# Samples of healthy runs differ 0.65 to 1.0 times as much as training images do (quickstart, demo: 25 runs).
LITTLE_VARIETY, NO_VARIETY = 0.5, 0.25
# Distance from the data over its best at the same resolution; between snapshots of a healthy run it moves by a tenth.
WORSE, MUCH_WORSE = 1.25, 2.0
DEPTH_POOR = 0.5  # correlation; runs that show solids reach 0.95, those inside out -0.7
VIEWS_POOR, VIEWS_PAINTED = 0.75, 0.95  # residual over difference; 1: depth explains nothing
CAMERA_IGNORED = 0.05  # difference between views over that between subjects; scenes themselves have 0.12
STRICT_POOR_DB = 20.0  # an error of a tenth of the range
SPIKE = 30.0  # largest gradient norm over the median
FEW, VERY_FEW = 500, 60  # training images
# Loss of the discriminator over the last quarter, over its highest. With 20 images it came down from 1.05 to 0.55
# between 1 and 3 thousand images shown, while the distance from the data rose from 87 to 242. With thousands of images
# growth alone lowers it, so that this is asked of few only.
BY_HEART = 0.7


@dataclass(frozen=True)
class Sign:
    """One thing that the figures show."""

    level: Level
    kind: Kind
    title: str
    seen: str  # the figures
    helps: str = ""  # what to do


def signs(record: Record) -> list[Sign]:
    """What the run shows, worst first; a run without any trouble gets one sign that says so."""
    found = [sign for look in _LOOKS if (sign := look(record)) is not None]
    found.sort(key=lambda sign: ("bad", "watch", "good").index(sign.level))
    if not any(record.points("Loss/generator")):
        return [Sign("watch", "distance", "Nothing trained yet", "The statistics hold no step of training.")]
    return found or [Sign("good", "distance", "No sign of trouble", _healthy(record))]


def _healthy(record: Record) -> str:
    parts = []
    if record.points("Metric/swd"):
        first, last = record.points("Metric/swd")[0][1], record.last("Metric/swd")
        parts.append(f"distance from the data {first:.3g} at the start, {last:.3g} now")
    if record.variety:
        parts.append(f"samples differ {record.variety[-1][1]:.2f} times as much as training images")
    if (loss := record.recent("Loss/discriminator")) is not None:
        parts.append(f"loss of the discriminator {loss:.2f}")
    return "; ".join(parts).capitalize() + "."


def _nonfinite(record: Record) -> Sign | None:
    keys = sorted({key for row in record.rows for key in row if key.endswith("_nonfinite")})
    bad = [key for key in keys if any(y for _, y in record.points(key))]
    ended = (record.rows[-1].get("Stats/nonfinite_values") or 0) > 0 and "Loss/generator" in record.rows[-1]
    ended = ended and record.rows[-1]["Loss/generator"] is None
    if not bad and not ended:
        return None
    names = ", ".join(key.removeprefix("Gradient/").removesuffix("_nonfinite") for key in bad)
    seen = f"Gradients that are not finite: {names}." if names else "The last losses are not finite."
    return Sign(
        "bad" if ended else "watch", "nonfinite", "Diverged" if ended else "Values that are not finite", seen,
        "Go on from the last good checkpoint with half the rates; a few at the start of fp16 do no harm.",
    )  # fmt: skip


def _discriminator(record: Record) -> Sign | None:
    loss = record.recent("Loss/discriminator")
    if loss is None or loss >= D_AHEAD:
        return None
    real, fake = record.recent("Score/real"), record.recent("Score/fake")
    gap = f", scores {real:.2g} for training images and {fake:.2g} for samples" if real and fake else ""
    few = record.data_images is not None and record.data_images < FEW
    why = f"; with {record.data_images} training images it learns them by heart" if few else ""
    return Sign(
        "bad" if loss < D_WON else "watch", "discriminator", "The discriminator tells every picture",
        f"Its loss over the last quarter is {loss:.2g} (chance: {CHANCE:.2f}){gap}{why}.",
        "More images or mirrored copies, a larger loss.r1_gamma, or a trained model to begin with (--init); stop at "
        "the best snapshot.",
    )  # fmt: skip


def _blind(record: Record) -> Sign | None:
    loss, real, fake = (record.recent(k, 0.5) for k in ("Loss/discriminator", "Score/real", "Score/fake"))
    if loss is None or real is None or fake is None or abs(loss - CHANCE) > 0.02 or abs(real - fake) > 0.05:
        return None
    return Sign(
        "bad", "blind", "The discriminator sees no difference",
        f"Its loss over the last half is {loss:.3f}, that of guessing ({CHANCE:.3f}).",
        "A dead discriminator: raise optimiser.discriminator_lr or lower loss.r1_gamma; check that the training "
        "images are what they should be.",
    )  # fmt: skip


def _distance(record: Record) -> Sign | None:
    by_size = record.by_resolution("Metric/swd")
    if not by_size:
        return None
    edge = list(by_size)[-1]
    points = by_size[edge][1:] if by_size[edge][0][0] == 0 else by_size[edge]  # the untrained model is no rival
    if len(points) < 2:
        return None
    (best_at, best), (_, last) = min(points, key=lambda p: p[1]), points[-1]
    if last < WORSE * best:
        return None
    return Sign(
        "bad" if last >= MUCH_WORSE * best else "watch", "distance", "Getting worse",
        f"At {edge} px the distance from the data was {best:.3g} at {best_at:g} kimg and is {last:.3g} now.",
        "The snapshot pictures show what changed. The best checkpoint is kept (monitor.best): go on from it, slower.",
    )  # fmt: skip


def _variety(record: Record) -> Sign | None:
    trained = [(x, y) for x, y in record.variety if x > 0]
    if not trained or trained[-1][1] >= LITTLE_VARIETY:
        return None
    best = max(y for _, y in trained)
    return Sign(
        "bad" if trained[-1][1] < NO_VARIETY else "watch", "variety", "Samples look alike",
        f"They differ {trained[-1][1]:.2f} times as much as training images do (at best {best:.2f}).",
        "Mode collapse: go back to a snapshot before it, with lower rates or a larger loss.r1_gamma; few training "
        "images want mirrored copies or a trained model to begin with.",
    )  # fmt: skip


def _depth(record: Record) -> Sign | None:
    value = record.last("Metric/depth_correlation")
    if value is None or value >= DEPTH_POOR or record.images_shown == 0:
        return None
    inside_out = value < 0
    return Sign(
        "bad" if inside_out else "watch", "depth", "Inside out" if inside_out else "Poor shapes",
        f"The correlation of mean depth with the truth is {value:.2f}.",
        "A dense field that fills the view can end as a bowl: set generator.field.bound_radius to a ball that all "
        "objects fit in, lower generator.field.density_scale, or try another train.seed."
    )  # fmt: skip


def _views(record: Record) -> Sign | None:
    value, overlap = record.last("Metric/view_residual_ratio"), record.last("Metric/view_overlap")
    if value is None or record.images_shown == 0:
        return None
    if overlap == 0:
        return Sign(
            "bad", "views", "The field is fog", "No pixel of two views shows anything solid.",
            "Raise generator.field.density_scale or loss.distortion_weight.",
        )  # fmt: skip
    if not value >= VIEWS_POOR:  # NaN too
        return None
    return Sign(
        "bad" if value >= VIEWS_PAINTED else "watch", "views", "Views do not agree",
        f"Of the difference between two views, {value:.0%} is left after carrying one into the other by its depth.",
        "Train longer; raise generator.field.density_scale, loss.distortion_weight or loss.nerf_path_weight.",
    )  # fmt: skip


def _camera(record: Record) -> Sign | None:
    value = record.last("Metric/pose_sensitivity")
    if value is None or value >= CAMERA_IGNORED or record.images_shown == 0 or math.isnan(value):
        return None
    return Sign(
        "bad", "camera", "The camera is ignored",
        f"Two views of a subject differ {value:.3f} times as much as two subjects do.",
        "The shapes are flat, or the configuration's cameras are not those of the pictures: see camera.yaw, pitch.",
    )  # fmt: skip


def _strict(record: Record) -> Sign | None:
    value = record.last("Metric/strict_psnr_db")
    if value is None or not value < STRICT_POOR_DB:
        return None
    return Sign(
        "watch", "strict", "The 2-D network paints",
        f"Fast pictures agree with strict rendering to {value:.1f} dB.",
        "Raise loss.nerf_path_weight, or generator.volume_resolution.",
    )  # fmt: skip


def _few(record: Record) -> Sign | None:
    count = record.data_images
    if count is None or count >= FEW:
        return None
    shown = record.images_shown / max(count, 1)
    return Sign(
        "watch", "few", f"{count} training images",
        f"Each was shown {shown:.0f} times. "
        + ("So few are copied rather than learnt from." if count < VERY_FEW else "Expect little variety.")
        + _by_heart(record),
        "Compare samples with the training images. Mirrored copies (data.mirror=true), a larger loss.r1_gamma and "
        "fewer kimg help; a trained model to begin with (--init) helps most.",
    )  # fmt: skip


def _by_heart(record: Record) -> str:
    """A sentence if the discriminator's loss has come down from its highest by more than it wanders."""
    recent = record.recent("Loss/discriminator")
    highest = max((y for _, y in record.points("Loss/discriminator")), default=0.0)
    if recent is None or recent >= BY_HEART * highest:
        return ""
    return f" The discriminator's loss fell from {highest:.2f} to {recent:.2f}: it is learning them by heart."


def _spike(record: Record) -> Sign | None:
    for name in ("generator", "discriminator"):
        values = [y for _, y in record.points(f"Gradient/{name}_norm")]
        if len(values) < 4:
            continue
        middle, largest = statistics.median(values), max(values)
        if middle > 0 and largest > SPIKE * middle:
            at = next(x for x, y in record.points(f"Gradient/{name}_norm") if y == largest)
            return Sign(
                "watch", "spike", f"A spike in the {name}'s gradient",
                f"{largest:.3g} at {at:g} kimg, {largest / middle:.0f} times the median.",
                "If pictures got worse there, go back to the checkpoint before it with lower rates.",
            )  # fmt: skip
    return None


_LOOKS: tuple[Callable[[Record], Sign | None], ...] = (
    _nonfinite, _variety, _depth, _blind, _discriminator, _views, _camera, _distance, _spike, _strict, _few,
)  # fmt: skip
