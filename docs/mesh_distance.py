"""The table of Chamfer distances in using.md: python docs/mesh_distance.py runs/quickstart"""

import dataclasses
import sys
from collections.abc import Callable

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from stylenerf.engine.applications.mesh.isosurface import Mesh, isosurface, volume
from stylenerf.engine.applications.mesh.mesh import MeshOptions, extract_mesh
from stylenerf.engine.applications.render.subjects import subjects_from_seeds
from stylenerf.engine.data import ProceduralScenes
from stylenerf.engine.data.solids import CAPSULE_HALF_LENGTH, Solid
from stylenerf.engine.model_io import load_model
from stylenerf.models.generator import Generator

LOW, HIGH = (-0.3, -0.3, -0.3), (0.3, 0.3, 0.3)
SCENES, SUBJECTS, POINTS, CELLS = 200, 8, 2000, 48


def inside(solid: Solid, points: Tensor) -> Tensor:
    """Positive inside a solid, zero on its surface; points [N, 3]."""
    q = solid.to_unit(points.double().numpy().T)
    if solid.kind == "box":
        value = 1 - np.abs(q).max(0)
    elif solid.kind == "cylinder":
        value = 1 - np.maximum(np.hypot(q[0], q[1]), np.abs(q[2]))
    else:
        half = CAPSULE_HALF_LENGTH if solid.kind == "capsule" else 0.0
        q[2] -= np.clip(q[2], -half, half)
        value = 1 - np.linalg.norm(q, axis=0)
    return torch.from_numpy(value)


def on_surface(mesh: Mesh, rng: np.random.Generator) -> np.ndarray:
    """Points [POINTS, 3], uniform over the area."""
    corners = mesh.vertices[mesh.faces].astype(float)
    one, other = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = np.linalg.norm(np.cross(one, other), axis=1)
    face = rng.choice(len(area), POINTS, p=area / area.sum())
    u = rng.random((2, POINTS, 1))
    u = np.where(u.sum(0) > 1, 1 - u, u)
    return corners[face, 0] + u[0] * one[face] + u[1] * other[face]


def chamfer(a: np.ndarray, b: np.ndarray) -> float:
    return float(cKDTree(a).query(b)[0].mean() + cKDTree(b).query(a)[0].mean())


def main(path: str) -> None:
    model, rng = load_model(path), np.random.default_rng(0)
    data = ProceduralScenes(resolution=64, camera_prior=model.prior, num_scenes=SCENES, seed=0)

    def scene(k: int) -> Callable[[Tensor], Tensor]:
        solids = [solid for solid, _ in data.scene(k).solids]
        return lambda points: torch.stack([inside(s, points) for s in solids]).amax(0)

    scenes = [on_surface(isosurface(scene(k), LOW, HIGH, level=0, resolution=CELLS), rng) for k in range(SCENES)]

    def occupied(points: Tensor) -> Tensor:
        return torch.stack([(scene(k)(points) > 0).float() for k in range(SCENES)]).mean(0)

    mean = isosurface(occupied, LOW, HIGH, level=0.5, resolution=CELLS)
    centre = on_surface(mean, rng)
    nearest = [min(chamfer(scenes[i], scenes[j]) for j in range(SCENES) if j != i) for i in range(SUBJECTS)]
    to_mean = [chamfer(points, centre) for points in scenes]
    print(f"data:      nearest {np.median(nearest):.3f}, mean solid {np.median(to_mean):.3f} of {volume(mean):.4f}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = dataclasses.replace(model, generator=Generator(model.config).eval().requires_grad_(False))
    options = MeshOptions(64, largest=True, colours=False)
    for name, each in (("untrained", fresh), ("trained", model)):
        meshes = [extract_mesh(each, subjects_from_seeds(each, [k]), options)[0] for k in range(SUBJECTS)]
        points = [on_surface(m, rng) for m in meshes]
        nearest = [min(chamfer(p, other) for other in scenes) for p in points]
        to_mean, sizes = [chamfer(p, centre) for p in points], [volume(m) for m in meshes]
        print(f"{name + ':':10s} nearest {np.median(nearest):.3f}, mean solid {np.median(to_mean):.3f}, "
              f"volume {np.median(sizes):.4f}")  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
