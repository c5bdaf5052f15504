"""Other projects' implementations of what our ops compute, timed on the same inputs where they can be imported.

``pytest bench/ --peers FOLDER``, once per folder, adds a checkout to the import path. Each is held to the rule for its
format before it is timed, so a peer that computes something else is not. They run as their projects call them, with the
project's own choice of implementation.
"""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from bench.gate import Args


@dataclass(frozen=True)
class Peer:
    """``run`` imports ``module`` and computes what the op's plain form does; picklable."""

    name: str
    module: str
    run: Callable[[Args], tuple[Tensor, ...]]

    def missing(self) -> str | None:
        """Why it cannot run here, or None."""
        try:
            importlib.import_module(self.module)
        except Exception as error:  # an extension that does not load raises anything
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            known = importlib.util.find_spec(self.module.split(".")[0]) is not None
            reason = reason if known else f"no {self.module.split('.')[0]} here; --peers FOLDER names its checkout"
            return f"{self.name}: {reason}"
        return None


def _nvidia(op: str, run: Callable[[Any, Args], Tensor]) -> Peer:
    return Peer("NVIDIA", f"torch_utils.ops.{op}", partial(_of, f"torch_utils.ops.{op}", run))


def _of(module: str, run: Callable[[Any, Args], Tensor], args: Args) -> tuple[Tensor, ...]:
    return (run(importlib.import_module(module), args),)


def bias_act(dim: int, **options: Any) -> Peer:
    return _nvidia("bias_act", partial(_bias_act, dim=dim, **options))


def _bias_act(module: Any, args: Args, **options: Any) -> Tensor:
    result: Tensor = module.bias_act(args[0], args[1], **options)
    return result


def upfirdn2d(function: str, *, last: bool) -> Peer:
    """``function``: filter2d, upsample2d or downsample2d; ``last``: hand the result on as [N, H, W, C]."""
    return _nvidia("upfirdn2d", partial(_upfirdn2d, function=function, last=last))


def _upfirdn2d(module: Any, args: Args, *, function: str, last: bool) -> Tensor:
    result: Tensor = getattr(module, function)(*args)
    return result.permute(0, 2, 3, 1) if last else result


def filtered_lrelu(**options: Any) -> Peer:
    return _nvidia("filtered_lrelu", partial(_filtered_lrelu, **options))


def _filtered_lrelu(module: Any, args: Args, **options: Any) -> Tensor:
    x, bias, f = args
    result: Tensor = module.filtered_lrelu(x, f, f, bias, **options)
    return result


def modulated_conv(kernel: int, *, fused: bool) -> Peer:
    module = "training.networks_stylegan2"
    return Peer("NVIDIA", module, partial(_of, module, partial(_modulated_conv, kernel=kernel, fused=fused)))


def _modulated_conv(module: Any, args: Args, *, kernel: int, fused: bool) -> Tensor:
    x, weight, styles = args
    result: Tensor = module.modulated_conv2d(x, weight, styles, padding=kernel // 2, fused_modconv=fused)
    return result


def volume() -> Peer:
    return Peer("nerfacc", "nerfacc", _volume)


def _volume(args: Args) -> tuple[Tensor, ...]:
    """Intervals end where ours do: at the next sample; the last sample has none."""
    nerfacc = importlib.import_module("nerfacc")
    density, depths, ray_norm, features = args
    ends = depths.flatten(0, -2)  # [R, S]
    sigma = (density.relu() * ray_norm[..., None]).flatten(0, -2)[:, :-1]
    weights, trans, alphas = nerfacc.render_weight_from_density(ends[:, :-1], ends[:, 1:], sigma)
    colours = nerfacc.accumulate_along_rays(weights, features.flatten(0, -3)[:, :-1])
    behind = (trans * (1 - alphas))[:, -1]
    return colours.unflatten(0, density.shape[:-1]), behind.unflatten(0, density.shape[:-1])
