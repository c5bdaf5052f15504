"""A model and a run as small as they can be while every part of training still takes part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from stylenerf.engine.data import Dataset
from stylenerf.engine.training.config import Config
from stylenerf.engine.training.config_io import apply_overrides, from_dict
from stylenerf.engine.training.stats import Accumulator
from stylenerf.engine.training.step import Stepper, TrainState
from stylenerf.engine.training.trainer import open_training_data

CPU = torch.device("cpu")

# 16 px from an 8 px volume that is solid from the start; growth blends the 16 px level in from image 4 to image 28.
# Mirrored data, two rounds per step, style mixing, path length, R1 and the NeRF path are all on.
TINY: dict[str, Any] = {
    "data": {"path": "procedural", "scenes": 12, "mirror": True},
    "camera": {"distribution": "gaussian", "yaw": [-0.5, 0.5], "pitch": [1.4, 1.7], "fov_deg": 30},
    "generator": {
        "resolution": 16,
        "volume_resolution": 8,
        "start_resolution": 8,
        "z_dim": 8,
        "w_dim": 8,
        "mapping_layers": 2,
        "features": 8,
        "path_lattice": 4,
        "field": {"hidden": 8, "depth": 2, "num_freqs": 2, "samples": 3, "near": 0.7, "far": 1.3, "density_scale": 30},
        "background": {"hidden": 8, "depth": 2, "num_freqs": 2, "z_dim": 4, "samples": 2},
        "upsampler": {"channel_base": 128, "channel_max": 8},
    },
    "discriminator": {"channel_base": 128, "channel_max": 8, "group_size": 2, "fp16_levels": 1},
    "loss": {"r1_interval": 3, "path_length_interval": 2},
    "growth": {"start_kimg": 0.004, "end_kimg": 0.028},
    "train": {
        "total_kimg": 0.032,
        "batch": 4,
        "micro_batch": 2,
        "precision": "fp32",
        "ema_kimg": 0.02,
        "tick_kimg": 0.008,
        "snapshot_kimg": 0.012,
    },
    "monitor": {
        "grid_images": 2,
        "turn_frames": 2,
        "swd_images": 4,
        "depth_scenes": 2,
        "batch": 4,
        "report": False,
        "best": None,
    },
}


def tiny_config(*overrides: str) -> Config:
    """The tiny configuration with ``a.b=c`` on top."""
    return from_dict(Config, apply_overrides(TINY, overrides, Config), where="")


def write_tiny(path: Path) -> Path:
    """The tiny configuration as a file for ``--config``."""
    path.write_text(json.dumps(TINY))  # JSON is YAML
    return path


def tiny_overrides() -> list[str]:
    """``--set a.b=c`` for every key of the model's size, to scale a preset down."""
    sections = ("generator", "discriminator", "monitor")
    keys = [(section, key, value) for section in sections for key, value in TINY[section].items()]
    return [part for section, key, value in keys for part in ("--set", f"{section}.{key}={json.dumps(value)}")]


def build(cfg: Config, data: Dataset | None = None) -> Stepper:
    """A stepper with fresh networks, on the configuration's own data unless some are given."""
    data = open_training_data(cfg, print) if data is None else data
    return Stepper(cfg, data, TrainState.create(cfg, data.label_dim, CPU), Accumulator(), CPU)
