"""Named choices of the command line; without torch, for a quick command line."""

from typing import Literal

PICTURES = ("image", "strict", "depth", "normals", "opacity", "foreground", "background")
RAW = ("depth16", "depth-npy")
KINDS = (*PICTURES, *RAW)
ANIMATIONS = ("gif", "webp", "mp4")
FORMATS = ("png", *ANIMATIONS)
Method = Literal["factor", "pca"]
METHODS: tuple[Method, ...] = ("factor", "pca")  # of finding directions
TERMS = ("yaw", "pitch", "radius", "roll")  # of a camera that a projection may look for
MAX_SEED = 2**63 - 1
NETWORKS = ("G_ema", "G")  # of a snapshot
