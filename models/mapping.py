"""Mapping network: latent z (and a label) to the style w, its running average and truncation (StyleGAN2)."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from .layers import FullyConnected, normalize_second_moment
from .precision import in_float32


class MappingNetwork(nn.Module):
    """w = MLP(normalise(z), normalise(embed(label))), repeated for ``num_ws`` rows.

    Args:
        z_dim: width of z; 0 if the network maps labels only.
        label_dim: width of the label; 0 for none.
        w_dim: width of w and of the hidden layers.
        num_ws: rows of the result; None returns one row without the row dim.
        num_layers: fully connected layers, leaky ReLU, learning-rate multiplier 0.01.
        w_avg_decay: of the running average of w; None keeps none.
    """

    w_avg: Tensor

    def __init__(
        self,
        z_dim: int,
        label_dim: int,
        w_dim: int,
        num_ws: int | None,
        *,
        num_layers: int = 8,
        w_avg_decay: float | None = 0.995,
    ) -> None:
        super().__init__()
        self.z_dim, self.label_dim, self.w_dim, self.num_ws = z_dim, label_dim, w_dim, num_ws
        self.w_avg_decay = w_avg_decay if num_ws is not None else None
        if label_dim > 0:
            self.embed = FullyConnected(label_dim, w_dim)
        widths = [z_dim + (w_dim if label_dim > 0 else 0)] + [w_dim] * num_layers
        self.layers = nn.ModuleList(
            FullyConnected(a, b, activation="lrelu", lr_multiplier=0.01) for a, b in pairwise(widths)
        )
        if self.w_avg_decay is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim, dtype=torch.float32))

    @in_float32
    def forward(
        self,
        z: Tensor | None,
        label: Tensor | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        update_average: bool = True,
    ) -> Tensor:
        """Map latents to styles.

        Args:
            z: [B, z_dim] float32, or None where z_dim is 0.
            label: [B, label_dim], required where label_dim > 0.
            truncation_psi: w <- w_avg + psi (w - w_avg); 1 leaves w alone.
            truncation_cutoff: truncate only the first rows.
            update_average: update w_avg in training mode (the second call of style mixing does not).
        Returns: ws [B, num_ws, w_dim], or [B, w_dim] where num_ws is None.
        Raises: ValueError on shapes.
        """
        x = self._input(z, label)
        for layer in self.layers:
            x = layer(x)
        if self.training and update_average and self.w_avg_decay is not None:
            with torch.no_grad():
                self.w_avg.lerp_(x.detach().mean(dim=0).to(self.w_avg.dtype), 1 - self.w_avg_decay)
        if self.num_ws is None:
            return x
        ws = x[:, None].expand(-1, self.num_ws, -1)
        if truncation_psi == 1:
            return ws
        if self.w_avg_decay is None:
            raise ValueError("truncation_psi must be 1 for a mapping network without an average")
        cut = self.num_ws if truncation_cutoff is None else truncation_cutoff
        return torch.cat([torch.lerp(self.w_avg.to(ws.dtype), ws[:, :cut], truncation_psi), ws[:, cut:]], dim=1)

    def _input(self, z: Tensor | None, label: Tensor | None) -> Tensor:
        parts = []
        for name, value, width in (("z", z, self.z_dim), ("label", label, self.label_dim)):
            if width == 0:
                continue
            if value is None or value.ndim != 2 or value.shape[1] != width:
                got = None if value is None else list(value.shape)
                raise ValueError(f"{name} must be [B, {width}], got {got}")
            value = self.embed(value.to(torch.float32)) if name == "label" else value.to(torch.float32)
            parts.append(normalize_second_moment(value))
        if not parts:
            raise ValueError("a mapping network needs z_dim > 0 or label_dim > 0")
        return torch.cat(parts, dim=1)
