"""The small set of recorded numbers, ``small_set.npz``: to read it, and to write it from the full set.

It holds two arrays. ``values`` is uint8 ``[4, N]``: byte i of every float32, distinct arrays end to end; bytes of one
significance compress better side by side. ``index`` is JSON: file -> name -> ``{"shape", "start"}`` of a float32 array,
or ``{"value"}``: text or whole numbers.
"""

import json
import math
import sys
import zipfile
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

SMALL_SET = Path(__file__).with_name("small_set.npz")
FULL_GROWTH = ("img", "img_nerf", "feat", "fg_weights", "fg_depths", "bg_*", "b32_img")
RAYS = ("vol_pixels", "pixels_world", "camera_world", "ray_vector")
KEPT = {
    "units.npz": ["*"],
    "gen_ffhq_tiny.npz": [
        *("sd/*", "z", "ws*", "z_*", "meta/*", "camera_mode/*", "*/alpha", "*/camera_mat", "*/world_mat"),
        *(f"a1_c/{name}" for name in (*FULL_GROWTH, *RAYS)),
        *("a025_c/*", "a0_c/*", "onlybg_c/*", "theta03_c/*", "steps8_c/*", "fp16_b1_c/*"),
    ],
    "disc_tiny.npz": [
        *("sd/*", "meta/*", "img*", "*/logits", "*/alpha", "*/status", "softplus/*"),
        *(f"r1/{name}" for name in ("penalty", "gamma", "param_names", "param_grad_norms", "grad/*")),
    ],
    "train_phases.npz": ["gmain_a0/*", "dreg_a1/*", "dreg_a025/*"],
}

Arrays = dict[str, np.ndarray]


def load_small_set() -> dict[str, Arrays]:
    """File -> name -> array."""
    npz = np.load(SMALL_SET)
    values = np.ascontiguousarray(npz["values"].T).view("<f4").ravel()

    def array(entry: dict[str, Any]) -> np.ndarray:
        if "value" in entry:
            return np.array(entry["value"])
        start, shape = entry["start"], entry["shape"]
        return values[start : start + math.prod(shape)].reshape(shape)

    index = json.loads(npz["index"].tobytes())
    return {file: {name: array(entry) for name, entry in entries.items()} for file, entries in index.items()}


def write_small_set(full: dict[str, Arrays], path: Path) -> None:
    """Pack all arrays; equal ones are stored once, whatever their names."""
    index: dict[str, dict[str, Any]] = {}
    starts: dict[bytes, int] = {}
    size = 0
    for file, arrays in full.items():
        entries = index[file] = {}
        for name, array in arrays.items():
            if array.dtype != np.float32:
                entries[name] = {"value": array.tolist()}
                continue
            data = array.astype("<f4").tobytes()
            entries[name] = {"shape": array.shape, "start": starts.setdefault(data, size)}
            size = max(size, starts[data] + array.size)
    packed = {
        "values": np.frombuffer(b"".join(starts), np.uint8).reshape(-1, 4).T,
        "index": np.frombuffer(json.dumps(index).encode(), np.uint8),
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as z:
        for name, array in packed.items():
            with z.open(f"{name}.npy", "w") as f:
                np.save(f, np.ascontiguousarray(array))


def subset(folder: Path) -> dict[str, Arrays]:
    """What the small set keeps of the four files of the full set in ``folder``."""
    kept = {}
    for file, patterns in KEPT.items():
        npz = np.load(folder / file)
        kept[file] = {name: npz[name] for name in npz.files if any(fnmatchcase(name, p) for p in patterns)}
    return kept


if __name__ == "__main__":
    write_small_set(subset(Path(sys.argv[1])), SMALL_SET)
