"""A small StyleGAN2 on our ops, under the names and signatures that its own code calls: a few steps with R1.

Only the import lines differ from `from torch_utils.ops import ...`. In a process that has imported a StyleGAN, one call
swaps them all: `print(stylenerf.kernels.compat.patch("torch_utils", "training"))`. `python docs/examples/stylegan2.py`
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from stylenerf.engine.data.procedural import ProceduralScenes
from stylenerf.kernels.compat.stylegan import bias_act, conv2d_gradfix, conv2d_resample, upfirdn2d
from stylenerf.kernels.compat.stylegan.modulated_conv2d import modulated_conv2d

BLUR, WIDTH, LATENT = upfirdn2d.setup_filter([1, 3, 3, 1]), 32, 64


class Block(nn.Module):
    """Twice the resolution: modulated convolution, noise, bias, leaky ReLU, and colours onto the enlarged image."""

    def __init__(self) -> None:
        super().__init__()
        self.style, self.colour_style = nn.Linear(LATENT, WIDTH), nn.Linear(LATENT, WIDTH)
        self.weight, self.bias = nn.Parameter(torch.randn(WIDTH, WIDTH, 3, 3)), nn.Parameter(torch.zeros(WIDTH))
        self.colour, self.noise = nn.Parameter(torch.randn(3, WIDTH, 1, 1) / WIDTH), nn.Parameter(torch.zeros([]))

    def forward(self, x: Tensor, image: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        noise, up = self.noise * torch.randn(2 * x.shape[2], 2 * x.shape[3]), {"up": 2, "resample_filter": BLUR}
        x = modulated_conv2d(x, self.weight, self.style(w) + 1, noise, padding=1, flip_weight=False, **up)
        x = bias_act.bias_act(x, self.bias, act="lrelu", clamp=256)
        colours = modulated_conv2d(x, self.colour, self.colour_style(w) + 1, demodulate=False)
        return x, upfirdn2d.upsample2d(image, BLUR) + colours


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.start, self.blocks = nn.Parameter(torch.randn(1, WIDTH, 4, 4)), nn.ModuleList(Block() for _ in range(3))

    def forward(self, w: Tensor) -> Tensor:
        x, image = self.start.expand(len(w), -1, -1, -1), w.new_zeros(len(w), 3, 4, 4)
        for block in self.blocks:
            x, image = block(x, image, w)
        return image


class Discriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.randn(WIDTH, i, 3, 3) / (9 * i) ** 0.5 for i in (3, WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        for w in self.weights:
            x = bias_act.bias_act(conv2d_resample.conv2d_resample(x=x, w=w, f=BLUR, down=2, padding=1), act="lrelu")
        return x.mean([1, 2, 3])


def main(steps: int = 20) -> list[tuple[float, float]]:
    torch.manual_seed(0)
    losses, data, G, D = [], ProceduralScenes(resolution=32), Generator(), Discriminator()
    g_adam, d_adam = (torch.optim.Adam(net.parameters(), 2e-3, betas=(0.0, 0.99)) for net in (G, D))
    for step in range(steps):
        reals = (data.batch(0, 8 * step, 8, 32).images / 127.5 - 1).requires_grad_()
        fakes, scores = G(torch.randn(8, LATENT)), D(reals)
        with conv2d_gradfix.no_weight_gradients():
            (slope,) = torch.autograd.grad(scores.sum(), reals, create_graph=True)
        r1 = slope.square().sum([1, 2, 3]).mean()
        d_loss = (softplus(-scores) + softplus(D(fakes.detach()))).mean()
        for adam, loss in ((g_adam, softplus(-D(fakes)).mean()), (d_adam, d_loss + r1)):
            adam.zero_grad()
            loss.backward()
            adam.step()
        losses.append((d_loss.item(), r1.item()))
        print("step {}: discriminator {:.3f}, R1 {:.2g}".format(step, *losses[-1]))
    return losses


if __name__ == "__main__":
    main()
