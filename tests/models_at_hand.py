"""Small models for the tests of what people do with a model."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from stylenerf.engine.model_io import Model
from stylenerf.engine.training.config_io import from_dict
from stylenerf.models.camera import CameraPrior
from stylenerf.models.config import GeneratorConfig
from stylenerf.models.generator import Generator
from tests.inputs import source
from tests.tiny import TINY

PRIOR = CameraPrior("uniform", yaw=(-1.0, 1.0), pitch=(1.2, 1.9), fov_deg=30.0)


def tiny_model(**changes: object) -> Model:
    """A model of 16 px from a volume of 8 px with random weights; ``changes`` are keys of its configuration."""
    cfg = from_dict(GeneratorConfig, {**TINY["generator"], **changes}, where="generator")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = Generator(cfg)
        with torch.no_grad():  # as if trained: an average that is not zero, layers that do something
            generator.mapping.w_avg.copy_(torch.randn(cfg.w_dim, generator=source(1)))
    return Model(generator.eval().requires_grad_(False), PRIOR, Path("tiny"), {})


def rewrite(model: Path, meta: Any = None, state: Any = None, raw: bytes | None = None) -> None:
    """Change a model and let its manifest agree, as somebody who means harm would."""
    if meta is not None:
        text = meta if isinstance(meta, str) else json.dumps({**json.loads((model / "meta.json").read_text()), **meta})
        (model / "meta.json").write_text(text)
    if state is not None:
        torch.save(state, model / "state.pt")
    if raw is not None:
        (model / "state.pt").write_bytes(raw)
    manifest = json.loads((model / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        data = (model / name).read_bytes()
        entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (model / "manifest.json").write_text(json.dumps(manifest))
