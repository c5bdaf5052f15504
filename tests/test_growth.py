"""Progressive growing: levels, blending and the schedule, by hand."""

import pytest

from stylenerf.models.growth import Growth, alpha_at, growth_at, growth_levels

FIELD_FIRST = (8, 16, 64)  # start, volume, full: the field grows to 16 px, then two blocks
BLOCKS_ONLY = (16, 16, 64)
TABLE = {
    # alpha * 3 levels (16, 32, 64)
    "start": (0.0, FIELD_FIRST, Growth(8, 8, 0)),
    "field level": (0.1, FIELD_FIRST, Growth(16, 8, 1)),
    "first block": (0.5, FIELD_FIRST, Growth(32, 16, 2, 0.5)),
    "second block": (0.75, FIELD_FIRST, Growth(64, 32, 3, 0.25)),
    "end": (1.0, FIELD_FIRST, Growth(64, 32, 3)),
    # alpha * 2 levels (32, 64)
    "no field level": (0.25, BLOCKS_ONLY, Growth(32, 16, 1, 0.5)),
    "boundary": (0.5, BLOCKS_ONLY, Growth(64, 32, 2, 0.0)),
    "past the boundary": (0.75, BLOCKS_ONLY, Growth(64, 32, 2, 0.5)),
    "nothing to grow": (0.3, (16, 16, 16), Growth(16, 16, 0)),
    "nothing to grow, grown": (1.0, (16, 16, 16), Growth(16, 16, 0)),
    "one field level, half": (0.5, (8, 16, 16), Growth(16, 8, 1)),
}


@pytest.mark.parametrize("name", TABLE)
def test_states(name: str) -> None:
    alpha, edges, want = TABLE[name]
    assert growth_at(alpha, *edges) == want


@pytest.mark.parametrize(
    "edges, want", [(FIELD_FIRST, (16, 32, 64)), (BLOCKS_ONLY, (32, 64)), ((32, 16, 64), (32, 64)), ((8, 8, 8), ())]
)
def test_levels(edges: tuple[int, int, int], want: tuple[int, ...]) -> None:
    assert growth_levels(*edges) == want


def test_progress_is_taken_in_single_precision() -> None:
    # 0.7 * 10 levels is just below 7 in float64 but 7 in float32, where a new level begins
    alpha, levels = 0.7 - 1e-9, 10
    assert alpha * levels < 7
    got = growth_at(alpha, 2, 2, 2 * 2**levels)
    assert (got.level, got.blend) == (8, 0.0)


def test_the_last_step_before_the_end() -> None:
    # rounds to 1.0 in float32: still the last level, all but faded in
    assert growth_at(1 - 1e-12, *BLOCKS_ONLY) == Growth(64, 32, 2, 1.0)


@pytest.mark.parametrize("alpha", [-1.0, 1.5, float("nan")])
def test_refuses_progress_out_of_range(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha must be between 0 and 1, got"):
        growth_at(alpha, *BLOCKS_ONLY)


@pytest.mark.parametrize("kimg, want", [(0, 0.0), (500, 0.0), (1625, 0.25), (5000, 1.0), (9999, 1.0)])
def test_schedule(kimg: float, want: float) -> None:
    assert alpha_at(kimg, 500, 5000) == want


@pytest.mark.parametrize("kimg, want", [(499, 0.0), (500, 1.0)])
def test_schedule_of_no_length_is_a_step(kimg: float, want: float) -> None:
    assert alpha_at(kimg, 500, 500) == want
