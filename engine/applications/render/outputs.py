"""Output files of a view: pictures of colour, depth, normals and opacity, raw depth, and moving pictures.

Every file is written under a temporary name and renamed: whole, or not at all.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, features
from torch import Tensor

from ....kernels.base.checks import check_shapes
from ....models.camera import Camera, pixel_grid
from ...errors import UserError, one_line
from ...files import write_whole
from ...pictures import depth_picture, to_uint8
from .choices import ANIMATIONS

_LITTLE = 0.05  # opacity below which a ray's depth tells nothing


def surface_depth(depth: Tensor, opacity: Tensor, far: float) -> Tensor:
    """Depth of what is seen, where something is: (depth - (1 - opacity) far) / opacity.

    A view's depth counts the light that passes the volume as coming from ``far``; on silhouettes, where half of it
    passes, that lies between the object and the far end, where nothing is.

    Args:
        depth, opacity: [B, r, r] of a view.
    Returns: [B, r, r]; ``far`` where the opacity is below 0.05.
    """
    check_shapes(depth=(depth, "B H W"), opacity=(opacity, "B H W"))
    seen = (depth - (1 - opacity) * far) / opacity.clamp(min=_LITTLE)
    return torch.where(opacity >= _LITTLE, seen, far)


def camera_normals(depth: Tensor, camera: Camera, pixels: Tensor | None = None) -> Tensor:
    """Unit normals of a depth map in camera space (x right, y up, z towards the camera).

    A pixel's point is t (x tan(fov/2), y tan(fov/2), -1). The normal is the cross product of its differences to the
    right and upwards, each a mean of the differences to both neighbours, weighted by the other's step in depth: a plane
    is exact, and across a silhouette the side without the jump decides.

    Args:
        depth: [B, r, r] along the optical axis, finite, r at least 2.
        camera: B cameras.
        pixels: [r * r, 2] positions of the pixels (``camera.pixel_grid``); None is their centres.
    Returns: [B, 3, r, r].
    Raises: ValueError on shape.
    """
    check_shapes(depth=(depth, "B H H"))
    size = depth.shape[-1]
    if len(camera) != len(depth) or size < 2:
        raise ValueError(f"depth must be [B, r, r] with B={len(camera)} and r >= 2, got {list(depth.shape)}")
    if pixels is None:
        pixels = pixel_grid(size, device=depth.device, dtype=depth.dtype)
    aside = pixels.to(depth) * camera.tan_half_fov.to(depth)[:, None]  # [B, r * r, 2]
    x, y = aside.unflatten(1, (size, size)).unbind(-1)
    points = torch.stack([x * depth, y * depth, -depth], dim=1)
    right, down = _slope(points, dim=3), _slope(points, dim=2)
    return torch.nn.functional.normalize(torch.linalg.cross(right, -down, dim=1), dim=1)


def _slope(points: Tensor, dim: int) -> Tensor:
    """Differences along ``dim`` [B, 3, r, r]: of both neighbours, more of the one with the smaller step in depth."""
    step = points.diff(dim=dim)
    size = step.shape[dim]
    first, last = step.narrow(dim, 0, 1), step.narrow(dim, size - 1, 1)
    before, after = torch.cat([first, step], dim=dim), torch.cat([step, last], dim=dim)
    jump_before, jump_after = before[:, 2:].abs() + 1e-12, after[:, 2:].abs() + 1e-12
    return (before * jump_after + after * jump_before) / (jump_before + jump_after)


def depth_image(depth: Tensor, opacity: Tensor, ends: tuple[float, float], far: float) -> Tensor:
    """Surface depth in colour [B, 3, r, r] uint8, ``ends[0]`` warm, fading to black where one sees through."""
    return depth_picture(surface_depth(depth, opacity, far), *ends, opacity)


def depth_ends(depth: Tensor, opacity: Tensor, far: float) -> tuple[float, float] | None:
    """Depths between which nearly all of what is seen lies: the first and the last hundredth, and a little more.

    Args:
        depth, opacity: [B, r, r] of views, which count together.
    Returns: near and far ends for colours; None where next to nothing is seen, or all at one depth.
    """
    seen = surface_depth(depth, opacity, far)[opacity >= 0.5]
    seen = seen[seen.isfinite()].double().sort().values
    if len(seen) < 16:
        return None
    first, last = (float(seen[round(part * (len(seen) - 1))]) for part in (0.01, 0.99))
    more = 0.05 * (last - first)
    return (first - more, last + more) if more > 1e-6 else None


def normals_image(depth: Tensor, opacity: Tensor, camera: Camera, far: float, pixels: Tensor | None = None) -> Tensor:
    """Normals as colours, red right, green up, blue towards the camera; grey where one sees through.

    Returns: [B, 3, r, r] in -1..1.
    """
    return camera_normals(surface_depth(depth, opacity, far), camera, pixels) * opacity[:, None].clamp(0, 1)


def opacity_image(opacity: Tensor) -> Tensor:
    """[B, 1, r, r] in -1..1: black where one sees through, white where one does not."""
    return opacity[:, None].clamp(0, 1) * 2 - 1


def enlarged(images: Tensor, edge: int) -> Tensor:
    """Images [B, C, r, r] at ``edge`` px a side by repeating pixels; larger ones as they are."""
    if images.shape[-1] >= edge:
        return images
    return torch.nn.functional.interpolate(images.float(), size=(edge, edge), mode="nearest-exact").to(images.dtype)


def cutout(images: Tensor, opacity: Tensor, behind: Tensor | None = None) -> Tensor:
    """The object without what is behind it: colours and, as a fourth channel, its opacity.

    colour = (image - (1 - opacity) behind) / opacity, exact where every pixel is a ray of its own (then image = opacity
    colour + (1 - opacity) behind), and close to it where the upsampler mixes neighbours.

    Args:
        images: [B, 3, R, R] of everything.  opacity: [B, r, r] of its rays.  behind: [B, 3, R, R] background alone.
    Returns: [B, 4, R, R] in -1..1.
    """
    edge = images.shape[-2:]
    alpha = torch.nn.functional.interpolate(opacity[:, None].float(), size=edge, mode="bilinear").clamp(0, 1)
    colour = images
    if behind is not None:
        colour = (images - (1 - alpha) * behind) / alpha.clamp(min=_LITTLE)
    return torch.cat([colour.clamp(-1, 1), alpha * 2 - 1], dim=1)


def on_white(picture: Image.Image) -> Image.Image:
    """RGB of a picture, white where it is transparent."""
    if picture.mode != "RGBA":
        return picture.convert("RGB")
    sheet = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return Image.alpha_composite(sheet, picture).convert("RGB")


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one height in a row."""
    if len(pictures) == 1:
        return pictures[0]
    sheet = Image.new("RGB", (sum(p.width for p in pictures), max(p.height for p in pictures)), (255, 255, 255))
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width
    return sheet


def resized(picture: Image.Image, times: int) -> Image.Image:
    """A picture ``times`` as large, smoothly."""
    if times == 1:
        return picture
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.LANCZOS)


def to_pillow(images: Tensor) -> list[Image.Image]:
    """[B, C, H, W], uint8 or -1..1, of 1 (grey), 3 or 4 (with opacity) channels, as pictures in RGB or RGBA."""
    data = images if images.dtype == torch.uint8 else to_uint8(images)
    data = data.expand(-1, 3, -1, -1) if data.shape[1] == 1 else data
    return [Image.fromarray(row.numpy()) for row in data.permute(0, 2, 3, 1).contiguous().cpu()]


def save_depth_16bit(depth: Tensor, path: Path, near: float, far: float) -> None:
    """Depth [r, r] as a grey 16-bit PNG: value = 65535 (depth - near) / (far - near), rounded."""
    value = ((depth.double() - near) / (far - near)).clamp(0, 1).mul(65535).round().cpu().numpy().astype(np.uint16)
    write_whole(path, lambda part: Image.fromarray(value).save(part, format="PNG"))


def save_array(value: Tensor, path: Path) -> None:
    """float32 as ``.npy``."""

    def write(part: Path) -> None:
        with open(part, "wb") as file:  # np.save would add an ending of its own
            np.save(file, value.float().cpu().numpy(), allow_pickle=False)

    write_whole(path, write)


def save_text(text: str, path: Path, *, new: bool = False) -> None:
    """Text in UTF-8."""
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"), new=new)


def save_bytes(content: bytes, path: Path, *, new: bool = False) -> None:
    """Bytes as they are."""
    write_whole(path, lambda part: part.write_bytes(content), new=new)


def check_animations(formats: Iterable[str]) -> None:
    """Raises: UserError for a format that this installation cannot write, naming what to install."""
    for name in formats:
        if name == "webp" and not features.check("webp"):
            raise UserError("--format: wanted gif or mp4 (this pillow was built without WebP), got webp")
        if name == "mp4":
            _imageio()


def save_animation(frames: Iterable[Image.Image], path: Path, *, fps: float, loop: bool = True) -> None:
    """Write a moving picture, its kind by the ending: ``.gif``, ``.webp`` or ``.mp4``.

    GIF and WebP repeat for ever with ``loop``, else play once. GIF counts in hundredths of a second: its rate is the
    nearest that this allows, at most 50 frames a second. MP4 is H.264; an odd edge gets a copy of its last row.
    Raises: UserError naming ``path`` if it cannot be written, or what to install.
    """
    kind, rest = path.suffix[1:].lower(), iter(frames)
    if kind not in ANIMATIONS:
        raise UserError(f"{path}: wanted a name ending in {', '.join(ANIMATIONS)}, got {path.suffix!r}")
    if kind == "mp4":
        write_whole(path, lambda part: _write_mp4(rest, part, fps))
        return
    try:
        first = next(rest)
    except StopIteration:
        raise ValueError("frames must hold at least one picture, got none") from None
    again: dict[str, Any] = {"loop": 0} if loop else ({} if kind == "gif" else {"loop": 1})
    if kind == "gif":
        pictures, milliseconds = _palettes(rest), max(round(100 / fps), 2) * 10
        write_whole(
            path,
            lambda part: _palette(first).save(
                part, format="GIF", save_all=True, append_images=pictures, duration=milliseconds, disposal=1, **again
            ),
        )
    else:
        milliseconds = max(round(1000 / fps), 1)
        write_whole(
            path,
            lambda part: first.save(
                part, format="WEBP", save_all=True, append_images=rest, duration=milliseconds, quality=90, **again
            ),
        )


def _palette(picture: Image.Image) -> Image.Image:
    """256 colours of the picture's own, with dither: smooth shading shows no steps."""
    return picture.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG)


def _palettes(pictures: Iterable[Image.Image]) -> Iterator[Image.Image]:
    return (_palette(p) for p in pictures)


def _imageio() -> Any:
    try:
        importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
        return importlib.import_module("imageio.v2")
    except (ImportError, RuntimeError) as error:
        raise UserError("--format: mp4 wants imageio with ffmpeg: pip install 'stylenerf-engine[video]', "
                        f"got: {one_line(error)[:120]}") from None  # fmt: skip


def _write_mp4(frames: Iterable[Image.Image], part: Path, fps: float) -> None:
    writer = _imageio().get_writer(
        part,
        format="FFMPEG",
        mode="I",
        fps=fps,
        codec="libx264",
        quality=8,
        macro_block_size=2,
        ffmpeg_log_level="error",
    )
    with contextlib.closing(writer):
        for frame in frames:
            pixels = np.asarray(frame.convert("RGB"))
            odd = [(0, n % 2) for n in pixels.shape[:2]]
            writer.append_data(np.pad(pixels, [*odd, (0, 0)], mode="edge"))  # 4:2:0 colour wants even edges
