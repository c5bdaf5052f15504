"""Labels of images: class numbers, free vectors, and cameras in EG3D's 25 numbers.

A camera label is a 4x4 camera-to-world matrix and a 3x3 normalised intrinsics matrix, row by row. EG3D's axes differ
from ours: its camera looks along +z with y down, and its world has y up with the front view at +z, where ours has z up
with the front view (yaw 0) at +x. ``camera_from_label`` and ``label_from_camera`` translate.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from posixpath import dirname, join
from typing import Literal, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...kernels.base.constants import constant
from ...models.camera import FOV_RANGE_DEG, POSE_TOLERANCE, Camera, pose_fault
from ..errors import UserError, short
from .decode import Square
from .names import plain_name

LABELS_FILE = "dataset.json"
CAMERA_LABEL_DIM = 25
LabelKind = Literal["none", "class", "vector", "camera"]
MAX_CLASSES = 2**16
_INTRINSICS_TOLERANCE = 1e-3

# Our world from EG3D's: x = z', y = x', z = y', a rotation. Our camera from EG3D's: y and z change sign.
_WORLD_FROM_EG3D = ((0.0, 0, 1, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 0, 1))
_FLIP_YZ = ((1.0, 0, 0, 0), (0, -1, 0, 0), (0, 0, -1, 0), (0, 0, 0, 1))


def camera_from_label(label: Tensor | NDArray[np.float32], *, check: bool = True) -> Camera:
    """Cameras from EG3D labels [25] or [B, 25]: in our axes, float32, on the labels' device.

    Args:
        check: False for labels of a data set, which were checked when it was opened.
    Raises: ValueError unless there are 25 numbers, naming the first label that is no camera (:func:`label_fault`).
    """
    numbers = torch.as_tensor(label).double()
    if numbers.ndim not in (1, 2) or numbers.shape[-1] != CAMERA_LABEL_DIM:
        raise ValueError(f"label must be [25] or [B, 25], got {list(numbers.shape)}")
    numbers = numbers.reshape(-1, CAMERA_LABEL_DIM)
    fault = label_fault(numbers) if check else None
    if fault is not None:
        raise ValueError(f"label {fault[0]}: {fault[1]}")
    return _camera(numbers).to(dtype=torch.float32)


def _camera(numbers: Tensor) -> Camera:
    """Cameras of valid labels [B, 25]."""
    world = constant(_WORLD_FROM_EG3D, like=numbers)
    cam2world = world @ numbers[:, :16].reshape(-1, 4, 4) @ constant(_FLIP_YZ, like=numbers)
    return Camera.from_checked(cam2world, numbers[:, 16:].reshape(-1, 3, 3))


def label_fault(numbers: Tensor) -> tuple[int, str] | None:
    """The first of labels [B, 25] that is no camera, and why ("wanted ..., got ..."); None where all are.

    Beside :func:`pose_fault`: intrinsics with positive focal lengths, no skew and the principal point in the middle,
    and a camera that looks at the object: the world's origin is no further from the middle than a whole picture. A
    world-to-camera matrix is a pose too, but one that looks elsewhere.
    """
    numbers = numbers.double().cpu()
    pose, k = numbers[:, :16].reshape(-1, 4, 4), numbers[:, 16:].reshape(-1, 3, 3)
    fault = pose_fault(pose)
    if fault is not None:
        return fault
    low, high = (0.5 / math.tan(math.radians(fov / 2)) for fov in reversed(FOV_RANGE_DEG))
    focal = torch.stack([k[:, 0, 0], k[:, 1, 1]], dim=1)
    rest = k - k.new_tensor([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 1]])
    rest[:, [0, 1], [0, 1]] = 0
    x, y, depth = (pose[:, :3, :3].transpose(1, 2) @ -pose[:, :3, 3:]).squeeze(-1).unbind(dim=1)  # of the origin
    reach = 2 * torch.maximum((x * focal[:, 0]).abs(), (y * focal[:, 1]).abs()) / depth  # 1 is the picture's edge
    faults = (
        (~((focal >= low) & (focal <= high)).all(dim=1), "positive focal lengths (in image widths)"),
        (~(rest.abs() <= _INTRINSICS_TOLERANCE).all(dim=(1, 2)), "intrinsics f 0 0.5, 0 f 0.5, 0 0 1"),
        (~((depth > 0) & (reach <= 2)), "a camera-to-world matrix (not world-to-camera) that looks at the origin"),
    )
    bad = torch.stack([mask for mask, _ in faults])
    if not bool(bad.any()):
        return None
    i = int(bad.any(dim=0).int().argmax())
    which = int(bad[:, i].int().argmax())
    got = k[i].tolist() if which < 2 else f"one that looks past it, from {pose[i, :3, 3].tolist()}"
    return i, f"wanted {faults[which][1]}, got {got}"


def label_from_camera(camera: Camera) -> Tensor:
    """EG3D labels [B, 25] float32 of cameras in our axes; the inverse of :func:`camera_from_label`."""
    cam2world = camera.cam2world.double()
    pose = constant(_WORLD_FROM_EG3D, like=cam2world).T @ cam2world @ constant(_FLIP_YZ, like=cam2world)
    intrinsics = torch.eye(3).to(cam2world).repeat(len(camera), 1, 1)
    intrinsics[:, 0, 0] = 0.5 / camera.tan_half_fov[:, 0].double()
    intrinsics[:, 1, 1] = 0.5 / camera.tan_half_fov[:, 1].double()
    intrinsics[:, :2, 2] = 0.5
    return torch.cat([pose.reshape(-1, 16), intrinsics.reshape(-1, 9)], dim=1).float()


def vector_kind(vectors: NDArray[np.float32]) -> LabelKind:
    """Kind of label vectors [N, L]: cameras where at least half of them have the form of one, though perhaps faults.

    The form: 25 numbers, the pose's last row 0 0 0 1, the intrinsics' last row 0 0 1, the other rows of the pose not
    all 0 (which a one-hot row would have).
    """
    if vectors.shape[1] != CAMERA_LABEL_DIM:
        return "vector"
    rows = np.abs(vectors[:, [12, 13, 14, 15, 22, 23, 24]] - np.array([0, 0, 0, 1, 0, 0, 1])) <= POSE_TOLERANCE
    formed = rows.all(axis=1) & (vectors[:, :12] != 0).any(axis=1)
    return "camera" if 2 * int(formed.sum()) >= len(vectors) else "vector"


def deduced_kind(label_dim: int) -> LabelKind:
    """The likely kind of labels of a model that records none: 25 numbers are a camera, any others a class."""
    if label_dim == 0:
        return "none"
    return "camera" if label_dim == CAMERA_LABEL_DIM else "class"


def kind_fault(kind: object, label_dim: int) -> str | None:
    """Why labels of ``label_dim`` numbers are not of this kind, "wanted ..., got ..."; None where they may be."""
    if label_dim == 0:
        possible = ["none"]
    else:
        possible = ["class", "vector", *(["camera"] if label_dim == CAMERA_LABEL_DIM else [])]
    if kind in possible:
        return None
    return f"wanted {' or '.join(possible)} for labels of {label_dim} numbers, got {short(kind)}"


def mirror_label(label: NDArray[np.float32]) -> NDArray[np.float32]:
    """The camera label [25] of the image flipped left to right: the camera is mirrored at EG3D's plane x = 0."""
    mirrored = label.copy()
    mirrored[[1, 2, 3, 4, 8]] *= -1  # F M F with F = diag(-1, 1, 1, 1)
    return mirrored


@dataclass(frozen=True)
class LabelTable:
    """Labels of numbered images: vectors [N, L], or class numbers [N] that become one-hot when they are asked for."""

    values: NDArray[np.float32] | NDArray[np.int64]
    dim: int
    kind: LabelKind

    def at(self, number: int) -> NDArray[np.float32]:
        """Label [L] of image ``number``."""
        label = np.zeros(self.dim, dtype=np.float32)
        if self.values.ndim == 2:
            label[:] = self.values[number]
        else:
            label[int(self.values[number])] = 1
        return label


def read_labels(text: bytes, file: str, names: Sequence[str]) -> LabelTable:
    """The labels of ``names`` from the ``dataset.json`` called ``file``, whose keys are relative to its own folder.

    Raises: UserError for anything but {"labels": [[name, label], ...]} or {"labels": {name: label}} with a label of one
    kind for every name: a class number, or a list of numbers of one length; and naming the first image whose label is
    no camera where the others are (:func:`vector_kind`).
    """
    by_name = labels_by_name(text, file)
    missing = [name for name in names if name not in by_name]
    if missing:
        raise UserError(
            f"data: wanted a label in {file} for every image, got none for {len(missing)} of {len(names)}, "
            f"the first is {missing[0]}"
        )
    table = label_table([by_name[name] for name in names], file, names)
    fault = label_fault(torch.from_numpy(table.values)) if table.kind == "camera" else None
    if fault is not None:
        raise UserError(f"data: {file}: the camera label of {names[fault[0]]}: {fault[1]}")
    return table


def labels_by_name(text: bytes, file: str) -> dict[str, object]:
    """All labels of the ``dataset.json`` called ``file``, by the names of files. Raises: UserError."""
    table = _table(text, file)
    folder = dirname(file)
    by_name = {plain_name(join(folder, key.replace("\\", "/"))): value for key, value in table.items()}
    by_name.update((join(folder, key), value) for key, value in table.items())  # a name of its own form wins
    return by_name


def says_no_labels(text: bytes) -> bool:
    """Whether a ``dataset.json`` has ``"labels": null``, as StyleGAN's tool writes where there are none."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and "labels" in content and content["labels"] is None


def label_table(values: Sequence[object], file: str, names: Sequence[str]) -> LabelTable:
    """Labels of ``names`` of one kind; whether cameras are possible ones is not checked. Raises: UserError."""
    classes = [value for value in values if _is_class(value)]
    vectors = [value for value in values if _is_vector(value)]
    if len(classes) == len(values):
        return LabelTable(np.array(classes, dtype=np.int64), max(classes) + 1, "class")
    if len(vectors) == len(values) and len({len(vector) for vector in vectors}) == 1:
        array = np.array(vectors, dtype=np.float32)
        return LabelTable(array, array.shape[1], vector_kind(array))
    odd = next(((n, v) for n, v in zip(names, values) if not _is_class(v) and not _is_vector(v)), None)
    got = f"{odd[1]!r:.60} for {odd[0]}" if odd is not None else "a mixture"
    raise UserError(
        f"data: wanted labels of one kind in {file}, class numbers below {MAX_CLASSES} or lists of numbers of one "
        f"length, got {got}"
    )


def cut_camera(label: Sequence[float], size: tuple[int, int], square: Square) -> list[float]:
    """The camera label of a square cut out of an upright picture of ``size`` (width, height).

    Intrinsics are in widths (first row) and heights (second row) of the picture, so resizing changes nothing.
    """
    cut, side = list(label), square.side
    for row, length, start in ((16, size[0], square.left), (19, size[1], square.top)):
        cut[row : row + 2] = [value * length / side for value in label[row : row + 2]]
        cut[row + 2] = (label[row + 2] * length - start) / side
    return cut


def _table(text: bytes, file: str) -> dict[str, object]:
    """The name -> label table of a ``dataset.json``."""
    wanted = f'data: wanted {file} to hold {{"labels": [[name, label], ...]}}'
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{wanted}, got no readable JSON ({error})") from error
    labels = content.get("labels") if isinstance(content, dict) else None
    if isinstance(labels, dict):
        return labels
    if not isinstance(labels, list):
        raise UserError(f"{wanted}, got labels of type {type(labels).__name__}")
    for entry in labels:
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            raise UserError(f"{wanted}, got the entry {entry!r:.60}")
    return dict(labels)


def _is_class(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_CLASSES


def _is_vector(value: object) -> TypeGuard[list[float]]:
    return isinstance(value, list) and len(value) > 0 and all(_is_float32(v) for v in value)


def _is_float32(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 3e38  # float32's range
