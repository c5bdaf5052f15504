"""Quality figures that need no network and no download."""

from engine.metrics.consistency import Reprojection, reproject
from engine.metrics.depth import depth_correlation, mean_depth_correlation
from engine.metrics.swd import SlicedWasserstein, SlicedWassersteinMetric, sliced_wasserstein

__all__ = [
    "Reprojection",
    "SlicedWasserstein",
    "SlicedWassersteinMetric",
    "depth_correlation",
    "mean_depth_correlation",
    "reproject",
    "sliced_wasserstein",
]
