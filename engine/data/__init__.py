"""Training data: image files or scenes rendered on the spot."""

from engine.data.base import Batch, Dataset
from engine.data.dataset import open_dataset
from engine.data.labels import camera_from_label, label_from_camera
from engine.data.procedural import ProceduralScenes, SceneView

__all__ = [
    "Batch",
    "Dataset",
    "ProceduralScenes",
    "SceneView",
    "camera_from_label",
    "label_from_camera",
    "open_dataset",
]
