"""What to expect of training on a set of a given size, and which settings help."""

from __future__ import annotations

import functools
import shlex

from ...training.config import load_config
from ...training.config_io import PRESETS, list_presets
from ...training.report.signs import FEW
from ...training.report.signs import VERY_FEW as TOO_FEW

SOME = 5000  # pictures
SMALLEST = 32  # pixels, of a model of the quickstart's form
_MIRROR = "--set data.mirror=true doubles them, where left and right may be exchanged"


def advice(pictures: int, resolution: int, *, labelled: bool, path: str) -> list[str]:
    """Lines for somebody who has just made the set ``path`` of so many ``pictures``."""
    return [*of_number(pictures), *_of_resolution(resolution, labelled, path)]


def command(resolution: int, *, labelled: bool, path: str) -> str:
    """How to train on the set."""
    presets = presets_of(resolution)
    if presets:
        model = f"--preset {presets[0]}"
    else:
        model = f"--preset {'quickstart' if resolution < 256 else 'ffhq256'} --set generator.resolution={resolution}"
    labels = " --set data.labels=true" if labelled else ""
    return f"python train.py {model} --data {shlex.quote(path)}{labels}"


def presets_of(resolution: int) -> list[str]:
    """Presets of this resolution."""
    return sorted(
        [name for name, size in _sizes().items() if size == resolution],
        key=lambda name: (not name.startswith("ffhq"), name),
    )


@functools.cache
def _sizes() -> dict[str, int]:
    return {name: load_config(name, None, []).generator.resolution for name in list_presets(PRESETS)}


def of_number(pictures: int) -> list[str]:
    """What so many pictures are enough for, and what helps."""
    if pictures < TOO_FEW:
        return [
            f"{pictures} pictures are too few to train from nothing: the discriminator knows them by heart, and the "
            "samples become copies",
            f"begin with a trained model (--init MODEL) and stop early; {_MIRROR}",
        ]
    if pictures < FEW:
        return [
            f"{pictures} pictures are few: expect little variety, and samples that get worse once the discriminator "
            "knows the pictures; `stylenerf report RUN` names the signs",
            "begin with a trained model (--init MODEL), or try --set loss.r1_gamma=4 --set train.total_kimg=1000 "
            "--set growth.enabled=false",
            _MIRROR,
        ]
    if pictures < SOME:
        return [f"{pictures} pictures: metfaces512 shows settings for such a set (stronger R1, fewer kimg)", _MIRROR]
    return [f"{pictures} pictures: the settings of the presets, with growth"]


def _of_resolution(resolution: int, labelled: bool, path: str) -> list[str]:
    if resolution < SMALLEST:
        return [f"no preset can be made for {resolution} px"]
    presets = ", ".join(presets_of(resolution))
    return [
        f"presets of {resolution} px: {presets or 'none'}; camera.* and generator.field.near, far are those of faces "
        "unless the preset says otherwise",
        command(resolution, labelled=labelled, path=path),
    ]
