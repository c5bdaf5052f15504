"""The interface of data sets: images by number, labels, and batches in an order that can be repeated.

An item is an image or, with ``mirror``, also its horizontal flip: items 0..N-1 are the images as they are, items
N..2N-1 their mirrored copies. Which items a training step sees is a pure function of (seed, images shown so far), so a
resumed run sees the same data as one that never stopped.
"""

from __future__ import annotations

import hashlib
import os
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .labels import LabelKind, mirror_label

Pixels = NDArray[np.uint8]
In = TypeVar("In")
Out = TypeVar("Out")

DEFAULT_CACHE_BYTES = 2**30
_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, the step of the splitmix64 counter


class Batch(NamedTuple):
    """One batch of a training step: ``images`` [n, 3, r, r] uint8, ``labels`` [n, L] float32 (L = 0 without labels)."""

    images: Tensor
    labels: Tensor


def scramble(*words: int) -> int:
    """One 63-bit number that depends on all ``words``; neighbouring inputs give unrelated outputs."""
    return int.from_bytes(hashlib.blake2b(repr(words).encode(), digest_size=8).digest(), "little") >> 1


def _finish(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of splitmix64: a bijection of 64-bit words that spreads every bit over the whole word."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def epoch_order(seed: int, epoch: int, length: int) -> NDArray[np.int64]:
    """A permutation of 0..length-1: the items sorted by a random 64-bit key.

    The keys are computed here rather than drawn from a library's generator, whose shuffle may change between versions.
    """
    counter = np.arange(length, dtype=np.uint64) * np.uint64(_GOLDEN) + np.uint64(scramble(seed, epoch))
    return np.argsort(_finish(counter), kind="stable")


class ByteCache:
    """The most recently used arrays, up to ``limit`` bytes in all; an array above the limit is not kept."""

    def __init__(self, limit: int) -> None:
        if limit < 0:
            raise ValueError(f"cache_bytes must be 0 or more, got {limit}")
        self.limit = limit
        self.used = 0
        self._arrays: OrderedDict[Hashable, Pixels] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[ByteCache], tuple[int]]:
        return ByteCache, (self.limit,)  # a copy in another process starts empty

    def __len__(self) -> int:
        return len(self._arrays)

    def get(self, key: Hashable) -> Pixels | None:
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
            return self._arrays.get(key)

    def put(self, key: Hashable, array: Pixels) -> None:
        with self._lock:
            if key in self._arrays or array.nbytes > self.limit:
                return
            self._arrays[key] = array
            self.used += array.nbytes
            while self.used > self.limit:
                self.used -= self._arrays.popitem(last=False)[1].nbytes


class Dataset(ABC):
    """Images of one square size, with labels or without.

    Attributes:
        name:       short name for logs and file names.
        resolution: side of the full-size images in pixels.
        label_dim:  length L of a label, 0 without labels.
        label_kind: what it is: a class (one-hot), a vector, a camera (25 numbers), or none.
        mirror:     whether every image comes a second time, flipped left to right.
        unusable:   file name -> why it cannot be used; files join when a defect shows.
    """

    name: str
    resolution: int
    label_dim: int
    label_kind: LabelKind
    mirror: bool
    unusable: dict[str, str]

    def __init__(
        self,
        name: str,
        *,
        resolution: int,
        mirror: bool,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        workers: int | None = None,
    ) -> None:
        self.name = name
        self.resolution = resolution
        self.label_dim = 0
        self.label_kind = "none"
        self.mirror = mirror
        self.unusable = {}
        self.cache = ByteCache(cache_bytes)
        self.workers = workers if workers is not None else min(8, os.cpu_count() or 1)
        self._pool: tuple[int, ThreadPoolExecutor] | None = None
        self._epoch: tuple[tuple[int, int, int], NDArray[np.int64]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}

    @property
    @abstractmethod
    def num_images(self) -> int:
        """Images without their mirrored copies."""

    @abstractmethod
    def describe(self) -> str:
        """One line: how many images, from where, mirrored or not, how many files are unusable."""

    @abstractmethod
    def _pixels(self, number: int, resolution: int) -> Pixels:
        """Image ``number`` of 0..num_images-1 as it is, [r, r, 3]."""

    @abstractmethod
    def _plain_label(self, number: int) -> NDArray[np.float32]:
        """Label [L] of image ``number`` as it is."""

    def sha256(self) -> str:
        """Hash of what the images without mirrored copies are made from; equal sets have equal hashes."""
        digest = hashlib.sha256()
        for number in range(self.num_images):
            digest.update(self._pixels(number, self.resolution).tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return self.num_images * (2 if self.mirror else 1)

    def close(self) -> None:
        """Release threads and open files; the data set opens them again when it is used again."""
        if self._pool is not None and self._pool[0] == os.getpid():
            self._pool[1].shutdown()
        self._pool = None

    def image(self, index: int, resolution: int) -> Pixels:
        """Item ``index`` at ``resolution``, uint8 [r, r, 3].

        Raises: IndexError outside 0..len-1, ValueError for a resolution outside 1..self.resolution.
        """
        number, flipped = self._locate(index)
        if not 1 <= resolution <= self.resolution:
            raise ValueError(f"resolution must be between 1 and {self.resolution}, got {resolution}")
        pixels = self._pixels(number, resolution)
        return np.ascontiguousarray(pixels[:, ::-1]) if flipped else pixels

    def label(self, index: int) -> NDArray[np.float32]:
        """Label of item ``index``, float32 [L]; of a mirrored item with a camera label, that of the mirrored camera."""
        number, flipped = self._locate(index)
        label = self._plain_label(number)
        return mirror_label(label) if flipped and self.label_kind == "camera" else label

    def order(self, seed: int, images_shown: int, n: int) -> list[int]:
        """The ``n`` items that follow after ``images_shown`` items: one fresh permutation of all items per epoch."""
        if images_shown < 0 or n < 0:
            raise ValueError(f"images_shown and n must be 0 or more, got {images_shown} and {n}")
        length = len(self)
        places = [divmod(position, length) for position in range(images_shown, images_shown + n)]
        return [int(self._permutation(seed, epoch, length)[place]) for epoch, place in places]

    def batch(self, seed: int, images_shown: int, n: int, resolution: int) -> Batch:
        """Images and labels of the items ``order(seed, images_shown, n)`` at ``resolution``."""
        items = self.order(seed, images_shown, n)
        images = np.zeros((n, resolution, resolution, 3), dtype=np.uint8)
        for i, pixels in enumerate(self.map(lambda item: self.image(item, resolution), items)):
            images[i] = pixels
        labels = np.zeros((n, self.label_dim), dtype=np.float32)
        if self.label_dim:
            for i, item in enumerate(items):
                labels[i] = self.label(item)
        return Batch(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels))

    def map(self, function: Callable[[In], Out], items: list[In]) -> list[Out]:
        """``[function(i) for i in items]``, shared among ``workers`` threads (decoding leaves Python's lock)."""
        if self.workers < 2 or len(items) < 2:
            return [function(item) for item in items]
        if self._pool is None or self._pool[0] != os.getpid():  # threads do not survive a fork
            self._pool = os.getpid(), ThreadPoolExecutor(self.workers, thread_name_prefix="images")
        return list(self._pool[1].map(function, items))

    def _facts(self) -> str:
        """The part of :meth:`describe` that all data sets share."""
        mirrored = f"mirrored to {len(self)}" if self.mirror else "not mirrored"
        labels = {
            "none": "no labels",
            "class": f"labels of {self.label_dim} classes",
            "vector": f"labels of {self.label_dim} numbers",
            "camera": "labels that are cameras",
        }[self.label_kind]
        return f"{self.resolution} px, {mirrored}, {labels}, {len(self.unusable)} files unusable"

    def _permutation(self, seed: int, epoch: int, length: int) -> NDArray[np.int64]:
        key = seed, epoch, length
        if self._epoch is None or self._epoch[0] != key:
            self._epoch = key, epoch_order(seed, epoch, length)
        return self._epoch[1]

    def _locate(self, index: int) -> tuple[int, bool]:
        """Item -> (image number, mirrored?)."""
        if not 0 <= index < len(self):
            raise IndexError(f"index must be between 0 and {len(self) - 1}, got {index}")
        return index % self.num_images, index >= self.num_images
