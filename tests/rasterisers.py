"""Pictures of exported files by small rasterisers of their own: triangles with a texture, and Gaussian splats."""

import math
from pathlib import Path

import numpy as np

from tests.mesh_readers import z_up


def read_textured(path: Path) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Names of a GLB's meshes, corners [F, 3, 3] z up, texture places [F, 3, 2] with v up, and the image [H, W, 3]."""
    import trimesh

    scene = trimesh.load_scene(path, process=False)
    meshes = list(scene.geometry.values())
    image = np.asarray(meshes[0].visual.material.baseColorTexture.convert("RGB"))
    corners = np.concatenate([z_up(m.vertices)[m.faces] for m in meshes])
    return list(scene.geometry), corners, np.concatenate([m.visual.uv[m.faces] for m in meshes]), image


def read_splats(path: Path) -> dict[str, np.ndarray]:
    """The columns of a splat file by their names, as any reader of PLY gives them."""
    header, content = path.read_bytes().split(b"end_header\n", 1)
    names = [line.split()[2].decode() for line in header.splitlines() if line.startswith(b"property float ")]
    columns = np.frombuffer(content, "<f4").reshape(-1, len(names)).astype(np.float64)
    return dict(zip(names, columns.T))


def to_camera(points: np.ndarray, pose: np.ndarray, tan: float, edge: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [..., 2] (column, row; 0 is the first pixel's corner) and depths [...] of world points [..., 3]."""
    local = (points - pose[:3, 3]) @ pose[:3, :3]
    depth = -local[..., 2]
    x, y = local[..., 0] / depth / tan, local[..., 1] / depth / tan
    return np.stack([(x + 1) / 2 * edge, (1 - y) / 2 * edge], -1), depth


def draw_triangles(
    corners: np.ndarray, uv: np.ndarray, image: np.ndarray, pose: np.ndarray, tan: float, behind: np.ndarray
) -> np.ndarray:
    """A textured mesh, unlit, nearest texel, over ``behind`` [R, R, 3]."""
    edge = len(behind)
    places, depths = to_camera(corners, pose, tan, edge)
    out, nearest = behind.astype(np.float64).copy(), np.full((edge, edge), np.inf)
    for place, depth, at in zip(places, depths, uv):
        low, high = np.ceil(place.min(0) - 0.5).astype(int), np.floor(place.max(0) - 0.5).astype(int)
        low, high = low.clip(0), high.clip(max=edge - 1)
        if (low > high).any():
            continue
        (a, b, c), pixels = place, np.stack(np.meshgrid(*(np.arange(s, e + 1) for s, e in zip(low, high))), -1) + 0.5
        frame = np.stack([b - a, c - a], 1)
        if abs(np.linalg.det(frame)) < 1e-12:
            continue
        share = (pixels - a) @ np.linalg.inv(frame).T
        weights = np.concatenate([1 - share.sum(-1, keepdims=True), share], -1)
        inside = (weights >= 0).all(-1)
        weights = weights[inside] / depth  # straight in the world, not in the picture
        t = 1 / weights.sum(-1)
        column, row = (pixels[inside] - 0.5).astype(int).T
        nearer = t < nearest[row, column]
        row, column, weights = row[nearer], column[nearer], (weights * t[:, None])[nearer]
        nearest[row, column] = t[nearer]
        u, v = (weights @ at).T
        out[row, column] = image[((1 - v) * len(image)).astype(int), (u * len(image)).astype(int)]
    return out


def draw_splats(splats: dict[str, np.ndarray], pose: np.ndarray, tan: float, behind: np.ndarray) -> np.ndarray:
    """Gaussian splats as their paper draws them, front to back, over ``behind`` [R, R, 3] in 0..255."""
    edge = len(behind)
    columns = [splats[k] for k in ("x", "y", "z")]
    places, depth = to_camera(np.stack(columns, 1), pose, tan, edge)
    scales = np.exp(np.stack([splats[f"scale_{k}"] for k in range(3)], 1))
    turns = _rotations(np.stack([splats[f"rot_{k}"] for k in range(4)], 1))
    spread = pose[:3, :3].T @ turns * scales[:, None]  # [N, 3, 3] in the camera's axes
    local = (np.stack(columns, 1) - pose[:3, 3]) @ pose[:3, :3]
    focal = edge / 2 / tan
    slope = np.zeros((len(depth), 2, 3))
    slope[:, 0, 0], slope[:, 1, 1] = focal / depth, -focal / depth
    slope[:, 0, 2], slope[:, 1, 2] = focal * local[:, 0] / depth**2, -focal * local[:, 1] / depth**2
    flat = slope @ spread
    covariance = flat @ flat.transpose(0, 2, 1) + 0.3 * np.eye(2)
    opacity = 1 / (1 + np.exp(-splats["opacity"]))
    colours = 255 * (0.5 + np.stack([splats[f"f_dc_{k}"] for k in range(3)], 1) / (2 * math.sqrt(math.pi)))
    out, light = np.zeros((edge, edge, 3)), np.ones((edge, edge))
    for i in np.argsort(depth):
        reach = 3 * np.sqrt(covariance[i].diagonal())
        low, high = (
            np.floor(places[i] - reach).astype(int).clip(0),
            np.ceil(places[i] + reach).astype(int).clip(max=edge),
        )
        if (low >= high).any():
            continue
        offset = np.stack(np.meshgrid(*(np.arange(s, e) for s, e in zip(low, high))), -1) + 0.5 - places[i]
        power = np.einsum("yxi,ij,yxj->yx", offset, np.linalg.inv(covariance[i]), offset)
        alpha = np.minimum(opacity[i] * np.exp(-power / 2), 0.99)
        window = np.s_[low[1] : high[1], low[0] : high[0]]
        out[window] += (light[window] * alpha)[..., None] * colours[i]
        light[window] *= 1 - alpha
    return out + light[..., None] * behind


def _rotations(q: np.ndarray) -> np.ndarray:
    """Matrices [N, 3, 3] of quaternions (w, x, y, z)."""
    w, x, y, z = q.T
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]  # fmt: skip
    return np.stack(rows, 1).reshape(-1, 3, 3)


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    """Of pictures in 0..255."""
    return 10 * math.log10(255**2 / float(np.square(a.clip(0, 255) - b.clip(0, 255)).mean()))
