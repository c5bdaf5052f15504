"""Training data: image files or scenes rendered on the spot."""

from .base import Batch, Dataset
from .dataset import open_dataset
from .labels import camera_from_label, label_from_camera
from .procedural import ProceduralScenes, SceneView

__all__ = [
    "Batch",
    "Dataset",
    "ProceduralScenes",
    "SceneView",
    "camera_from_label",
    "label_from_camera",
    "open_dataset",
]
