"""FID, KID, precision and recall against independent computations; what their intervals hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from stylenerf.engine.errors import UserError
from stylenerf.engine.training.metrics.coverage import precision_recall
from stylenerf.engine.training.metrics.feature_figures import feature_figures
from stylenerf.engine.training.metrics.frechet import FeatureSums, FrechetTo, Gaussian, frechet_distance, gaussian_of
from stylenerf.engine.training.metrics.intervals import frechet_interval, share_interval
from stylenerf.engine.training.metrics.kernel_distance import kernel_distance, kernel_distance_error
from stylenerf.engine.training.metrics.reference import Reference

CASES = {"narrow": (40, 50, 3), "wide": (300, 200, 24), "fewer-than-wide": (12, 15, 20), "one-number": (9, 8, 1)}


def two_sets(n: int, m: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features of unlike spread and mean, correlated, far from 0."""
    rng = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=rng)
    x = torch.randn(n, width, generator=rng) @ mix + 5
    y = torch.randn(m, width, generator=rng) @ mix.T * 1.3 + 5.4
    return x.float(), y.float()


@pytest.mark.parametrize(("n", "m", "width"), CASES.values(), ids=CASES)
def test_fid_is_that_of_scipy(n: int, m: int, width: int) -> None:
    linalg = pytest.importorskip("scipy.linalg", reason="scipy is not installed")
    x, y = two_sets(n, m, width)
    a, b = x.double().numpy(), y.double().numpy()
    c1, c2 = np.atleast_2d(np.cov(a, rowvar=False)), np.atleast_2d(np.cov(b, rowvar=False))
    # by the roots of both covariances: (C1 C2)^(1/2) itself is ill-defined where they are singular
    inner = linalg.sqrtm(linalg.sqrtm(c1).real @ c2 @ linalg.sqrtm(c1).real)
    want = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(c1 + c2 - 2 * inner.real)
    got = frechet_distance(gaussian_of(x), gaussian_of(y))
    assert got == pytest.approx(want, rel=1e-6 if n > width else 1e-4)
    if n > width:
        direct = np.trace(c1 + c2 - 2 * linalg.sqrtm(c1 @ c2).real) + np.square(a.mean(0) - b.mean(0)).sum()
        assert got == pytest.approx(direct, rel=1e-6)
    assert frechet_distance(gaussian_of(y), gaussian_of(x)) == pytest.approx(got, rel=1e-9 if n > width else 1e-6)
    assert frechet_distance(gaussian_of(x), gaussian_of(x)) == pytest.approx(0, abs=1e-6 * float(x.var()) * width)


def test_fid_by_hand() -> None:
    """Means 3 apart in one direction, deviations 1 and 2 in both: 9 + (2 - 1)^2 * 2 = 11."""
    a = Gaussian(10, torch.zeros(2).double(), torch.eye(2).double())
    b = Gaussian(10, torch.tensor([3.0, 0.0]).double(), 4 * torch.eye(2).double())
    assert frechet_distance(a, b) == pytest.approx(11, abs=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_streaming_sums_are_those_of_the_whole(offset: float) -> None:
    x = two_sets(100, 2, 7)[0].double() + offset
    sums = FeatureSums()
    for part in x.split(33):
        sums.add(part)
    got = sums.gaussian()
    np.testing.assert_allclose(got.covariance, np.cov(x.numpy(), rowvar=False), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(got.mean, x.numpy().mean(0), rtol=1e-12)
    assert got.count == 100


def test_weights_repeat_features() -> None:
    x = two_sets(20, 2, 3)[0]
    weights = torch.randint(0, 4, (20,), generator=torch.Generator().manual_seed(1))
    a, b = gaussian_of(x, weights), gaussian_of(x.repeat_interleave(weights, 0))
    torch.testing.assert_close(a.covariance, b.covariance)
    torch.testing.assert_close(a.mean, b.mean)


@pytest.mark.parametrize(("n", "m", "width"), CASES.values(), ids=CASES)
def test_kid_is_that_of_numpy(n: int, m: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stylenerf.engine.training.metrics.kernel_distance._ROWS", 16)
    x, y = two_sets(n, m, width)
    a, b = x.double().numpy(), y.double().numpy()
    xx, yy, xy = ((p @ q.T / width + 1) ** 3 for p, q in ((a, a), (b, b), (a, b)))
    for square in (xx, yy):
        np.fill_diagonal(square, 0)
    want = xx.sum() / (n * (n - 1)) + yy.sum() / (m * (m - 1)) - 2 * xy.mean()
    scale = abs(xx).max()
    assert kernel_distance(x, y) == pytest.approx(want, rel=1e-6, abs=1e-9 * scale)


@pytest.mark.parametrize(("n", "m", "width"), [CASES["narrow"], CASES["wide"]])
def test_precision_and_recall_are_those_of_numpy(n: int, m: int, width: int) -> None:
    x, y = two_sets(n, m, width)
    y[:5] = x[:5]

    def inside(points: np.ndarray, centres: np.ndarray) -> float:
        apart = np.sqrt(np.square(centres[:, None] - centres[None]).sum(-1))
        radii = np.sort(apart, axis=1)[:, 3]
        return float((np.sqrt(np.square(points[:, None] - centres[None]).sum(-1)) <= radii).any(1).mean())

    got = precision_recall(x, y)
    a, b = x.double().numpy(), y.double().numpy()
    assert (got.precision, got.recall) == pytest.approx((inside(a, b), inside(b, a)), abs=1e-6)
    assert 0 < got.precision < 1


@pytest.mark.parametrize("library", ["torchmetrics", "torch_fidelity"])
def test_figures_are_those_of_libraries(library: str) -> None:
    pytest.importorskip(library, reason=f"{library} is not installed")
    x, y = two_sets(*CASES["wide"])
    got = frechet_distance(gaussian_of(x), gaussian_of(y))
    if library == "torchmetrics":
        from torchmetrics.image.fid import _compute_fid
        from torchmetrics.image.kid import poly_mmd

        a, b = gaussian_of(x), gaussian_of(y)
        assert got == pytest.approx(float(_compute_fid(a.mean, a.covariance, b.mean, b.covariance)), rel=1e-6)
        assert kernel_distance(x[:200], y) == pytest.approx(float(poly_mmd(x[:200].double(), y.double())), rel=1e-6)
        return
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import calculate_metric_kernel as kid_of

    stats = [fid_features_to_statistics(part.double()) for part in (x, y)]
    want = fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    assert got == pytest.approx(want, rel=1e-6)
    assert kid_of


def pictures(count: int = 96) -> Tensor:
    rng = torch.Generator().manual_seed(3)
    return functional.interpolate(torch.rand(count, 3, 6, 6, generator=rng), size=16, mode="bilinear")


def features_of(images: Tensor) -> Tensor:
    """Colours, edges and their spread: a detector as simple as it can be."""
    grey = images.mean(1)
    edges = [grey.diff(dim=1), grey.diff(dim=2), grey.diff(n=2, dim=1)]
    parts = [images.mean((2, 3)), images.std((2, 3)), *(edge.abs().mean((1, 2))[:, None] for edge in edges)]
    return torch.cat(parts, dim=1) * 100


@pytest.mark.parametrize("harm", ["blur", "noise"])
def test_distances_grow_with_harm(harm: str) -> None:
    clean = pictures()
    rng = torch.Generator().manual_seed(1)
    if harm == "noise":
        noise = torch.randn(clean.shape, generator=rng)
        harmed = [clean + amount * noise for amount in (0.0, 0.02, 0.05, 0.1)]
    else:
        harmed = [clean, *(functional.avg_pool2d(clean, k, 1, k // 2, count_include_pad=False) for k in (3, 5, 7))]
    sets = [features_of(images) for images in harmed]
    reference = FrechetTo(gaussian_of(sets[0]))
    fid = [reference.distance(gaussian_of(part)) for part in sets]
    kid = [kernel_distance(part, sets[0]) for part in sets]
    assert fid[0] == pytest.approx(0, abs=1e-7) and fid[0] < fid[1] < fid[2] < fid[3]
    assert kid[0] < kid[1] < kid[2] < kid[3]


@pytest.mark.slow
def test_the_interval_of_fid_covers_the_truth() -> None:
    """Of 60 sets of 400 samples, the interval holds the distance of the true distribution in about 95 %."""
    rng = torch.Generator().manual_seed(0)
    width, trials = 4, 60
    mix = torch.randn(width, width, generator=rng).double()
    truth = Gaussian(2, torch.full((width,), 0.3).double(), mix @ mix.T)
    reference = FrechetTo(Gaussian(2, torch.zeros(width).double(), torch.eye(width).double()))
    want = reference.distance(truth)
    held, values, halves = 0, [], []
    for trial in range(trials):
        x = torch.randn(400, width, generator=rng).double() @ mix.T + 0.3
        figure = frechet_interval(x, reference, resamples=30, seed=trial)
        assert figure.low is not None and figure.high is not None
        held += figure.low <= want <= figure.high
        values.append(figure.value)
        halves.append((figure.high - figure.low) / 2)
    assert held / trials >= 0.88
    assert np.mean(halves) / 1.96 == pytest.approx(np.std(values), rel=0.25)  # nor is it wider than it has to be
    assert np.mean(values) > want  # a finite set is too far away, which the interval makes up for


@pytest.mark.slow
def test_the_intervals_of_kid_and_shares_cover_the_truth() -> None:
    rng = torch.Generator().manual_seed(0)
    y = torch.randn(400, 3, generator=rng) * 1.5
    far = torch.randn(20_000, 3, generator=rng)
    want, held = kernel_distance(far[:4000], y), 0
    for _ in range(60):
        value, error = kernel_distance_error(torch.randn(150, 3, generator=rng), y)
        held += abs(value - want) <= 1.96 * error
    assert held / 60 >= 0.85
    hits = [share_interval(torch.rand(80, generator=rng) < 0.9) for _ in range(200)]
    assert sum(f.low <= 0.9 <= f.high for f in hits if f.low is not None and f.high is not None) / 200 >= 0.9
    assert share_interval(torch.ones(10)).low == pytest.approx(0.722, abs=1e-3)  # Wilson, 10 of 10


def test_a_set_against_itself_is_near_and_covered() -> None:
    x = two_sets(60, 2, 5)[0]
    figures = feature_figures(x, Reference(gaussian_of(x), x), resamples=5, seed=0)
    assert figures["fid"].value == pytest.approx(0, abs=1e-6)
    assert figures["precision"].value == figures["recall"].value == 1
    assert figures["kid"].value < 0  # unbiased: the shared items make it too small


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FeatureSums().gaussian(), "images: wanted at least 2 for a covariance, got 0"),
        (
            lambda: kernel_distance(torch.ones(1, 2), torch.ones(4, 2)),
            "images: wanted at least 2 of each set, got 1 and",
        ),
        (
            lambda: precision_recall(torch.ones(3, 2), torch.ones(9, 2)),
            "images: wanted more than 3 of each set, got 3 and",
        ),
        (lambda: FeatureSums().add(torch.tensor([[float("nan")]])), "detector: wanted finite features"),
    ],
)
def test_too_little_is_one_line(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=message):
        call()
