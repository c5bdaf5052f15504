"""Inference in strips of rows gives the numbers of inference at once, but for rounding."""

import pytest
import torch

import stylenerf.models.strips
import stylenerf.models.upsampler
from stylenerf.models.config import UpsamplerConfig
from stylenerf.models.strips import strip_rows
from stylenerf.models.upsampler import BlockOptions, Upsampler
from tests.inputs import source

SIZES = {"square": (12, 12), "oblong": (11, 5), "a row more than the strips": (9, 8)}
LOCAL = {
    "nn_cat": {},
    "pixelshuffle": {"mode": "pixelshuffle"},
    "no blur": {"mode": "nn_cat_noblur"},
    "no image": {"architecture": "orig"},
    "followed magnitude": {"magnitude_decay": 0.9},
}


def make_upsampler(**changes: object) -> Upsampler:
    cfg = UpsamplerConfig(**{"channel_base": 256, "channel_max": 8, **changes})  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Upsampler(6, 5, (16, 32), cfg).eval()


def render(upsampler: Upsampler, height: int, width: int) -> list[torch.Tensor]:
    rng = source(1)
    features, image = (torch.randn(2, c, height, width, generator=rng) for c in (6, 3))
    features = features.contiguous(memory_format=torch.channels_last)
    ws = torch.randn(2, upsampler.num_ws, 5, generator=rng)
    return upsampler(features, image, ws, blocks=2, options=BlockOptions())


@pytest.fixture
def strips(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Strips of 4 rows instead of 16 and more; the heights that were cut into them."""
    heights: list[int] = []
    whole = stylenerf.models.strips.in_strips

    def counted(*args, **kwargs):  # type: ignore[no-untyped-def]
        heights.append(args[1].shape[2])
        return whole(*args, **kwargs)

    monkeypatch.setattr(stylenerf.models.upsampler, "strip_rows", lambda *_: 4)
    monkeypatch.setattr(stylenerf.models.upsampler, "in_strips", counted)
    return heights


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("changes", LOCAL)
def test_strips_change_nothing(changes: str, size: str, strips: list[int]) -> None:
    upsampler, (height, width) = make_upsampler(**LOCAL[changes]), SIZES[size]
    want = [image.detach() for image in render(upsampler, height, width)]  # with gradients, at once
    assert strips == []
    with torch.no_grad():
        got = render(upsampler, height, width)
    assert strips == [height, 2 * height]
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)  # of values up to 10; a wrong row is off by 1


WHOLE = {
    "bilinear": {"mode": "bilinear"},
    "an image aligned at its corners": {"mode": "bilinear_all"},
    "noise has a place": {"noise": True},
    "resnet": {"architecture": "resnet"},
}


@pytest.mark.parametrize("changes", WHOLE)
def test_what_depends_on_the_place_runs_at_once(changes: str, strips: list[int]) -> None:
    with torch.no_grad():
        render(make_upsampler(**WHOLE[changes]), 8, 8)
    assert strips == []


def test_training_runs_at_once(strips: list[int]) -> None:
    with torch.no_grad():  # the running magnitude follows the whole image
        render(make_upsampler(magnitude_decay=0.9).train(), 12, 12)
    assert strips == []


def test_a_strip_fits_the_cache_and_is_worth_its_halo() -> None:
    assert strip_rows(1, 32, 512, 4) == 32  # 2 * 32 rows of 1024 pixels, 32 channels and 4 bytes: 8 MiB
    assert strip_rows(1, 512, 32, 4) == 32  # as many as a 32 px map has
    assert strip_rows(16, 32, 512, 4) == 16
    assert strip_rows(0, 32, 512, 4) > 512
