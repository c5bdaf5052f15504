from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def setup_filter(
    f: Any,
    device: Any = torch.device("cpu"),  # noqa: B008
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> Tensor:
    taps = torch.as_tensor(f, dtype=torch.float32)
    if taps.ndim == 1 and not (len(taps) >= 8 if separable is None else separable):
        taps = taps[:, None] * taps
    taps = taps / taps.sum() if normalize else taps
    taps = taps.flip(list(range(taps.ndim))) if flip_filter else taps
    return (taps * gain ** (taps.ndim / 2)).to(device)


def _four(padding: Any) -> list[int]:
    pads = list(padding) if hasattr(padding, "__len__") else [padding]
    return {1: pads * 4, 2: [pads[0], pads[0], pads[-1], pads[-1]], 4: pads}[len(pads)]


def upfirdn2d(
    x: Tensor,
    f: Tensor,
    up: int = 1,
    down: int = 1,
    padding: Any = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "cuda",
) -> Tensor:
    (N, C, H, W), taps = x.shape, (f if f.ndim == 2 else f[:, None] * f).to(x.dtype)
    spread = x.new_zeros(N, C, H * up, W * up)
    spread[:, :, ::up, ::up] = x
    spread = F.pad(spread, _four(padding))
    kernel = taps if flip_filter else taps.flip([0, 1])
    y = F.conv2d(spread.flatten(0, 1)[:, None], kernel[None, None] * gain)
    return y.unflatten(0, (N, C))[:, :, 0, ::down, ::down]


def filter2d(
    x: Tensor, f: Tensor, padding: Any = 0, flip_filter: bool = False, gain: float = 1, impl: str = "cuda"
) -> Tensor:
    k, pads = f.shape[0], _four(padding)
    pads = [p + q for p, q in zip(pads, [k // 2, (k - 1) // 2] * 2)]
    return upfirdn2d(x, f, padding=pads, flip_filter=flip_filter, gain=gain, impl=impl)


def upsample2d(
    x: Tensor, f: Tensor, up: int = 2, padding: Any = 0, flip_filter: bool = False, gain: float = 1, impl: str = "cuda"
) -> Tensor:
    k, pads = f.shape[0], _four(padding)
    pads = [p + q for p, q in zip(pads, [(k + up - 1) // 2, (k - up) // 2] * 2)]
    return upfirdn2d(x, f, up=up, padding=pads, flip_filter=flip_filter, gain=gain * up * up, impl=impl)


def downsample2d(
    x: Tensor,
    f: Tensor,
    down: int = 2,
    padding: Any = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "cuda",
) -> Tensor:
    k, pads = f.shape[0], _four(padding)
    pads = [p + q for p, q in zip(pads, [(k - down + 1) // 2, (k - down) // 2] * 2)]
    return upfirdn2d(x, f, down=down, padding=pads, flip_filter=flip_filter, gain=gain, impl=impl)
