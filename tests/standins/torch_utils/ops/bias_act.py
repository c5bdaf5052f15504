import torch
import torch.nn.functional as F
from torch import Tensor

activation_funcs = {
    "linear": {"func": lambda x, alpha: x, "def_gain": 1.0},
    "relu": {"func": lambda x, alpha: torch.relu(x), "def_gain": 2**0.5},
    "lrelu": {"func": lambda x, alpha: F.leaky_relu(x, 0.2 if alpha is None else alpha), "def_gain": 2**0.5},
    "sigmoid": {"func": lambda x, alpha: torch.sigmoid(x), "def_gain": 1.0},
    "softplus": {"func": lambda x, alpha: F.softplus(x), "def_gain": 1.0},
    "swish": {"func": lambda x, alpha: torch.sigmoid(x) * x, "def_gain": 2**0.5},
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
    if b is not None:
        x = (x.movedim(dim, -1) + b).movedim(-1, dim)
    y = activation_funcs[act]["func"](x, alpha) * (activation_funcs[act]["def_gain"] if gain is None else gain)
    return y if clamp is None else y.clamp(-clamp, clamp)
