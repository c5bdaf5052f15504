import torch
from torch import Tensor

enabled = False


def grid_sample(input: Tensor, grid: Tensor) -> Tensor:
    """Bilinear: every pixel counts by its tent, 1 - distance, along both axes."""
    H, W = input.shape[2:]
    x, y = ((grid[..., 0] + 1) * W - 1) / 2, ((grid[..., 1] + 1) * H - 1) / 2
    along_x = torch.relu(1 - (x[..., None] - torch.arange(W).to(x)).abs())
    along_y = torch.relu(1 - (y[..., None] - torch.arange(H).to(y)).abs())
    return torch.einsum("nchw,nabh,nabw->ncab", input, along_y, along_x)
