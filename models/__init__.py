"""StyleNeRF's networks: they own parameters and call ``kernels``; they never launch a kernel themselves."""

from .camera import Camera, CameraPrior
from .config import BackgroundConfig, DiscriminatorConfig, FieldConfig, GeneratorConfig, UpsamplerConfig
from .discriminator import Discriminator, DiscriminatorOptions
from .generator import Generator, Rendered, RenderOptions

__all__ = [
    "BackgroundConfig",
    "Camera",
    "CameraPrior",
    "Discriminator",
    "DiscriminatorConfig",
    "DiscriminatorOptions",
    "FieldConfig",
    "Generator",
    "GeneratorConfig",
    "RenderOptions",
    "Rendered",
    "UpsamplerConfig",
]
