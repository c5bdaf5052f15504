"""How near is near: the tolerances that the tests share."""

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
