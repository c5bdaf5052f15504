"""How far pictures are from photographs: over a pyramid of averages, and by a network that a person brings along."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from ...errors import UserError, one_line, os_reason

ROBUST_AT = 0.1  # of the range -1..1: smaller differences count squared, larger ones linearly
_SATURATED = 1 - 1.5 / 127.5  # beyond it a byte is at its end or beside it
_NETWORK_EDGE = 256
_SMALLEST_LEVEL = 4


def saturate(images: Tensor, photos: Tensor) -> Tensor:
    """``images`` where they say something about ``photos``, of the same shape; elsewhere the photo itself.

    A photograph is cut off at black and white, a rendering is not: beyond a saturated pixel there is no difference.
    Without this a pixel that is rightly brighter than white pulls at everything else.
    """
    above = (photos >= _SATURATED) & (images > photos)
    below = (photos <= -_SATURATED) & (images < photos)
    return torch.where(above | below, photos, images)


def pyramid_loss(images: Tensor, photos: Tensor) -> Tensor:
    """[N] mean over levels of mean(d (sqrt(1 + (e / d)^2) - 1)), e the difference, d = 0.1; both [N, 3, R, R].

    Level 0 is the picture, each further one half of it by averages of 2x2 pixels, down to 4 pixels: the coarse levels
    see across gaps that are wider than any pixel. The pseudo-Huber form is e^2 / (2 d) for small differences, |e| for
    large ones.
    """
    e = saturate(images, photos) - photos
    total, levels = e.new_zeros(len(e)), 0
    while True:
        total = total + ROBUST_AT * ((1 + (e / ROBUST_AT).square()).sqrt() - 1).mean(dim=(1, 2, 3))
        levels += 1
        if e.shape[-1] < 2 * _SMALLEST_LEVEL:
            return total / levels
        e = avg_pool2d(e, 2)


class PerceptualNet:
    """A TorchScript network of the StyleGAN2/3 projectors' form.

    It is called as ``net(images, resize_images=False, return_lpips=True)`` with images [N, 3, H, W] of 0..255 and
    returns features [N, F], whose squared Euclidean distance is the perceptual one (LPIPS, arXiv 1801.03924).
    """

    def __init__(self, path: str | Path, device: torch.device | str = "cpu") -> None:
        """Raises: UserError naming the file: not there, not TorchScript, or of another form."""
        self.path = Path(path)
        try:
            self.sha256 = hashlib.sha256(self.path.read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(f"--perceptual: wanted a TorchScript file, got {path}: {os_reason(error)}") from None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch announces another format for new files; this one is given
                self._net = torch.jit.load(str(self.path), map_location=device).eval()
            for parameter in self._net.parameters():  # a ScriptModule has no requires_grad_ of its own
                parameter.requires_grad_(False)
            with torch.no_grad():
                features = self.features(torch.zeros(1, 3, 32, 32, device=device))
            if features.ndim != 2:
                raise ValueError(f"wanted features [N, F], got {list(features.shape)}")
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            reason = one_line(error)[:160]
            raise UserError(
                f"--perceptual: wanted a network as of StyleGAN's projector, got {path}: {reason}"
            ) from None

    def features(self, images: Tensor) -> Tensor:
        """Features [N, F] of images in -1..1; beyond 256 px they are reduced to that."""
        x = images * 127.5 + 127.5
        if x.shape[-1] > _NETWORK_EDGE:
            x = interpolate(x, size=(_NETWORK_EDGE, _NETWORK_EDGE), mode="area")
        features: Tensor = self._net(x, resize_images=False, return_lpips=True)
        return features


@dataclass(frozen=True)
class Criterion:
    """The loss of a projection: the pyramid's loss times a weight, and the network's distance where there is one.

    Attributes:
        photos: [V, 3, R, R].
        net: the network, or None.
        pixel_weight: of the pyramid's loss.
    """

    photos: Tensor
    net: PerceptualNet | None = None
    pixel_weight: float = 1.0

    def __call__(self, images: Tensor, views: Tensor) -> Tensor:
        """[N] losses of ``images`` [N, 3, R, R] against the photos number ``views`` [N]."""
        photos = self.photos[views]
        loss = self.pixel_weight * pyramid_loss(images, photos)
        if self.net is not None:
            with torch.no_grad():
                wanted = self.net.features(photos)
            loss = loss + (self.net.features(saturate(images, photos)) - wanted).square().sum(dim=1)
        return loss
