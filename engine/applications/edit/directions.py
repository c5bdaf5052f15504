"""Directions in the space of styles along which pictures change, found without labels.

Closed form ("factor"): a style w acts only through the affine layers s = A w + b; the unit directions d along which the
styles s of the chosen layers move most are the eigenvectors of A^T A (Shen and Zhou, Closed-Form Factorization of
Latent Semantics in GANs, CVPR 2021, arXiv 2007.06600, eq. 5). "pca": the directions along which the styles of random
latents spread most (Haerkoenen et al., GANSpace, NeurIPS 2020, arXiv 2004.02546, sec. 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ....models.field import StyledField
from ....models.layers import FullyConnected
from ....models.upsampler import SynthesisBlock
from ...errors import UserError, short
from ...model_io import Model
from ..render.choices import METHODS, Method
from ..render.label_argument import Label
from ..render.latent_space import fixed_signs, latent_space
from ..render.subjects import Subjects, read_arrays, save_arrays


@dataclass(frozen=True)
class Directions:
    """N directions, the strongest first.

    Attributes:
        vectors: [N, D] float32, orthonormal rows in w.
        stds: [N] standard deviation of the styles of random latents along each: the unit of a strength.
        values: [N] eigenvalues: mean square of the styles' change per unit of w ("factor"), or variances ("pca").
        rows: the rows of ws that they were found for and move.
        method: "factor" or "pca".
    """

    vectors: Tensor
    stds: Tensor
    values: Tensor
    rows: tuple[int, ...]
    method: Method

    def __len__(self) -> int:
        return len(self.vectors)

    def apply(self, subjects: Subjects, strengths: Tensor) -> Subjects:
        """ws[rows] + sum_i strengths_i stds_i vectors_i.

        Args:
            strengths: [S, N], of each subject, in standard deviations.
        """
        if strengths.shape != (len(subjects), len(self)):
            raise ValueError(f"strengths must be [{len(subjects)}, {len(self)}], got {list(strengths.shape)}")
        ws = subjects.ws.clone()
        shift = (strengths.to(ws) * self.stds.to(ws)) @ self.vectors.to(ws)  # [S, D]
        ws[:, list(self.rows)] += shift[:, None]
        return Subjects(ws, subjects.z_bg)

    def save(self, path: str | Path) -> None:
        """Write them as a ``.npz`` of plain arrays; whole, or not at all."""
        arrays = {n: getattr(self, n).cpu().numpy().astype(np.float32) for n in ("vectors", "stds", "values")}
        save_arrays(path, {**arrays, "rows": np.array(self.rows, np.int64), "method": np.array(self.method)})


@torch.no_grad()
def find_directions(
    model: Model, method: Method = "factor", rows: Sequence[int] | None = None, *, label: Label | None = None
) -> Directions:
    """All w_dim directions of a model, on its device.

    Args:
        rows: of ws, that take part and are moved; None is all.
        label: of a conditional model, for the spread of its styles; None is every class, or the prior's cameras.
    Raises: UserError naming the argument.
    """
    total = model.generator.synthesis.num_ws
    chosen = tuple(range(total)) if rows is None else tuple(sorted(set(rows)))
    if not chosen or chosen[0] < 0 or chosen[-1] >= total:
        raise UserError(f"--layers: wanted some of rows 0 to {total - 1}, got {list(chosen)[:4]}")
    space = latent_space(model, label=label)
    if method == "pca":
        return Directions(space.axes.t().contiguous(), space.stds, space.stds.square(), chosen, method)
    if method != "factor":
        raise UserError(f"--method: wanted one of {', '.join(METHODS)}, got {method!r}")
    weights = torch.cat([torch.nn.functional.normalize(a.weight.cpu().double(), dim=1)
                         for row in chosen for a in style_layers(model)[row]])  # [channels, D]  # fmt: skip
    values, vectors = torch.linalg.eigh(weights.t() @ weights / len(weights))
    vectors = fixed_signs(vectors.flip(-1)).t()  # [N, D]
    spread = (space.axes * space.stds).cpu().double()  # its rows' products are the covariance of w
    stds = (vectors @ spread).square().sum(dim=1).sqrt()
    values = values.flip(-1).clamp(min=0)
    vectors, stds, values = (t.float().contiguous().to(space.mean.device) for t in (vectors, stds, values))
    return Directions(vectors, stds, values, chosen, method)


def style_layers(model: Model) -> list[list[FullyConnected]]:
    """The affine layers that read each row of ws."""
    synthesis = model.generator.synthesis
    layers: list[list[FullyConnected]] = [[] for _ in range(synthesis.num_ws)]
    for field in (synthesis.volume.foreground, synthesis.volume.background):
        if isinstance(field, StyledField):
            for i, layer in enumerate([*field.layers, field.density, field.feature]):
                layers[i].append(cast(FullyConnected, layer.affine))
    for i, block in enumerate(cast(list[SynthesisBlock], list(synthesis.upsampler.blocks.values()))):
        first = synthesis.volume.num_ws + 2 * i
        for j, part in enumerate((block.conv0, block.conv1, block.torgb)):
            if part is not None:
                layers[first + j].append(part.affine)
    return layers


def load_directions(path: str | Path, model: Model) -> Directions:
    """Read what :meth:`Directions.save` wrote, for this model; nothing in the file is executed.

    Raises: UserError naming the path: not readable, other arrays, of another model's shape, not finite.
    """
    path, total, width = Path(path), model.generator.synthesis.num_ws, model.config.w_dim
    arrays = read_arrays(path, "directions")
    missing = [n for n in ("vectors", "stds", "values", "rows", "method") if n not in arrays]
    if missing:
        raise UserError(f"{path}: wanted a .npz of directions, got none of {', '.join(missing)} in it")
    count = len(arrays["vectors"]) if arrays["vectors"].ndim else 0
    for name, shape in (("vectors", (count, width)), ("stds", (count,)), ("values", (count,))):
        value = arrays[name]
        if value.dtype.kind != "f" or value.shape != shape or count == 0:
            wanted = ", ".join(["N", *map(str, shape[1:])])
            raise UserError(
                f"{path}: wanted {name} [{wanted}] of floating point, got {list(value.shape)} {value.dtype}"
            )
        if not np.isfinite(value).all():
            raise UserError(f"{path}: wanted finite numbers in {name}, got some that are not")
    rows, method = arrays["rows"], str(arrays["method"])
    if rows.dtype.kind != "i" or rows.ndim != 1 or not len(rows) or rows.min() < 0 or rows.max() >= total:
        raise UserError(f"{path}: wanted rows of 0 to {total - 1}, got {rows.flatten().tolist()[:8]}")
    if method not in METHODS:
        raise UserError(f"{path}: wanted a method of {', '.join(METHODS)}, got {short(method)}")
    device = next(model.generator.parameters()).device
    vectors, stds, values = (torch.from_numpy(arrays[n].astype(np.float32)).to(device)
                             for n in ("vectors", "stds", "values"))  # fmt: skip
    return Directions(vectors, stds, values, tuple(sorted({int(r) for r in rows})), method)
