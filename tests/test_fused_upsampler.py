"""Layers, blocks, whole generators and training phases with every op on its kernel, held to the reference numbers."""

from collections.abc import Iterator

import pytest
import torch

import stylenerf.models.upsampler
from stylenerf.kernels.blocks.refine_to_rgb import refine_to_rgb
from stylenerf.models.generator import RenderOptions
from tests import test_fused_generator, test_generator, test_recompute, test_train_phases, test_upsampler
from tests.closeness import assert_image_close
from tests.conftest import at_hand
from tests.on_kernels import numbers_on_the_device, ops_as_on_a_device

FEW_LAYERS = ("nn_cat_k1_up2", "default_k3_up2")
FEW_BLOCKS = ("skip_nn_cat",)


@pytest.fixture(autouse=True)
def ran(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """The names of the ops that have run by a kernel."""
    kept = (test_generator.reference, test_generator.rendered)
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


@pytest.mark.parametrize("case", FEW_LAYERS)
def test_layer(case: str, ran: set[str]) -> None:
    test_upsampler.test_layer_reference_numbers(case)
    assert ran >= ({"modulated_conv", "upfirdn2d", "bias_act"} if "default" in case else {"upsample_block"})


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in (*test_upsampler.LAYERS, "plain_k3_up1") if case not in FEW_LAYERS])
def test_every_other_layer(case: str, ran: set[str]) -> None:
    test_upsampler.test_layer_reference_numbers(case)
    assert ("upsample_block" in ran) == case.startswith(("nn_cat", "pixelshuffle", "bilinear_k", "default"))


@pytest.mark.parametrize("case, output", [(case, test_upsampler.NOISY[case][0]) for case in test_upsampler.NOISY])
def test_noise(case: str, output: str) -> None:
    test_upsampler.test_noise_reference_numbers(case, output)


def test_magnitude(ran: set[str]) -> None:
    test_upsampler.test_magnitude_reference_numbers()
    assert "mean_square" in ran


def test_repeated_styles(ran: set[str]) -> None:
    test_upsampler.test_repeated_styles_reference_numbers()
    assert "modulated_layer" in ran


@pytest.mark.parametrize("case", FEW_BLOCKS)
def test_block(case: str) -> None:
    test_upsampler.test_block_reference_numbers(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in test_upsampler.BLOCKS if case not in FEW_BLOCKS])
def test_every_other_block(case: str) -> None:
    test_upsampler.test_block_reference_numbers(case)


@pytest.mark.slow
@pytest.mark.parametrize("run", at_hand(test_generator.FIXTURE, test_generator.RUNS, "img"))
def test_generator_run(run: str, ran: set[str]) -> None:
    test_generator.test_reference_numbers(run)
    wanted = set() if run == "onlybg_c" else {"render_rays"}
    wanted |= set() if run == "nobg_c" else {"render_points"}
    wanted |= {"upsample_block", "refine_to_rgb"} if test_generator.reference()[0][f"{run}/alpha"] != 0 else set()
    assert ran >= wanted


def test_growing_generator(ran: set[str]) -> None:
    """One image while the first block is at work."""
    f, g = test_generator.reference()
    camera, options = test_generator.camera_of(f, "a025_c")[:1], RenderOptions(alpha=float(f["a025_c/alpha"]))
    out = g.synthesis(f["ws"][:1], camera, z_bg=f["z_shape_bg"][:1], options=options)
    assert_image_close("image", out.image, f["a025_c/img"][:1])
    assert ran >= {"render_rays", "render_points", "upsample_block", "refine_to_rgb"}


@pytest.mark.slow
def test_half_precision() -> None:
    test_fused_generator.test_half_precision()


@pytest.mark.slow
@pytest.mark.parametrize("case", at_hand(test_train_phases.FIXTURE, test_train_phases.G_CASES, "img"))
def test_generator_step(case: str) -> None:
    test_train_phases.test_generator_step(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", at_hand(test_train_phases.FIXTURE, ["greg_a1"], "img"))
def test_path_length_step(case: str) -> None:
    test_train_phases.test_path_length_step(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["as released", "noise", "transposed 3x3"])
def test_computing_blocks_again_changes_nothing(case: str) -> None:
    test_recompute.test_bit_for_bit(test_recompute.CONFIGS[case], torch.float16)


@pytest.mark.slow
def test_computing_blocks_again_for_path_length() -> None:
    test_recompute.test_path_length({"noise": True})
