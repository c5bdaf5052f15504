"""Quality metrics that need no network and no download."""

from .consistency import Reprojection, reproject
from .depth import depth_correlation, mean_depth_correlation
from .swd import SlicedWasserstein, SlicedWassersteinMetric, sliced_wasserstein

__all__ = [
    "Reprojection",
    "SlicedWasserstein",
    "SlicedWassersteinMetric",
    "depth_correlation",
    "mean_depth_correlation",
    "reproject",
    "sliced_wasserstein",
]
