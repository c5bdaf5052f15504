"""Volume rendering under the names of EG3D, of nerfacc and of the original NeRF's PyTorch port."""

from .eg3d import (
    MipRayMarcher2,
    decode_planes,
    generate_planes,
    march_rays,
    project_onto_planes,
    sample_from_planes,
    sample_importance,
)
from .nerf_pytorch import raw2outputs, sample_pdf
from .nerfacc import accumulate_along_rays, render_transmittance_from_density, render_weight_from_density

__all__ = [
    "MipRayMarcher2",
    "accumulate_along_rays",
    "decode_planes",
    "generate_planes",
    "march_rays",
    "project_onto_planes",
    "raw2outputs",
    "render_transmittance_from_density",
    "render_weight_from_density",
    "sample_from_planes",
    "sample_importance",
    "sample_pdf",
]
