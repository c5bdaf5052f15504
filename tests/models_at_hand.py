"""Small models for the tests of what people do with a model."""

from pathlib import Path

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
