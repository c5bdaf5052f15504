"""Names and signatures of other projects, on the ops of this folder: ``stylegan``, ``nerf``, and ``patch`` for both."""

from .swap import Patch, patch

__all__ = ["Patch", "patch"]
