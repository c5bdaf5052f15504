"""Augmentation of what the discriminator sees, with a probability p that may adapt to how far it overfits.

Source: Karras et al. 2020, "Training generative adversarial networks with limited data" (arXiv 2006.06676), section 3
and appendix B, without its image-space filters and corruptions. Fakes and reals alike are transformed wherever the
discriminator looks, each transform of an image with probability p; pictures and figures never are.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...kernels.base.constants import constant
from ...models.image_transforms import move_pixels, recolour, warp
from ..data.labels import LabelKind
from .config import AUGMENT_KINDS, AugmentConfig

WITHOUT_LABEL = ("translate", "stretch", "shift")  # no camera label says these: it looks through the picture's middle
ROWS = (*AUGMENT_KINDS, "rotate after")  # of random numbers; rotation may happen before and after stretching
MIRRORED = (0, 1, 1, 1, 1, 0, 0, 0, 1)  # which of a camera label's first numbers change sign in a flipped picture
LARGEST_SHIFT = 1 / 8  # of the picture, whole pixels
DEVIATION = {"scale": 0.2 * math.log(2), "stretch": 0.2 * math.log(2), "shift": 1 / 8, "brightness": 0.2,
             "contrast": 0.5 * math.log(2), "saturation": math.log(2)}  # fmt: skip


class AugmentState(NamedTuple):
    """What the adaptation of p remembers. Tensors are replaced, never changed."""

    p: Tensor  # [] float32
    signs: Tensor  # [] float32, sum of sign(D(real)) since p last moved
    looked: int  # logits in that sum

    @classmethod
    def begin(cls, cfg: AugmentConfig, device: torch.device) -> "AugmentState":
        return cls(torch.full([], cfg.p, device=device), torch.zeros([], device=device), 0)

    def saw(self, real_logits: Tensor) -> "AugmentState":
        """With the signs of these logits [B, 1]; that of NaN is 0 in torch, so that none stays in p for ever."""
        signs = real_logits.detach().float().sign().sum()
        return AugmentState(self.p, self.signs + signs, self.looked + len(real_logits))

    def adapted(self, cfg: AugmentConfig) -> "AugmentState":
        """p <- p + sign(r_t - target) looked / (1000 kimg), r_t = signs / looked; p stays within 0..limit."""
        step = self.looked / (1000 * cfg.kimg)
        p = (self.p + (self.signs / self.looked - cfg.target).sign() * step).clamp(0, cfg.limit)
        return AugmentState(p, torch.zeros_like(self.signs), 0)

    def state_dict(self) -> dict[str, Any]:
        return self._asdict()

    def loaded(self, saved: dict[str, Any]) -> "AugmentState":
        p, signs = (torch.full_like(self.p, float(saved[name])) for name in ("p", "signs"))
        return AugmentState(p, signs, int(saved["looked"]))


@dataclass(frozen=True)
class Draws:
    """Transforms of N images; an image is concerned by a group where ``moves``, ``warps`` or ``recolours`` is true."""

    flip: Tensor  # [N] bool
    quarters: Tensor  # [N], counterclockwise
    shift: Tensor  # [N, 2], whole pixels to the right and down
    inverse: Tensor  # [N, 3, 3], see models.image_transforms.warp
    colour: Tensor  # [N, 3, 4]
    moves: Tensor  # [N] bool
    warps: Tensor
    recolours: Tensor
    turn_rad: Tensor  # [N], of the picture, from its x axis (right) to its y axis (down), after the flip
    zoom: Tensor  # [N]


class Augment:
    """The pipeline of a run.

    Args:
        label_kind: with "camera" labels, transforms that no label could say are left out; the others move the label.
    """

    def __init__(self, cfg: AugmentConfig, label_kind: LabelKind) -> None:
        self.cfg, self.moves_label = cfg, label_kind == "camera"
        self.kinds = tuple(kind for kind in cfg.kinds if not (self.moves_label and kind in WITHOUT_LABEL))

    def describe(self) -> str:
        """One line about what is done."""
        cfg = self.cfg
        left = [kind for kind in cfg.kinds if kind not in self.kinds]
        adapting = f"p from {cfg.p:g} up to {cfg.limit:g}, mean sign of D(real) held at {cfg.target:g}"
        how = adapting if cfg.mode == "ada" else f"p = {cfg.p:g}"
        text = f"{how}; {', '.join(self.kinds) or 'nothing'}"
        return f"{text}; left out, as no camera label says it: {', '.join(left)}" if left else text

    def __call__(
        self, images: Tensor, label: Tensor | None, p: Tensor | float, rng: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Images [N, 3, H, H] of -1..1 and labels, transformed with probability ``p``; at 0 the same bit for bit."""
        draws = draw(len(images), images.shape[-1], p, self.kinds, rng)
        images = transform(images, draws)
        if label is not None and self.moves_label:
            label = move_label(label, draws)
        return images, label


def transform(images: Tensor, draws: Draws) -> Tensor:
    """``images`` with their transforms; differentiable to any order."""
    if _some(draws.moves):
        moved = move_pixels(images, draws.flip, draws.quarters, draws.shift)
        images = torch.where(draws.moves[:, None, None, None], moved, images)
    if _some(draws.warps):
        images = torch.where(draws.warps[:, None, None, None], warp(images, draws.inverse), images)
    if _some(draws.recolours):
        images = torch.where(draws.recolours[:, None, None, None], recolour(images, draws.colour), images)
    return images


def _some(chosen: Tensor) -> bool:
    """False where no image is concerned, as far as the host may look without a wait."""
    return chosen.device.type != "cpu" or bool(chosen.any())


def draw(n: int, edge: int, p: Tensor | float, kinds: tuple[str, ...], rng: torch.Generator) -> Draws:
    """Transforms for ``n`` images of ``edge`` pixels, on the device of ``rng``.

    Numbers are drawn for every kind, so that leaving one out changes none of the others.
    """
    device, rows = rng.device, len(ROWS)
    chance = torch.rand(rows, n, generator=rng, device=device)
    uniform = torch.rand(rows, 2, n, generator=rng, device=device) * 2 - 1
    normal = torch.randn(rows, 2, n, generator=rng, device=device)
    turn_p = 1 - (1 - p) ** 0.5  # either of two rotations happens with probability p
    never = torch.zeros(n, dtype=torch.bool, device=device)
    on = {
        kind: chance[i] < (turn_p if kind in ("rotate", "rotate after") else p)
        if kind.split()[0] in kinds else never
        for i, kind in enumerate(ROWS)
    }  # fmt: skip
    u = dict(zip(ROWS, uniform))
    z = {kind: values * DEVIATION.get(kind, 1) for kind, values in zip(ROWS, normal)}

    flip = on["flip"] & (u["flip"][0] > 0)
    quarters = torch.where(on["rotate90"], ((u["rotate90"][0] + 1) * 2).floor().clamp(max=3), 0)
    shift = torch.where(on["translate"], (u["translate"] * (edge * LARGEST_SHIFT)).round(), 0).T
    zoom = torch.where(on["scale"], z["scale"][0].exp(), 1)
    stretch = torch.where(on["stretch"], z["stretch"][0].exp(), 1)
    before, after = (torch.where(on[kind], u[kind][0] * math.pi, 0) for kind in ("rotate", "rotate after"))
    offset = torch.where(on["shift"], z["shift"] * edge, 0)
    inverse = _affine(1 / zoom, 1 / zoom) @ _turn(-before) @ _affine(1 / stretch, stretch) @ _turn(-after)
    inverse = inverse @ _affine(torch.ones_like(zoom), torch.ones_like(zoom), -offset[0], -offset[1])
    return Draws(
        flip=flip,
        quarters=quarters,
        shift=shift,
        inverse=inverse,
        colour=_colour(on, u, z),
        moves=on["flip"] | on["rotate90"] | on["translate"],
        warps=on["scale"] | on["stretch"] | on["rotate"] | on["rotate after"] | on["shift"],
        recolours=on["brightness"] | on["contrast"] | on["luma_flip"] | on["hue"] | on["saturation"],
        turn_rad=before + after - quarters * (math.pi / 2),
        zoom=zoom,
    )


def _affine(xx: Tensor, yy: Tensor, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
    """Matrices [N, 3, 3] that scale the axes, then move by (x, y)."""
    o, one = torch.zeros_like(xx), torch.ones_like(xx)
    return torch.stack([xx, o, o if x is None else x, o, yy, o if y is None else y, o, o, one], -1).view(-1, 3, 3)


def _turn(angle: Tensor) -> Tensor:
    """Rotations [N, 3, 3] from the first axis to the second."""
    c, s, o, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([c, -s, o, s, c, o, o, o, one], -1).view(-1, 3, 3)


def _colour(on: dict[str, Tensor], u: dict[str, Tensor], z: dict[str, Tensor]) -> Tensor:
    """Colour maps [N, 3, 4]: brightness, contrast, luma_flip along (1, 1, 1), hue about it, saturation across it."""
    brightness = torch.where(on["brightness"], z["brightness"][0], 0)
    contrast = torch.where(on["contrast"], z["contrast"][0].exp(), 1)
    mirrored = on["luma_flip"] & (u["luma_flip"][0] > 0)
    angle = torch.where(on["hue"], u["hue"][0] * math.pi, 0)[:, None, None]
    saturation = torch.where(on["saturation"], z["saturation"][0].exp(), 1)[:, None, None]
    one = torch.eye(3, device=angle.device)
    luma = torch.full((3, 3), 1 / 3, device=angle.device)
    cross = constant((0.0, -1, 1, 1, 0, -1, -1, 1, 0), like=angle).view(3, 3) / math.sqrt(3)
    flip = one - 2 * luma * mirrored[:, None, None]
    hue = one * angle.cos() + cross * angle.sin() + luma * (1 - angle.cos())
    linear = (luma + (one - luma) * saturation) @ hue @ flip * contrast[:, None, None]
    return torch.cat([linear, linear.sum(2, keepdim=True) * brightness[:, None, None]], dim=2)


def move_label(label: Tensor, draws: Draws) -> Tensor:
    """Camera labels [N, 25] of the transformed pictures: the camera is mirrored, then rolls, then zooms.

    Draws without a transform keep the label's bits. Raises nothing: draws of ``WITHOUT_LABEL`` must be off.
    """
    first, rest = label[:, : len(MIRRORED)], label[:, len(MIRRORED) :]
    first = torch.where(draws.flip[:, None] & (constant(MIRRORED, like=label) == 1), -first, first)
    label = torch.cat([first, rest], dim=1)
    pose = label[:, :16].reshape(-1, 4, 4)
    rolled = pose[:, :, :3] @ _turn(-draws.turn_rad)
    rolled = torch.where((draws.turn_rad != 0)[:, None, None], rolled, pose[:, :, :3])
    pose = torch.cat([rolled, pose[:, :, 3:]], dim=2)
    focal = label[:, 16:].reshape(-1, 3, 3)
    scaled = torch.cat([focal[:, :2, :2] * draws.zoom[:, None, None], focal[:, :2, 2:]], dim=2)
    return torch.cat([pose.flatten(1), scaled.flatten(1), label[:, 22:]], dim=1)
