"""Training losses: non-saturating GAN losses, R1, path length, the NeRF-path regularisation, and distortion."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ...models.generator import Rendered


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating loss softplus(-D(G)), [B, 1]."""
    return softplus(-fake_logits)


def discriminator_fake_loss(fake_logits: Tensor) -> Tensor:
    """softplus(D(fake)), [B, 1]."""
    return softplus(fake_logits)


def discriminator_real_loss(real_logits: Tensor) -> Tensor:
    """softplus(-D(real)), [B, 1]."""
    return softplus(-real_logits)


def r1_penalty(images: Tensor, logits: Tensor) -> Tensor:
    """Squared norm of the logits' gradient in the images, [B]; multiply by gamma / 2 (Mescheder et al. 2018).

    Differentiable: the result can be differentiated again, through the discriminator's parameters.
    """
    (grad,) = torch.autograd.grad(logits.sum(), [images], create_graph=True)
    return grad.square().sum(dim=[1, 2, 3])


class PathLength(NamedTuple):
    penalty: Tensor  # [B], (l - m)^2 with the updated mean m inside the graph
    mean: Tensor  # the updated running mean, detached


def path_length(images: Tensor, ws: Tensor, noise: Tensor, mean: Tensor, decay: float = 0.01) -> PathLength:
    """Path length regularisation: change of the images per step in w, against its running mean (StyleGAN2, sec. 3.2).

    l = sqrt(mean over rows of sum over w of (d<image, noise> / dw)^2), noise scaled by 1/sqrt(H W);
    m <- m + decay (mean l - m) first, then penalty = (l - m)^2; gradients flow through m.

    Args:
        images: [B, 3, H, W] made from ws [B, num_ws, w_dim], which must require a gradient.
        noise: [B, 3, H, W] of N(0, 1).
        mean: the running mean, a scalar tensor.
    """
    scaled = noise / math.sqrt(images.shape[2] * images.shape[3])
    (grad,) = torch.autograd.grad((images * scaled).sum(), [ws], create_graph=True)
    lengths = grad.square().sum(2).mean(1).sqrt()
    new_mean = mean.lerp(lengths.mean(), decay)
    return PathLength((lengths - new_mean).square(), new_mean.detach())


def nerf_path_loss(rendered: Rendered) -> Tensor:
    """Mean over the path's rays of the squared RGB distance between the fast image and the composited samples, [B].

    Gradients flow to both sides (StyleNeRF eq. 9, whose leading factor is the loss's weight).
    """
    if rendered.path is None:
        raise ValueError("rendered must come with its NeRF path: render with RenderOptions(path=True) and draws")
    index = rendered.path.indices[:, None].expand(-1, rendered.image.shape[1], -1)  # [B, 3, P]
    fast = rendered.image.flatten(2).gather(2, index)
    return (fast - rendered.path.colours).square().sum(1).mean(1)


def ray_distortion(rendered: Rendered) -> Tensor:
    """Mean over rays of sum_ij w_i w_j |s_i - s_j|, [B]: 0 where all the light of a ray comes from one depth.

    w are the weights of the foreground's samples, s their fractions of the way from near to far. A field of small
    distortion is solid: what a pixel shows lies on a surface, and so moves with it when the camera turns.
    Source: Mip-NeRF 360 (arXiv 2111.12077), eq. 15, without the term of a single interval.
    """
    foreground = rendered.volume.foreground
    if foreground is None:
        raise ValueError("rendered must come with a foreground: render with parts 'all' or 'foreground'")
    w, s = foreground.weights, foreground.fractions
    weight_before, moment_before = w.cumsum(-1) - w, (w * s).cumsum(-1) - w * s
    return 2 * (w * (s * weight_before - moment_before)).sum(-1).mean(1)
