"""Whether a model is three-dimensional, fast and strictly: agreement of views, sensitivity to the camera, depth."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ....models.camera import Camera
from ...data import ProceduralScenes
from ...model_io import Model
from ...training.metrics.depth import mean_depth_error
from ...training.metrics.intervals import Figure
from ..render.consistency import check_consistency, turned
from ..render.subjects import Subjects
from ..render.views import ViewOptions, check_options, render_view

APART_RAD = 0.3  # of yaw between two views
MODES = ("fast", "strict")
_SOLID = 0.5  # opacity above which a ray has a depth


def view_figures(
    model: Model, subjects: Subjects, truth: ProceduralScenes | None, progress: Callable[[], None] = lambda: None
) -> tuple[dict[str, Figure], list[tuple[str, Tensor]]]:
    """Figures ``<name>_<mode>`` for fast and strict rendering, and pictures of what one view leaves of another.

    view_residual_ratio: mean |A carried into B - B| over mean |A - B|, by the field's own surface, occlusions left out.
    view_psnr_db: the same residual, peak 2; both also of the field made solid (``_solid``).
    pose_sensitivity: mean |A - B| of one subject over that of two subjects in one view.
    depth_error: mean |mean depth of subjects - mean true depth of scenes| in world units, with ``truth``.
    A model whose upsampler has wider layers than 1x1 has no strict form, and gets no figures here.

    Returns: the figures; (label, [4, 3, R, R]): A, B, A carried into B, 5 |difference| of the first subject.
    """
    report = check_consistency(model, subjects, apart_rad=APART_RAD, progress=progress)
    figures = {}
    for row in report.rows:
        name = row.mode if row.field == "as it is" else f"{row.mode}_{row.field}"
        figures[f"view_residual_ratio_{name}"] = Figure(row.residual / row.baseline if row.baseline else math.nan)
        figures[f"view_psnr_db_{name}"] = Figure(row.psnr_db)
    for mode in MODES:
        figures[f"pose_sensitivity_{mode}"] = Figure(_pose_sensitivity(model, subjects, mode))
        if truth is not None:
            figures[f"depth_error_{mode}"] = Figure(_depth_error(model, subjects, truth, mode))
    if truth is not None:
        figures["pose_sensitivity_true"] = Figure(_true_sensitivity(model, truth, len(subjects)))
    return figures, report.pictures


def has_strict_form(model: Model) -> bool:
    """Whether strict rendering is possible."""
    return model.generator.synthesis.upsampler.pointwise or not model.config.block_resolutions


def _options(mode: str) -> ViewOptions:
    return ViewOptions(strict=mode == "strict")


def _seen(model: Model, subjects: Subjects, camera: Camera, mode: str) -> list[Tensor]:
    """Images [N, 3, R, R] and depth with ``far`` where nothing is [N, r, r], all from one camera, one at a time."""
    options, device = _options(mode), next(model.generator.parameters()).device
    check_options(model, options)
    views = [render_view(model, subjects[i], camera.to(device), options) for i in range(len(subjects))]
    depth = torch.cat([torch.where(v.opacity > _SOLID, v.depth, model.config.field.far) for v in views])
    return [torch.cat([v.image for v in views]).clamp(-1, 1).cpu(), depth.cpu()]


def _pose_sensitivity(model: Model, subjects: Subjects, mode: str) -> float:
    a, b = (_seen(model, subjects, turned(model, sign * APART_RAD / 2), mode)[0] for sign in (-1, 1))
    return _sensitivity(a, b)


def _sensitivity(a: Tensor, b: Tensor) -> float:
    between = (a - a.roll(1, 0)).abs().mean().item()
    return (a - b).abs().mean().item() / between if between else math.nan


def _true_sensitivity(model: Model, truth: ProceduralScenes, count: int) -> float:
    edge = model.generator.synthesis.growth().resolution
    pair = []
    for sign in (-1, 1):
        camera = turned(model, sign * APART_RAD / 2).to("cpu")
        images = [truth.view(k, edge, camera).image for k in range(min(count, truth.num_images))]
        pair.append(torch.stack([torch.as_tensor(image).float() / 127.5 - 1 for image in images]))
    return _sensitivity(*pair)


def _depth_error(model: Model, subjects: Subjects, truth: ProceduralScenes, mode: str) -> float:
    camera = turned(model, 0.0)
    depth = _seen(model, subjects, camera, mode)[1]
    edge, far = depth.shape[-1], model.config.field.far
    scenes = [truth.view(k, edge, camera.to("cpu")).depth for k in range(min(len(subjects), truth.num_images))]
    true = torch.stack([torch.as_tensor(d) for d in scenes])
    return mean_depth_error(depth, true, far=far)
