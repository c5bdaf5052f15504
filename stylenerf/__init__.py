"""StyleNeRF: the networks, the kernels under them, and what trains and uses them.

    from stylenerf import load_model, Camera
    model = load_model("runs/ffhq256")

Three floors, each importing only what is below it: ``stylenerf.engine``, ``stylenerf.models``, ``stylenerf.kernels``.
The names below are imported when first used, since torch takes seconds.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

_HERE = os.path.dirname(os.path.abspath(__file__))
if not os.path.isdir(os.path.join(_HERE, "kernels")):
    __path__.append(os.path.dirname(_HERE))  # a checkout, where the three folders lie beside this one

if TYPE_CHECKING:
    from .engine.applications.project.photos import load_photos
    from .engine.applications.render.subjects import Subjects, subjects_from_seeds
    from .engine.applications.render.views import ViewOptions, render_views
    from .engine.model_io import Model, load_model, save_model
    from .models import (
        BackgroundConfig,
        Camera,
        CameraPrior,
        Discriminator,
        DiscriminatorConfig,
        FieldConfig,
        Generator,
        GeneratorConfig,
        RenderOptions,
        UpsamplerConfig,
    )

_HOMES = {
    "models": (
        "BackgroundConfig", "Camera", "CameraPrior", "Discriminator", "DiscriminatorConfig", "FieldConfig", "Generator",
        "GeneratorConfig", "RenderOptions", "UpsamplerConfig",
    ),
    "engine.model_io": ("Model", "load_model", "save_model"),
    "engine.applications.render.subjects": ("Subjects", "subjects_from_seeds"),
    "engine.applications.render.views": ("ViewOptions", "render_views"),
    "engine.applications.project.photos": ("load_photos",),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BackgroundConfig",
    "Camera",
    "CameraPrior",
    "Discriminator",
    "DiscriminatorConfig",
    "FieldConfig",
    "Generator",
    "GeneratorConfig",
    "Model",
    "RenderOptions",
    "Subjects",
    "UpsamplerConfig",
    "ViewOptions",
    "load_model",
    "load_photos",
    "render_views",
    "save_model",
    "subjects_from_seeds",
]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    if name in ("kernels", "models", "engine"):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
