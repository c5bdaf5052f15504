"""Legal arguments of the public constructors: one table of kinds, checked before any argument is used."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .config import SYNTHESIS_MODES

SECTIONS = ("camera", "renderer", "foreground", "background", "upsampler")
WARPS = {None: "linear", "InverseWarp": "inverse", "LogWarp": "log"}
_LARGEST = 1e300  # larger numbers are mistakes, and integers among them may not fit a float
_ARCHITECTURES = ("skip", "resnet", "orig")


@dataclass(frozen=True)
class Kind:
    """Legal values of an argument: a description for errors, and a predicate that never raises."""

    wanted: str
    fits: Callable[[Any], bool]

    @property
    def or_none(self) -> "Kind":
        return Kind(f"{self.wanted} or None", lambda value: value is None or self.fits(value))


def _whole(low: int) -> Kind:
    return Kind(f"a whole number of at least {low}", lambda value: type(value) is int and value >= low)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -_LARGEST < value < _LARGEST  # NaN compares false


def _number(words: str, fits: Callable[[float], bool]) -> Kind:
    return Kind(f"a number{words}", lambda value: _is_number(value) and fits(value))


def _pair(words: str, fits: Callable[[float, float], bool]) -> Kind:
    def fit(value: Any) -> bool:
        return isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_number, value)) and fits(*value)

    return Kind(f"two numbers{words}", fit)


def _choice(*known: Any) -> Kind:
    return Kind(
        f"one of {list(known)}", lambda value: any(type(value) is type(item) and value == item for item in known)
    )


_SECTION = Kind("a mapping or None", lambda value: value is None or isinstance(value, Mapping))
_FLAG = Kind("True or False", lambda value: type(value) is bool)
_RANGE = _pair(", the lower one first", lambda low, high: low <= high)
_POSITIVE = _number(" above 0", lambda value: value > 0)
_DECAY = _number(" below 1", lambda value: value < 1)  # 0 or less: the magnitudes are not averaged
_CHANNELS = {"channel_base": _POSITIVE, "channel_max": _whole(1)}
_FIELD = {"hidden_size": _whole(1), "n_blocks": _whole(1), "n_freq_posenc": _whole(1)}

GENERATOR: dict[str, dict[str, Kind]] = {
    "": {
        "z_dim": _whole(0), "c_dim": _whole(0), "w_dim": _whole(1), "img_resolution": _whole(1),
        "mapping_kwargs": _SECTION, "synthesis_kwargs": _SECTION,
    },
    "mapping_kwargs": {"num_layers": _whole(1)},
    "synthesis_kwargs": {
        **_CHANNELS, **{f"{name}_kwargs": _SECTION for name in SECTIONS},
        "conv_clamp": _POSITIVE.or_none, "kernel_size": _choice(1, 3), "architecture": _choice(*_ARCHITECTURES),
        "upsample_mode": _choice(*SYNTHESIS_MODES), "use_noise": _FLAG, "magnitude_ema_beta": _DECAY,
        "z_dim_bg": _whole(0).or_none, "resolution_vol": _whole(1), "resolution_start": _whole(0).or_none,
        "rgb_out_dim": _whole(1), "n_reg_samples": _whole(0),
    },
    "camera_kwargs": {
        "range_u": _RANGE, "range_v": _RANGE,
        "range_radius": _pair(" above 0, the lower one first", lambda low, high: 0 < low <= high),
        "fov": _number(" between 0 and 180", lambda value: 0 < value < 180), "gaussian_camera": _FLAG,
        "angular_camera": _FLAG, "depth_range": _pair(", 0 < near < far", lambda near, far: 0 < near < far),
        "depth_transform": _choice(*WARPS), "ray_align_corner": _FLAG,
        "bg_start": _number(" above 0, at most 1", lambda value: 0 < value <= 1),
    },
    "renderer_kwargs": {
        "n_bg_samples": _whole(0), "n_ray_samples": _whole(1), "hierarchical": _FLAG, "no_background": _FLAG,
    },
    "foreground_kwargs": {**_FIELD, "magnitude_ema_beta": _DECAY},
    "background_kwargs": {**_FIELD, "z_dim": _whole(0)},
    "upsampler_kwargs": {**_CHANNELS, "no_residual_img": _FLAG},
}  # fmt: skip
DISCRIMINATOR: dict[str, dict[str, Kind]] = {
    "": {
        **_CHANNELS, "c_dim": _whole(0), "img_resolution": _whole(1), "architecture": _choice(*_ARCHITECTURES),
        "conv_clamp": _POSITIVE.or_none, "progressive": _FLAG, "lowres_head": _whole(0).or_none,
        "num_fp16_res": _whole(0), "epilogue_kwargs": _SECTION,
    },
    "epilogue_kwargs": {"mbstd_group_size": _whole(1).or_none, "mbstd_num_channels": _whole(0)},
}  # fmt: skip


def check_arguments(
    kwargs: Mapping[str, Any], table: Mapping[str, Mapping[str, Kind]] = GENERATOR, *, sections_only: bool = False
) -> None:
    """Refuse arguments that are not of their kind; absent arguments and those not in the table pass.

    ``sections_only`` checks only that sections are mappings, before missing values are filled in.
    Raises: ValueError naming the argument, the legal values and the value given.
    """
    waiting: list[tuple[str, Mapping[str, Any]]] = [("", kwargs)]
    for section, values in waiting:
        for name, kind in table[section].items():
            if name not in values or (sections_only and kind is not _SECTION):
                continue
            value = values[name]
            if not kind.fits(value):
                where = f"{section}.{name}" if section else name
                raise ValueError(f"{where}: wanted {kind.wanted}, got {shown(value)}")
            if kind is _SECTION and value:
                waiting.append((name, value))


def shown(value: Any) -> str:
    """A value for an error message, shortened."""
    if isinstance(value, Mapping | list | tuple) and len(value) > 8:
        return f"a {type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
