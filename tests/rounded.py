"""The ray pass with 16-bit operands in plain torch: a field that rounds where the kernels round.

In 16 bit some activations fall on the other side of leaky ReLU's corner, which moves gradients by percents against an
unrounded field, in any implementation. What is left against a field that rounds at the same points is the kernel's own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor

from stylenerf.kernels.rays.encode_ref import encode_positions_ref
from stylenerf.kernels.rays.render import FieldWeights

STORAGE = {"fp16": torch.float16, "bf16": torch.bfloat16}
GRADIENT_RANGE = 256.0


def rounded(x: Tensor, storage: torch.dtype, exact: Tensor | None = None) -> Tensor:
    """``x`` rounded like its float32 form ``exact``; the derivative is that of ``x``."""
    at = (x.detach().float() if exact is None else exact.detach()).to(storage)
    return x + (at.to(x.dtype) - x.detach())


def round_gradient(grad: Tensor, storage: torch.dtype) -> Tensor:
    """As a kernel holds it between layers: 16 bit, brought into range by a power of two."""
    peak = grad.abs().max().item() if grad.numel() else 0.0
    scale = 2.0 ** torch.log2(torch.tensor(GRADIENT_RANGE / peak)).floor().item() if peak > 0 else 1.0
    return (grad * scale).to(storage).to(grad.dtype) / scale


@contextmanager
def rounded_field(precision: str, *, gradients: bool) -> Iterator[None]:
    """The plain forms with encoding, activations and matrices rounded; with ``gradients``, those between layers too.

    Biases and the density head stay as they are: the kernels have the head in two parts.
    """
    storage = STORAGE[precision]

    def evaluate(points: Tensor, field: FieldWeights) -> tuple[Tensor, Tensor]:
        # exact waves in both dtypes: float32 angles would be off by more than what is measured here
        encoded = encode_positions_ref(points.double(), field.num_freqs, include_input=False)
        hidden = rounded(encoded.to(points.dtype), storage, encoded.float())
        for weight, bias in zip(field.weights, field.biases):
            matrix = rounded(weight * field.gain, storage, weight.float() * field.gain)
            z = hidden @ matrix.transpose(-1, -2) + (bias * field.gain).unsqueeze(-2)
            if gradients and z.requires_grad:
                z.register_hook(lambda grad: round_gradient(grad, storage))
            hidden = rounded(torch.nn.functional.leaky_relu(z, field.negative_slope), storage)
        head = field.density_weight.expand(points.shape[0], -1)
        return hidden, (hidden @ head[..., None]).squeeze(-1) + field.density_bias

    with (
        patch("stylenerf.kernels.rays.render_ref.evaluate_field_ref", evaluate),
        patch("stylenerf.kernels.rays.render.evaluate_field_ref", evaluate),
    ):
        yield
