"""Definition of bias_act in plain torch: clamp(gain * act(x + b))."""

import torch
import torch.nn.functional as F
from torch import Tensor

HOMOGENEOUS = ("linear", "relu", "lrelu")  # act(g v) = g act(v) for g > 0


def bias_act_ref(
    x: Tensor,
    b: Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
    inplace: bool,
) -> Tensor:
    """All arguments given, none defaulted; ``b`` is [x.shape[dim]]."""
    if b is not None:
        b = b.to(x.dtype).reshape([-1 if i == dim else 1 for i in range(x.ndim)])
    recording = torch.is_grad_enabled() and (x.requires_grad or (b is not None and b.requires_grad))
    if act in HOMOGENEOUS and gain > 0 and not recording:
        return _lean(x, b, act, alpha, gain, clamp, inplace)
    y = _activate(x if b is None else x + b, act, alpha)
    if gain != 1:
        y = y * gain
    return y if clamp is None else y.clamp(-clamp, clamp)


def _lean(
    x: Tensor, b: Tensor | None, act: str, alpha: float, gain: float, clamp: float | None, inplace: bool
) -> Tensor:
    """One new tensor, or none with ``inplace``; the gain is applied with the bias, before the activation."""
    if b is not None and inplace:
        y = torch.add(b * gain, x, alpha=gain, out=x)
    elif b is not None:
        y = torch.add(b * gain, x, alpha=gain)
    elif gain != 1:
        y = x.mul_(gain) if inplace else x * gain  # forward-mode derivatives know no ``out``
    elif inplace or (act == "linear" and clamp is None):
        y = x
    else:
        y = x.clone()
    if act == "relu":
        return y.clamp_(0, clamp)
    if act == "lrelu":
        F.leaky_relu(y, alpha, inplace=True)
    return y if clamp is None else y.clamp_(-clamp, clamp)


def _activate(x: Tensor, act: str, alpha: float) -> Tensor:
    if act == "relu":
        return torch.relu(x)
    if act == "lrelu":
        return F.leaky_relu(x, alpha)
    if act == "tanh":
        return torch.tanh(x)
    if act == "sigmoid":
        return torch.sigmoid(x)
    if act == "elu":
        return F.elu(x)
    if act == "selu":
        return F.selu(x)
    if act == "softplus":
        return F.softplus(x)
    return x * torch.sigmoid(x) if act == "swish" else x
