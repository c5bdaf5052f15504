"""StyleGAN's ``torch_utils.ops.grid_sample_gradfix``: bilinear sampling, zeros outside, differentiable to any order.

Torch's own gradient of it has no gradient. Sampling is linear in the image, so the gradient of the image's gradient is
sampling again; only where the grid needs a gradient too is it a plain form, of gathers.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...base.autocast import under_autocast
from ...base.checks import check_shapes
from ...base.register import differentiable_gradients

__all__ = ["grid_sample"]

enabled = True  # may be set; changes nothing


@under_autocast("all")
def grid_sample(input: Tensor, grid: Tensor) -> Tensor:
    """Sample images at points.

    Args:
        input: [N, C, H, W] float64|float32|float16|bfloat16.
        grid:  [N, H', W', 2] same dtype, (x, y) from -1 to 1, which are the outer edges of the border pixels.
    Returns: [N, C, H', W'], zero outside.
    Differentiable: any order in both.
    Raises: ValueError on shapes.
    """
    check_shapes(input=(input, "N C H W"), grid=(grid, "N H' W' 2"))
    out: Tensor = _Sample.apply(input, grid)
    return out


def grid_sample_ref(image: Tensor, grid: Tensor) -> Tensor:
    """The sum of four pixels, in plain torch."""
    (N, C, H, W), out = image.shape, grid.shape[1:3]
    x, y = ((grid[..., 0] + 1) * W - 1) / 2, ((grid[..., 1] + 1) * H - 1) / 2  # [N, H', W']
    left, top = x.detach().floor(), y.detach().floor()
    pixels, total = image.flatten(2), image.new_zeros(N, C, *out)
    for column, along_x in ((left, left + 1 - x), (left + 1, x - left)):
        for row, along_y in ((top, top + 1 - y), (top + 1, y - top)):
            inside = (column >= 0) & (column < W) & (row >= 0) & (row < H)
            place = (row.clamp(0, H - 1) * W + column.clamp(0, W - 1)).long().flatten(1)
            value = pixels.gather(2, place[:, None].expand(-1, C, -1)).view(N, C, *out)
            total = total + value * torch.where(inside, along_x * along_y, 0)[:, None]
    return total


class _Sample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(image, grid)
        return F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        image, grid = ctx.saved_tensors
        need_image, need_grid = ctx.needs_input_grad
        if not torch.is_grad_enabled():
            return _gradients(grad_out, image, grid, need_image, need_grid)
        if need_grid:
            return differentiable_gradients(grid_sample_ref, (image, grid), (grad_out,))
        return _ImageGradient.apply(grad_out, image.detach(), grid), None


class _ImageGradient(torch.autograd.Function):
    """Spread every point's gradient over its four pixels: linear, the transpose of sampling."""

    @staticmethod
    def forward(ctx: Any, grad_out: Tensor, image: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        spread = _gradients(grad_out, image, grid, True, False)[0]
        assert spread is not None
        return spread

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Sample.apply(grad, *ctx.saved_tensors), None, None


def _gradients(
    grad_out: Tensor, image: Tensor, grid: Tensor, need_image: bool, need_grid: bool
) -> tuple[Tensor | None, Tensor | None]:
    BILINEAR, ZEROS, ALIGN_CORNERS = 0, 0, False  # torch's numbers
    out: tuple[Tensor, Tensor] = torch.ops.aten.grid_sampler_2d_backward(
        grad_out, image, grid, BILINEAR, ZEROS, ALIGN_CORNERS, [need_image, need_grid]
    )
    return out[0] if need_image else None, out[1] if need_grid else None
