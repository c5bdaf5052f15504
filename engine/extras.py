"""Optional libraries of some commands: the extras of pyproject.toml."""

import importlib.util

from .errors import UserError

_LIBRARIES = {  # extra -> module -> the library's own name
    "mesh": {"skimage": "scikit-image", "trimesh": "trimesh"},
    "plots": {"matplotlib": "matplotlib"},
    "tensorboard": {"tensorboard": "tensorboard"},
    "video": {"imageio": "imageio", "imageio_ffmpeg": "imageio-ffmpeg"},
}


def missing(extra: str) -> str | None:
    """Missing libraries of an extra and the command that installs them, or None."""
    names = [name for module, name in _LIBRARIES[extra].items() if importlib.util.find_spec(module) is None]
    return f"{' and '.join(names)}: pip install 'stylenerf-engine[{extra}]'" if names else None


def need(extra: str, where: str) -> None:
    """Raises: UserError with the pip command if a library of the extra is not installed."""
    hint = missing(extra)
    if hint is not None:
        raise UserError(f"{where}: wanted {hint}")
