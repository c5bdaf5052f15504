"""FID, KID, precision and recall of features, with their intervals."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .coverage import NEIGHBOURS, precision_recall
from .frechet import FrechetTo
from .intervals import Figure, frechet_interval, normal_interval, share_interval
from .kernel_distance import kernel_distance_error
from .reference import KEPT, Reference


def feature_figures(
    samples: Tensor, real: Reference, *, resamples: int, seed: int, progress: Callable[[], None] = lambda: None
) -> dict[str, Figure]:
    """Figures of the features ``samples`` [N, D] against a data set's.

    FID is of all samples and all reference images; KID, precision and recall are of the first 10 000 of each. Intervals
    hold for the choice of samples, the reference being what it is (recall: for the choice of reference images).

    Args:
        resamples: of the bootstrap of FID; 0 for no interval.  progress: called after each.
    Raises: UserError with fewer than four images in a set.
    """
    figures = {
        "fid": frechet_interval(samples, FrechetTo(real.gaussian), resamples=resamples, seed=seed, progress=progress)
    }
    some = samples[:KEPT]
    figures["kid"] = normal_interval(*kernel_distance_error(some, real.features))
    if min(len(some), len(real.features)) > NEIGHBOURS:
        covered = precision_recall(some, real.features)
        figures["precision"] = share_interval(covered.precise)
        figures["recall"] = share_interval(covered.recalled)
    return figures
