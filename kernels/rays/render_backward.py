"""The ray pass backward: activations are recomputed a portion at a time, then the layers run in reverse.

The backward of a hierarchical pass is that of a single pass at the merged depths: the positions of fine samples carry
no gradient, and the trunk does not depend on the order of samples.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..base.operands import OPERANDS
from ..base.register import Grads
from .field_backward import HeadGradients, launch_trunk_backward
from .field_triton import Operand, PackedField, Samples, chained, launch_field, unpack
from .layered import evaluate_layered, layered_backward
from .render_forward import Setting, norms
from .render_ref import evaluate_field_ref
from .span import LEAST_NORM, contract_backward, contract_ref
from .volume_ref import composite_ref, volume_weights_ref
from .volume_triton import launch_volume_backward

WORKSPACE_BYTES = 256 * 2**20  # activations held at a time


def portions(batch: int, rays: int, field: Operand, samples: int = 1) -> list[tuple[slice, slice]]:
    """Portions whose activations fit the workspace: images, or rays of one image if an image is too large."""
    ray_bytes = field.layers * samples * field.width * OPERANDS[field.precision].storage.itemsize
    images = max(WORKSPACE_BYTES // max(rays * ray_bytes, 1), 1)
    some = max(rays if rays * ray_bytes <= WORKSPACE_BYTES else WORKSPACE_BYTES // ray_bytes, 1)
    return [
        (slice(b, min(b + images, batch)), slice(r, min(r + some, rays)))
        for b in range(0, batch, images)
        for r in range(0, rays, some)
    ]


def trunk_backward(
    samples: Samples,
    field: Operand,
    grads: HeadGradients,
    weigh: Callable[[Tensor | None], Tensor] | None,
    need_points: bool,
) -> tuple[PackedField, Tensor | None]:
    """Recompute one portion's activations and backpropagate through them.

    ``weigh`` turns <gradient of the ray's features, hidden features> [B, R, S] into the gradient of the density;
    without it, ``grads`` holds that gradient already.
    """
    B, N, H = samples.batch, samples.total, field.width
    aggregated = grads.hidden is not None and grads.hidden.shape[1] > 0
    dots = None
    if not chained(H, field.precision):
        activations, _ = evaluate_layered(samples, field)
        if aggregated:
            dots = _dots(activations[-1], grads)
        if weigh is not None:
            grads = grads._replace(density=weigh(dots))
        return layered_backward(samples, activations, field, grads, need_points)
    storage = OPERANDS[field.precision].storage
    every = torch.empty(field.layers, B, N, H, dtype=storage, device=samples.device)
    if aggregated:
        assert grads.weights is not None
        dots = torch.empty_like(grads.weights)
    launch_field(samples, field, hidden=every, dots=dots, grad_hidden=grads.hidden if aggregated else None)
    if weigh is not None:
        grads = grads._replace(density=weigh(dots))
    return launch_trunk_backward(samples, every, field, grads, need_points=need_points)


def _dots(hidden: Tensor, grads: HeadGradients) -> Tensor:
    """<grads.hidden of the ray, hidden features of the sample>, zero for rays that are not aggregated."""
    assert grads.hidden is not None and grads.weights is not None
    dots = torch.zeros_like(grads.weights)
    B, R, S = dots.shape
    image = grads.hidden.shape[1]
    rows = hidden.view(B, R, S, -1)[:, :image].float()
    dots[:, :image] = (rows @ grads.hidden[..., None]).squeeze(-1)
    return dots


class FieldSums:
    """Gradients of a packed field, accumulated portion by portion."""

    def __init__(self, packed: PackedField, batch: int) -> None:
        self.like = packed
        first, rest, bias, head = (t.new_zeros(batch, *t.shape[1:]) for t in packed[:4])
        self.sums = PackedField(first, rest, bias, head, packed.head_bias.new_zeros(1))

    def add(self, images: slice, grads: PackedField) -> None:
        for total, grad in zip(self.sums[:4], grads[:4]):
            total[images] += grad
        self.sums.head_bias.add_(grads.head_bias)

    def result(self) -> Grads:
        """Gradients in the shapes of the packed tensors, summed over the images that share one."""
        pairs = zip(self.sums, self.like)
        return tuple(g if g.shape == t.shape else g.sum(0, keepdim=True) for g, t in pairs)


def pass_backward(
    samples: Samples, weights: Tensor, density: Tensor, packed: PackedField, grads: Grads, setting: Setting,
    need_points: bool, need_positions: bool,
) -> tuple[Tensor, Grads, Grads, Tensor | None]:  # fmt: skip
    """Backward of a pass at known depths.

    Returns: gradients of the density; of the packed field; of (origins, directions, depths), or of (None, None, depths)
    where points are given; of the points.
    """
    grad_hidden, grad_weights, grad_density, grad_trans, grad_sample_hidden = grads
    depths = samples.depths
    assert depths is not None
    B, R, S = depths.shape
    field = Operand.of(packed, setting.slope, setting.precision)
    image = R - setting.sample_rays
    lengths = norms(samples.directions, depths, setting.span.density_scale)
    total = HeadGradients(grad_hidden, weights, density, grad_sample_hidden)
    sums = FieldSums(packed, B)
    grad_sigma, grad_depths = torch.empty_like(density), torch.empty_like(density) if need_positions else None
    grad_norms = torch.zeros_like(lengths) if need_positions else None
    grad_points = torch.empty(B, R, S, samples.dims, device=depths.device) if need_points else None
    rays_only = samples.points is None
    for images, rays in portions(B, R, field, S):
        at = images, rays

        def weigh(dots: Tensor | None, at: tuple[slice, slice] = at) -> Tensor:
            """Gradient of this portion's density; stores the gradients of the intervals."""
            flow = None if grad_weights is None else grad_weights[at].contiguous()
            if dots is not None:
                flow = dots if flow is None else flow + dots
            b, r, _ = density[at].shape
            light = None if grad_trans is None else grad_trans[at].reshape(b * r)
            sigma, step, norm = launch_volume_backward(
                density[at].reshape(b * r, S), depths[at].reshape(b * r, S), lengths[at].reshape(b * r),
                None if flow is None else flow.view(b * r, S), light, setting.span.opaque, need_positions,
            )  # fmt: skip
            sigma = sigma.view(b, r, S)
            if grad_density is not None:
                sigma = sigma + grad_density[at]
            grad_sigma[at] = sigma
            if grad_depths is not None and grad_norms is not None and step is not None and norm is not None:
                grad_depths[at], grad_norms[at] = step.view(b, r, S), norm.view(b, r)
            return sigma

        part = Samples(
            None if samples.points is None else samples.points.view(B, R, S, -1)[at].flatten(1, 2).contiguous(),
            samples.origins[at].contiguous() if rays_only and samples.origins is not None else None,
            samples.directions[at].contiguous() if rays_only and samples.directions is not None else None,
            depths[at].contiguous(),
            samples.span,
        )
        cut = field.image(images.start, images.stop)
        grad_field, points = trunk_backward(part, cut, total.rays(images, rays, image), weigh, need_points)
        sums.add(images, grad_field)
        if grad_points is not None and points is not None:
            grad_points[at] = points.view(part.batch, -1, S, samples.dims)
    if not rays_only or not need_positions:
        return grad_sigma, sums.result(), (None, None, grad_depths), grad_points
    positions = _ray_gradients(samples, grad_points, grad_norms, setting)
    assert positions[2] is not None and grad_depths is not None
    return grad_sigma, sums.result(), (*positions[:2], positions[2] + grad_depths), None


def _ray_gradients(samples: Samples, grad_points: Tensor | None, grad_norms: Tensor | None, setting: Setting) -> Grads:
    """Gradients of (origins, directions, depths) from those of the contracted points and of the norms."""
    origins, directions, depths = samples.origins, samples.directions, samples.depths
    assert origins is not None and directions is not None and depths is not None
    assert grad_points is not None and grad_norms is not None
    points = origins[:, :, None] + depths[..., None] * directions[:, :, None]
    grad = contract_backward(points, grad_points, setting.span)
    along = directions / directions.norm(dim=-1, keepdim=True).clamp_min(LEAST_NORM)
    of_lengths = (grad_norms * setting.span.density_scale)[..., None] * along
    grad_directions = (grad * depths[..., None]).sum(2) + of_lengths
    return grad.sum(2), grad_directions, (grad * directions[:, :, None]).sum(-1)


def plain_pass(
    points: Tensor | None, origins: Tensor | None, directions: Tensor | None, depths: Tensor, noise: Tensor | None,
    *packed: Tensor, setting: Setting,
) -> Grads:  # fmt: skip
    """The definition of a single pass, on a packed field."""
    B, R, S = depths.shape
    if points is None:
        assert origins is not None and directions is not None
        points = contract_ref(origins[:, :, None] + depths[..., None] * directions[:, :, None], setting.span)
    field = unpack(PackedField(*packed), setting.num_freqs, points.shape[-1], setting.slope)
    hidden, density = evaluate_field_ref(points.reshape(B, R * S, points.shape[-1]), field)
    hidden, density = hidden.view(B, R, S, hidden.shape[-1]), density.view(B, R, S)
    if noise is not None:
        density = density + noise
    norm = None if directions is None else norms(directions, depths, setting.span.density_scale)
    weights, trans = volume_weights_ref(density, depths, norm, setting.span.opaque)
    image = R - setting.sample_rays
    return composite_ref(weights[:, :image], hidden[:, :image]), weights, density, trans, hidden[:, image:]
