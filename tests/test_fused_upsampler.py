"""Layers, blocks, whole generators and training phases with every op on its kernel, held to the reference numbers."""

from collections.abc import Iterator

import pytest
import torch

import stylenerf.models.upsampler
from stylenerf.kernels.blocks.refine_to_rgb import refine_to_rgb
from stylenerf.models.generator import RenderOptions
from tests.closeness import assert_image_close
from tests.conftest import at_hand
from tests.on_kernels import numbers_on_the_device, ops_as_on_a_device
from tests.recomputed import CONFIGS, compare_pass, compare_path_length
from tests.recorded import generator as recorded
from tests.recorded import phases
from tests.recorded.phases import compare_generator_step, compare_path_length_step
from tests.recorded.upsampler import (
    BLOCKS,
    LAYERS,
    NOISY,
    compare_block,
    compare_layer,
    compare_magnitude,
    compare_noise,
    compare_repeated_styles,
)
from tests.sweeps import sweep

FEW_LAYERS = ("nn_cat_k1_up2", "default_k3_up2")
FEW_BLOCKS = ("skip_nn_cat",)


@pytest.fixture(autouse=True)
def ran(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """The names of the ops that have run by a kernel."""
    kept = (recorded.reference, recorded.rendered)
    for made_by_plain_forms in kept:
        made_by_plain_forms.cache_clear()
    numbers_on_the_device(monkeypatch)
    # the last block's features too, which a device leaves out
    monkeypatch.setattr(
        stylenerf.models.upsampler, "refine_to_rgb", lambda *a, **how: refine_to_rgb(*a, **how | {"keep": True})
    )
    yield ops_as_on_a_device(monkeypatch)
    for made_by_kernels in kept:
        made_by_kernels.cache_clear()
    torch.set_default_device(None)


@pytest.mark.parametrize("case", sweep(FEW_LAYERS, always=FEW_LAYERS[:1]))
def test_layer(case: str, ran: set[str]) -> None:
    compare_layer(case)
    assert ran >= ({"modulated_conv", "upfirdn2d", "bias_act"} if "default" in case else {"upsample_block"})


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in (*LAYERS, "plain_k3_up1") if case not in FEW_LAYERS])
def test_every_other_layer(case: str, ran: set[str]) -> None:
    compare_layer(case)
    assert ("upsample_block" in ran) == case.startswith(("nn_cat", "pixelshuffle", "bilinear_k", "default"))


@pytest.mark.parametrize("case, output", [(case, NOISY[case][0]) for case in NOISY])
def test_noise(case: str, output: str) -> None:
    compare_noise(case, output)


def test_magnitude(ran: set[str]) -> None:
    compare_magnitude()
    assert "mean_square" in ran


def test_repeated_styles(ran: set[str]) -> None:
    compare_repeated_styles()
    assert "modulated_layer" in ran


@pytest.mark.parametrize("case", FEW_BLOCKS)
def test_block(case: str) -> None:
    compare_block(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in BLOCKS if case not in FEW_BLOCKS])
def test_every_other_block(case: str) -> None:
    compare_block(case)


@pytest.mark.slow
@pytest.mark.parametrize("run", at_hand(recorded.FIXTURE, recorded.RUNS, "img"))
def test_generator_run(run: str, ran: set[str]) -> None:
    recorded.compare_run(run)
    wanted = set() if run == "onlybg_c" else {"render_rays"}
    wanted |= set() if run == "nobg_c" else {"render_points"}
    wanted |= {"upsample_block", "refine_to_rgb"} if recorded.reference()[0][f"{run}/alpha"] != 0 else set()
    assert ran >= wanted


@pytest.mark.slow
def test_growing_generator(ran: set[str]) -> None:
    """One image while the first block is at work."""
    f, g = recorded.reference()
    camera, options = recorded.camera_of(f, "a025_c")[:1], RenderOptions(alpha=float(f["a025_c/alpha"]))
    out = g.synthesis(f["ws"][:1], camera, z_bg=f["z_shape_bg"][:1], options=options)
    assert_image_close("image", out.image, f["a025_c/img"][:1])
    assert ran >= {"render_rays", "render_points", "upsample_block", "refine_to_rgb"}


@pytest.mark.slow
def test_half_precision() -> None:
    recorded.compare_half_precision()


@pytest.mark.slow
@pytest.mark.parametrize("case", at_hand(phases.FIXTURE, phases.G_CASES, "img"))
def test_generator_step(case: str) -> None:
    compare_generator_step(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", at_hand(phases.FIXTURE, ["greg_a1"], "img"))
def test_path_length_step(case: str) -> None:
    compare_path_length_step(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["as released", "noise", "transposed 3x3"])
def test_computing_blocks_again_changes_nothing(case: str) -> None:
    compare_pass(CONFIGS[case], torch.float16)


@pytest.mark.slow
def test_computing_blocks_again_for_path_length() -> None:
    compare_path_length({"noise": True})
