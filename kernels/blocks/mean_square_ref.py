"""Definition of mean_square in plain torch."""

from torch import Tensor


def mean_square_ref(x: Tensor) -> Tensor:
    """[] float32."""
    return x.detach().float().square().mean()
