"""What autograd keeps of a fused ray pass: by count under the interpreter, by formula at the released sizes."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stylenerf.kernels.rays.field_triton import pack
from tests.inputs import FieldCase
from tests.ray_runs import Kind, RayRun, field_of, field_tensors

SMALL = FieldCase(batch=1, rays=64, samples=14, fine=14, hidden=32, depth=8, num_freqs=10)
# what the released FFHQ model trains on: 1024 rays of the image and 256 of the path regularisation; its background
FFHQ = FieldCase(batch=1, rays=1280, samples=14, fine=14, hidden=128, depth=8, num_freqs=10)
BACKGROUND = FieldCase(batch=1, rays=1280, samples=4, dims=4, hidden=64, depth=4, num_freqs=10)


def saved_bytes(run: RayRun, impl: str, precision: str = "fp16") -> int:
    """Bytes of all tensors that a forward keeps for its backward, each storage once; the field has gradients."""
    named = {name: t.requires_grad_(name in field_names(run)) for name, t in run.inputs().items()}
    kept: list[Tensor] = []  # alive, so that no two share an address

    def pack_hook(t: Tensor) -> Tensor:
        kept.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack_hook, lambda t: t):
        out = run.render(impl, precision, named)
    assert out.hidden.requires_grad
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept if t.ndim}
    return sum(storages.values())


def field_names(run: RayRun) -> set[str]:
    layers = range(run.case.depth)
    return {*(f"{kind}[{i}]" for i in layers for kind in ("weights", "biases")), "density_weight", "density_bias"}


def kernel_bytes(case: FieldCase, kind: Kind) -> int:
    """The packed field in float32; inputs of every ray and sample, and what was found at each sample."""
    H, L = max(32, case.hidden), case.depth  # all widths here are among the kernels' own
    columns = max(16, 1 << (case.num_freqs * case.dims - 1).bit_length())
    field = case.batch * H * (2 * columns + (L - 1) * H + L + 1) + 1
    rays = case.batch * case.rays
    if kind == "points":
        return 4 * (field + rays * case.samples * (case.dims + 2 + 2))  # points; depth, noise; weight, density
    if kind == "single":
        return 4 * (field + rays * (6 + case.samples * 4))  # o, d; depth, noise; weight, density
    both = case.samples + case.fine
    # o, d; fraction and noise of a coarse sample; u and noise of a fine one; weight, density, fraction; order in 16 bit
    return 4 * (field + rays * (6 + 2 * both + 3 * both)) + 2 * rays * both


def plain_bytes(case: FieldCase, kind: Kind) -> int:
    """The encoding and every layer's activations, of every sample: the least that a gradient of the weights takes."""
    samples = case.samples + (case.fine if kind == "hierarchical" else 0)
    return 4 * case.batch * case.rays * samples * (2 * case.num_freqs * case.dims + case.depth * case.hidden)


KINDS: tuple[Kind, ...] = ("single", "hierarchical", "points")


@pytest.mark.parametrize("kind", KINDS)
def test_formulas_count_right(kind: Kind) -> None:
    run = RayRun(SMALL, kind)
    got, want = saved_bytes(run, "triton"), kernel_bytes(SMALL, kind)
    assert got == want
    plain, least = saved_bytes(run, "ref"), plain_bytes(SMALL, kind)
    assert least <= plain <= 1.2 * least
    assert 10 * got <= plain


def test_precision_costs_no_memory() -> None:
    run = RayRun(replace(SMALL, rays=2))
    assert saved_bytes(run, "triton", "fp32") == saved_bytes(run, "triton", "fp16")


@pytest.mark.parametrize("case, kind", [(FFHQ, "hierarchical"), (FFHQ, "single"), (BACKGROUND, "points")])
@pytest.mark.parametrize("batch", [1, 8])
def test_a_tenth_at_the_released_sizes(case: FieldCase, kind: Kind, batch: int) -> None:
    sized = replace(case, batch=batch)
    assert 10 * kernel_bytes(sized, kind) <= plain_bytes(sized, kind)


def test_packed_size_is_that_of_the_formula() -> None:
    run = RayRun(replace(SMALL, batch=2, dims=4), "points")
    packed = pack(field_of(run.case, run.inputs()), 4)
    samples = run.case.batch * run.case.rays * run.case.samples * 8
    assert 4 * (sum(t.numel() for t in packed) + samples) == kernel_bytes(run.case, "points")
    assert set(field_tensors(field_of(run.case, run.inputs()))) == field_names(run)
