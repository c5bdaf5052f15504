"""Plain torch with other roundings of the same numbers: what it errs typically, on any processor."""

import math
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

Result = TypeVar("Result")
DRAWS = 4
# ops that add many terms, in an order and with partial sums that differ by machine; kept in float32 or better
SUMS = {
    f"aten::{name}"
    for name in (
        "sum",
        "mean",
        "var",
        "mm",
        "bmm",
        "mv",
        "dot",
        "addmm",
        "addmv",
        "baddbmm",
        "convolution",
        "convolution_backward",
        "cumsum",
        "cumprod",
        "prod",
        "linalg_vector_norm",
        "index_add",
        "scatter_add",
        "index_put",
        "_softmax",
    )
}


class Rounding(TorchDispatchMode):
    """Every result is computed in float64 and rounded to the type it has without this, at random or to the nearest.

    With a seed: up or down at random, as often up as where the number lies between its two neighbours, so that numbers
    that the type holds stay what they are. Each term of a sum is rounded too, to float32: the error of a sum grows with
    the root of its length. Without a seed: to the nearest, which gives the same numbers on every processor, whatever
    algorithm its library takes for a convolution or product.
    """

    def __init__(self, seed: int | None = None) -> None:
        super().__init__()
        self.seed, self.generators = seed, {}  # type: ignore[var-annotated]  # by device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, schema = kwargs or {}, func._schema
        native = func(*args, **kwargs)
        leaves, nest = tree_flatten((args, kwargs))
        floating = [t for t in leaves if isinstance(t, Tensor) and t.is_floating_point()]
        outputs, form = tree_flatten(native)
        tensors = [o for o in outputs if isinstance(o, Tensor)]
        aliases = any(r.alias_info is not None for r in schema.returns) or schema.is_mutable
        if aliases or func.namespace != "aten" or not floating or not any(o.is_floating_point() for o in tensors):
            return native

        def widened(x: Any) -> Any:
            if isinstance(x, torch.dtype) and x.is_floating_point:
                return torch.float64
            if not isinstance(x, Tensor) or not x.is_floating_point():
                return x
            wide = x.double()
            if schema.name in SUMS and self.seed is not None:
                wide = wide * (1 + torch.finfo(torch.float32).eps * self.draw(wide))
            return wide

        args64, kwargs64 = tree_unflatten([widened(x) for x in leaves], nest)
        exact = tree_flatten(func(*args64, **kwargs64))[0]
        return tree_unflatten([self.rounded(e, o) for e, o in zip(exact, outputs, strict=True)], form)

    def draw(self, x: Tensor) -> Tensor:
        """Uniform in -1/2 .. 1/2."""
        if x.device not in self.generators:
            self.generators[x.device] = torch.Generator(x.device).manual_seed(self.seed)
        return torch.rand(x.shape, generator=self.generators[x.device], device=x.device, dtype=torch.float64) - 0.5

    def rounded(self, exact: Any, native: Any) -> Any:
        if not isinstance(exact, Tensor) or not native.is_floating_point() or native.dtype == torch.float64:
            return native
        nearest = exact.to(native.dtype)
        if self.seed is None:
            return native.copy_(nearest)  # into the strides that it has
        kept = torch.finfo(native.dtype)
        exponent = torch.frexp(exact).exponent.clamp_min(math.frexp(kept.tiny)[1])
        spacing = torch.ldexp(torch.full_like(exact, kept.eps), exponent - 1)
        drawn = (exact + self.draw(exact) * spacing).to(native.dtype)
        settled = (nearest.double() == exact) | ~exact.isfinite()
        return native.copy_(torch.where(settled, nearest, drawn))


class SeveralRoundings(Generic[Result]):
    """Results of one computation with several roundings; each is computed when it is first asked for, and kept."""

    def __init__(self, run: Callable[[], Result], draws: int) -> None:
        self.run, self.draws, self.results = run, draws, [run()]

    def __iter__(self) -> Iterator[Result]:
        for i in range(self.draws + 1):
            if i == len(self.results):
                with Rounding(seed=i - 1):
                    self.results.append(self.run())
            yield self.results[i]


def several_roundings(run: Callable[[], Result], draws: int = DRAWS) -> SeveralRoundings[Result]:
    """What ``run`` computes in plain torch: as this machine rounds, then with roundings at random, from seeds."""
    return SeveralRoundings(run, draws)
