"""One alias-free layer."""

import torch
from torch import Tensor, nn

from ..torch_utils import misc
from ..torch_utils.ops import conv2d_gradfix, filtered_lrelu


@misc.profiled_function
def modulated_conv2d(
    x: Tensor,
    w: Tensor,
    s: Tensor,
    demodulate: bool = True,
    padding: int = 0,
    input_gain: Tensor | None = None,
) -> Tensor:
    N = x.shape[0]
    if demodulate:
        w = w / w.square().mean([1, 2, 3], keepdim=True).sqrt()
        s = s / s.square().mean().sqrt()
    w = w[None] * s[:, None, :, None, None]
    if demodulate:
        w = w / (w.square().sum([2, 3, 4], keepdim=True) + 1e-8).sqrt()
    if input_gain is not None:
        w = w * input_gain.expand(s.shape)[:, None, :, None, None]
    x = x.reshape(1, -1, *x.shape[2:])
    x = conv2d_gradfix.conv2d(input=x, weight=w.flatten(0, 1), padding=padding, groups=N)
    return x.reshape(N, -1, *x.shape[2:])


class SynthesisLayer(nn.Module):
    """Up by 4, down by 2, filters of 8 and 4 taps (one separable), 3 x 3 convolution."""

    def __init__(self, fan_in: int, out: int, w_dim: int) -> None:
        super().__init__()
        self.affine = nn.Linear(w_dim, fan_in)
        self.weight, self.bias = nn.Parameter(torch.randn(out, fan_in, 3, 3)), nn.Parameter(torch.randn(out))
        self.register_buffer("magnitude_ema", torch.tensor(1.7))
        up = torch.hann_window(10, periodic=False)[1:-1]
        down = torch.hann_window(6, periodic=False)[1:-1]
        self.register_buffer("up_filter", up / up.sum())
        self.register_buffer("down_filter", torch.outer(down, down) / down.sum() ** 2)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        gain = self.magnitude_ema.rsqrt()
        x = modulated_conv2d(x=x, w=self.weight, s=self.affine(w), padding=2, demodulate=True, input_gain=gain)
        return filtered_lrelu.filtered_lrelu(
            x=x,
            fu=self.up_filter,
            fd=self.down_filter,
            b=self.bias.to(x.dtype),
            up=4,
            down=2,
            padding=[3, 2, -1, 4],
            gain=2**0.5,
            slope=0.2,
            clamp=256,
        )
