"""StyleGAN's ``torch_utils.ops.bias_act``."""

from functools import partial
from typing import Any

from torch import Tensor

from ...filters import bias_act as ours
from .arguments import implementation

__all__ = ["activation_funcs", "bias_act"]


class _Activation(dict[str, Any]):
    """Entries that are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def _activate(x: Tensor, alpha: float | None = None, *, act: str, **unused: Any) -> Tensor:
    return ours.bias_act(x, act=act, alpha=alpha, gain=1)


activation_funcs = {
    name: _Activation(func=partial(_activate, act=name), def_alpha=default.alpha, def_gain=default.gain)
    for name, default in ours.ACTIVATIONS.items()
}


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "cuda",
) -> Tensor:
    """:func:`kernels.bias_act`."""
    return ours.bias_act(x, b, dim, act, alpha, gain, clamp, impl=implementation(impl))
