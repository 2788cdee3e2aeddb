"""A picture to a tensor, with Pillow and numpy, by the manifest: what the gateway feeds, made a second way.

Pillow's resizers are the ones that the gateway reproduces bit for bit, so calibration data made here is what a version
will see when it serves.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lensgate_export.failures import Failure
from lensgate_export.manifest import Preprocessing

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def opened(path: Path) -> Image.Image:
    """The decoded picture, upright, as RGB of 8 bits; alpha is dropped."""
    try:
        with Image.open(path) as file:
            file.load()
            picture = ImageOps.exif_transpose(file)
    except FileNotFoundError as error:
        raise Failure(f"the picture {path} is not there") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Failure(f"the picture {path} cannot be read: {error}") from error
    if picture.mode.startswith("I"):
        # 16-bit gray: Pillow's own conversion would clip instead of scaling.
        grey = np.rint(np.asarray(picture, np.float64) / 257).clip(0, 255).astype(np.uint8)
        picture = Image.fromarray(grey)
    return picture.convert("RGB")


def tensor(path: Path, p: Preprocessing) -> np.ndarray:
    """The picture as [1, C, H, W] or [1, H, W, C], by `p.layout`, of type `p.element`."""
    pixels = _pixels(opened(path), p)
    # Step by step in 32 bits, as frameworks and the gateway compute it, and divided where the scale is 1/255. The last
    # bit matters: behind the first rounding of an int8 graph, pixels that fall on a half go up or down by it.
    levels = np.arange(256, dtype=np.float32)[:, None]
    scaled = levels / np.float32(255) if abs(p.scale * 255 - 1) < 1e-6 else levels * np.float32(p.scale)
    table = (scaled - np.asarray(p.mean, np.float32)) / np.asarray(p.std, np.float32)
    if p.element.kind in "iu":
        limits = np.iinfo(p.element)
        table = np.rint(table).clip(limits.min, limits.max)
    table = table.astype(p.element)
    channels = [table[pixels[..., c], c] for c in range(pixels.shape[-1])]
    return np.stack(channels, axis=0 if p.layout == "NCHW" else -1)[None]


def _pixels(picture: Image.Image, p: Preprocessing) -> np.ndarray:
    """The 8-bit pixels [H, W, C] that reach the tensor, in its channel order."""
    if p.color == "gray":
        picture = picture.convert("L")
    width, height = _resized(picture.size, p)
    canvas = (p.resize_to[1], p.resize_to[0]) if p.resize == "letterbox" else (width, height)
    out = np.zeros((p.height, p.width, 1 if p.color == "gray" else 3), np.uint8)
    if width == 0 or height == 0:
        return out
    resized = np.asarray(picture.resize((width, height), _FILTERS[p.filter]))
    resized = resized.reshape(height, width, -1)
    down = _placed(height, p.height, canvas[1])
    across = _placed(width, p.width, canvas[0])
    kept = resized[down[0] : down[0] + down[2], across[0] : across[0] + across[2]]
    out[down[1] : down[1] + down[2], across[1] : across[1] + across[2]] = kept
    return out[..., ::-1] if p.color == "bgr" else out


def _resized(size: tuple[int, int], p: Preprocessing) -> tuple[int, int]:
    """(width, height) after the resize of a picture of `size` (width, height)."""
    width, height = size
    if p.resize == "stretch":
        return p.resize_to[1], p.resize_to[0]
    if p.resize == "letterbox":
        return _contained(size, (p.resize_to[1], p.resize_to[0]))
    to = p.resize_to[0]
    other = to * max(size) // min(size)
    return (to, other) if width <= height else (other, to)


def _contained(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    """As `ImageOps.contain`: as large as fits into `box`."""
    ratio, wanted = size[0] / size[1], box[0] / box[1]
    if ratio == wanted:
        return box
    if ratio > wanted:
        return box[0], round(size[1] / size[0] * box[0])
    return round(size[0] / size[1] * box[1]), box[1]


def _placed(resized: int, output: int, canvas: int) -> tuple[int, int, int]:
    """First pixel that is kept, where it goes, and how many: centred on `canvas`, then cut or padded to `output`."""
    inside = round((canvas - resized) / 2)
    room = output - canvas
    at = inside + (room // 2 if room >= 0 else -round(-room / 2))
    start, to = max(-at, 0), max(at, 0)
    return start, to, max(min(resized - start, output - to), 0)
