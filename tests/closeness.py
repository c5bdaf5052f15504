"""How near is near: the tolerances that the tests share."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


def assert_relative(name: str, got: Tensor, want: Tensor, tol: float = 1e-5) -> None:
    """max |got - want| <= tol * max(1, max |want|)."""
    assert got.shape == want.shape, f"{name}: shape {tuple(got.shape)} != {tuple(want.shape)}"
    assert torch.isfinite(got).all(), f"{name}: not finite"
    if got.numel() == 0:
        return
    err = (got.double() - want.double()).abs().max().item()
    scale = max(1.0, want.double().abs().max().item())
    assert err <= tol * scale, f"{name}: max error {err:.3e} > {tol:g} * {scale:.3g}"


def assert_image_close(name: str, got: Tensor, want: Tensor, mean_tol: float = 5e-5, max_tol: float = 1e-2) -> None:
    """Mean and maximum absolute error of rendered images, weights and features."""
    assert got.shape == want.shape, f"{name}: shape {tuple(got.shape)} != {tuple(want.shape)}"
    err = (got.double() - want.double()).abs()
    assert torch.isfinite(err).all(), f"{name}: not finite"
    assert err.mean() < mean_tol, f"{name}: mean error {err.mean():.3e} >= {mean_tol:g}"
    assert err.max() < max_tol, f"{name}: max error {err.max():.3e} >= {max_tol:g}"


FLOOR = {torch.float32: 1e-6, torch.float16: 1e-4, torch.bfloat16: 1e-3}


def assert_no_worse_than_torch(
    name: str, got: Tensor, plain: Iterable[Tensor], exact: Tensor, factor: float = 2.0, floor: float | None = None
) -> None:
    """The kernel may err at most ``factor`` times what plain torch errs in the same dtype, both against float64.

    ``plain`` is plain torch more than once, with other roundings of the same numbers (``several_roundings``): the
    largest error counts, since a single one may be small by luck. No more are asked for than the kernel needs.
    ``floor`` is allowed on top, relative to max(1, max |exact|).
    """
    assert got.shape == exact.shape, f"{name}: shape {tuple(got.shape)} != {tuple(exact.shape)}"
    assert torch.isfinite(got).all(), f"{name}: not finite"
    if got.numel() == 0:
        return
    scale = max(1.0, exact.abs().max().item())
    err = (got.double() - exact).abs().max().item()
    typical = allowed = 0.0
    for same in plain:
        assert got.dtype == same.dtype, f"{name}: dtype {got.dtype} != {same.dtype}"
        typical = max(typical, (same.double() - exact).abs().max().item())
        allowed = factor * typical + (FLOOR[got.dtype] if floor is None else floor) * scale
        if err <= allowed:
            return
    raise AssertionError(f"{name}: max error {err:.3e} > allowed {allowed:.3e} (plain torch {typical:.3e})")


def assert_each_no_worse_than_torch(
    got: Mapping[str, Tensor], plain: Iterable[Mapping[str, Tensor]], exact: Mapping[str, Tensor], **how: float | None
) -> None:
    """:func:`assert_no_worse_than_torch` for results by name; ``how``: its factor and floor."""
    assert got.keys() == exact.keys()
    for name in exact:
        assert_no_worse_than_torch(name, got[name], (same[name] for same in plain), exact[name], **how)
