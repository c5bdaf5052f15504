"""Networks whose features stand for what a picture shows. Nothing is downloaded: the user names a file.

--detector inception.pt                     a TorchScript file: uint8 [N, 3, H, W] -> features [N, D]
--detector torch-fidelity                   the Inception of torch-fidelity, its weights where torch keeps downloads
--detector torch-fidelity:weights.pth       the same, from a file
"""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import UserError, one_line, os_reason

FIDELITY = "torch-fidelity"
_FIDELITY_FILE = "weights-inception-2015-12-05-6726825d.pth"


@dataclass(frozen=True)
class Detector:
    """A network that makes features of pictures.

    Attributes:
        name:    what it is, for people.
        sha256:  hash of its weights: figures of different detectors do not compare.
        network: uint8 [N, 3, H, W] -> [N, D] on the device of the images.
    """

    name: str
    sha256: str
    network: Callable[[Tensor], Tensor]

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Features [N, D] float32 on the CPU of images [N, 3, H, W] uint8.

        Raises: UserError if the network fails or makes something else.
        """
        try:
            made = self.network(images)
        except RuntimeError as error:
            raise UserError(f"--detector: wanted a network of uint8 [N, 3, H, W], got: {_reason(error)}") from None
        if not isinstance(made, Tensor) or made.ndim < 2 or len(made) != len(images):
            got = list(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise UserError(f"--detector: wanted features [{len(images)}, D], got {got}")
        flat = made.flatten(1).float().cpu()
        if not flat.isfinite().all():
            raise UserError("--detector: wanted finite features, got some that are not")
        return flat


def load_detector(text: str, device: torch.device | str = "cpu") -> Detector:
    """The detector that ``--detector`` names. Raises: UserError in one line."""
    name, _, file = text.partition(":")
    if name == FIDELITY:
        return _fidelity(file, device)
    path = Path(text)
    digest = _hash(path)
    try:
        with warnings.catch_warnings():  # torch calls TorchScript deprecated, but published detectors come in it
            warnings.simplefilter("ignore", DeprecationWarning)
            network: Any = torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(f"--detector: wanted a TorchScript file, got {path}: {_reason(error)}") from None
    takes = {argument.name for argument in network.forward.schema.arguments}
    if "return_features" in takes:  # the file that published figures use
        return Detector(path.name, digest, lambda images: network(images, return_features=True))
    return Detector(path.name, digest, network)


def _fidelity(file: str, device: torch.device | str) -> Detector:
    if importlib.util.find_spec("torch_fidelity") is None:
        raise UserError("--detector: wanted torch-fidelity: pip install torch-fidelity, or a TorchScript file")
    path = Path(file) if file else Path(torch.hub.get_dir()) / "checkpoints" / _FIDELITY_FILE
    if not path.is_file():
        raise UserError(
            f"--detector: wanted torch-fidelity's weights at {path}, got nothing there; nothing is downloaded: "
            f"name the file as {FIDELITY}:FILE"
        )
    digest = _hash(path)
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))
    network = network.to(device).eval()
    return Detector(FIDELITY, digest, lambda images: network(images)[0])


def _hash(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(
            f"--detector: wanted a TorchScript file or {FIDELITY}, got {path}: {os_reason(error)}"
        ) from None


def _reason(error: Exception) -> str:
    return one_line(error)[-200:]
