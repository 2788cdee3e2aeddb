"""Makes the small pictures of this folder and writes what Pillow makes of them.

    pip install -r requirements.txt
    python make_reference.py                 # the pictures and reference.json
    python make_reference.py FIXTURES        # fixtures.json, for the folder with images/ and nasty/

The tests `vision_pixels` and `vision_fixtures` compute the same checksums in Rust. The pictures are
drawn by arithmetic from fixed seeds; a JPEG may differ in its bytes with another libjpeg, so both
the pictures and the checksums are committed.
"""

import hashlib
import io
import json
import struct
import sys
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

HERE = Path(__file__).parent
FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
warnings.filterwarnings("ignore")


def spec(kind, a, b, height, width, filter="bilinear", color="rgb"):
    return {
        "kind": kind, "a": a, "b": b, "height": height, "width": width,
        "filter": filter, "color": color,
    }


MODEL_SPECS = {
    "imagenet": spec("shorter-side", 256, 0, 224, 224),
    "mobilenetv1": spec("shorter-side", 146, 0, 128, 128),
    "cifar": spec("shorter-side", 32, 0, 32, 32),
    "mnist": spec("stretch", 28, 28, 28, 28, color="gray"),
}
SPECS = MODEL_SPECS | {
    "shorter_224": spec("shorter-side", 224, 0, 224, 224, "bicubic"),
    "stretch_bicubic": spec("stretch", 40, 70, 40, 70, "bicubic"),
    "stretch_lanczos_bgr": spec("stretch", 33, 20, 33, 20, "lanczos", "bgr"),
    "stretch_nearest": spec("stretch", 50, 17, 50, 17, "nearest"),
    "letterbox": spec("letterbox", 64, 96, 64, 96, "bilinear"),
    "letterbox_gray_crop": spec("letterbox", 90, 90, 81, 100, "bicubic", "gray"),
    "padded_crop": spec("shorter-side", 20, 0, 31, 45, "bilinear", "bgr"),
}


def load(data):
    """What reaches the resize: upright, RGB, 8 bits."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode.startswith("I;16"):
        scaled = np.rint(np.asarray(image).astype(np.float64) / 257)
        image = Image.fromarray(scaled.astype(np.uint8))
    return image.convert("RGB")


def center_crop(pixels, height, width):
    """torchvision.transforms.functional.center_crop."""
    h, w = pixels.shape[:2]
    top, bottom = max(0, (height - h) // 2), max(0, (height - h + 1) // 2)
    left, right = max(0, (width - w) // 2), max(0, (width - w + 1) // 2)
    pixels = np.pad(pixels, ((top, bottom), (left, right), (0, 0)))
    h, w = pixels.shape[:2]
    y, x = int(round((h - height) / 2.0)), int(round((w - width) / 2.0))
    return pixels[y : y + height, x : x + width]


def pixels(image, spec):
    if spec["color"] == "gray":
        image = image.convert("L")
    width, height = image.size
    filter = FILTERS[spec["filter"]]
    a, b = spec["a"], spec["b"]
    if spec["kind"] == "shorter-side":
        short, long = min(width, height), max(width, height)
        other = int(a * long / short)
        image = image.resize((a, other) if width <= height else (other, a), filter)
    elif spec["kind"] == "stretch":
        image = image.resize((b, a), filter)
    else:
        image = ImageOps.pad(image, (b, a), filter, color=0)
    out = np.asarray(image)
    out = out.reshape(out.shape[0], out.shape[1], -1)
    out = center_crop(out, spec["height"], spec["width"])
    return out[:, :, ::-1] if spec["color"] == "bgr" else out


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def describe(data, specs):
    image = load(data)
    return {
        "size": list(image.size),
        "decoded": digest(np.asarray(image)),
        "pixels": {name: digest(pixels(image, spec)) for name, spec in specs.items()},
    }


def scene(width, height, seed=0):
    """Smooth colours, edges and some noise, without any file."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    red = 127 + 120 * np.sin(x / 9 + seed) * np.cos(y / 13)
    green = 255 * ((x // 11 + y // 7) % 2) * 0.6 + 60
    blue = 255 * (x + 2 * y) / max(1, width + 2 * height)
    noise = rng.normal(0, 10, (height, width, 3))
    stacked = np.stack([red, green, blue], axis=-1) + noise
    return Image.fromarray(stacked.clip(0, 255).astype(np.uint8))


def save(image, format, **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def rotated(value):
    exif = Image.Exif()
    exif[274] = value
    return exif


def jpegs():
    yield "jpeg_444.jpg", save(scene(61, 47), "JPEG", quality=90, subsampling=0)
    yield "jpeg_422.jpg", save(scene(61, 47, 1), "JPEG", quality=80, subsampling=1)
    yield "jpeg_420.jpg", save(scene(300, 201, 2), "JPEG", quality=75, subsampling=2)
    yield "jpeg_420_odd.jpg", save(scene(17, 33, 3), "JPEG", quality=50, subsampling=2)
    yield "jpeg_gray.jpg", save(scene(64, 40, 4).convert("L"), "JPEG")
    yield "jpeg_progressive.jpg", save(scene(90, 70, 5), "JPEG", progressive=True)
    yield "jpeg_restarts.jpg", save(scene(90, 70, 6), "JPEG", restart_marker_blocks=3)
    yield "jpeg_cmyk.jpg", save(scene(50, 40, 7).convert("CMYK"), "JPEG")
    yield "jpeg_portrait.jpg", save(scene(120, 420, 8), "JPEG", quality=60)
    yield "jpeg_1x1.jpg", save(scene(1, 1), "JPEG")
    yield "jpeg_trailing_bytes.jpg", save(scene(30, 20), "JPEG") + b"\xff\xd8 not a second picture"
    for value in range(10):
        data = save(scene(40, 25, value), "JPEG", quality=70, exif=rotated(value))
        yield f"jpeg_exif_{value}.jpg", data


def pngs():
    base = scene(52, 35, 20)
    alpha = Image.fromarray(np.arange(52 * 35, dtype=np.uint32).reshape(35, 52).astype(np.uint8))
    rgba = base.copy()
    rgba.putalpha(alpha)
    yield "png_rgb.png", save(base, "PNG")
    yield "png_rgba.png", save(rgba, "PNG")
    yield "png_la.png", save(rgba.convert("LA"), "PNG")
    yield "png_gray_8.png", save(base.convert("L"), "PNG")
    yield "png_gray_1.png", save(base.convert("1"), "PNG")
    for colors in (2, 4, 13, 200):
        yield f"png_palette_{colors}.png", save(base.quantize(colors), "PNG")
    yield "png_palette_trns.png", save(base.quantize(40), "PNG", transparency=3)
    yield "png_exif_6.png", save(base, "PNG", exif=rotated(6))
    rng = np.random.default_rng(21)
    deep = rng.integers(0, 65536, (20, 30), dtype=np.uint16)
    yield "png_gray_16.png", save(Image.fromarray(deep), "PNG")
    yield "png_rgb_16.png", raw_png(30, 20, 16, 2, rng.integers(0, 256, (20, 180)))
    yield "png_rgba_16.png", raw_png(30, 20, 16, 6, rng.integers(0, 256, (20, 240)))
    yield "png_gray_2.png", raw_png(30, 20, 2, 0, rng.integers(0, 256, (20, 8)))
    yield "png_gray_4.png", raw_png(30, 20, 4, 0, rng.integers(0, 256, (20, 15)))
    yield "png_interlaced.png", interlaced_png(23, 19, rng)
    yield "png_300x1.png", save(scene(300, 1, 22), "PNG")
    yield "png_1x300.png", save(scene(1, 300, 23), "PNG")
    yield "png_8000x1.png", save(scene(8000, 1, 24).quantize(16), "PNG")
    yield "png_2x900.png", save(scene(2, 900, 25), "PNG")


def chunk(kind, body):
    import zlib

    crc = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def png_file(width, height, depth, color, interlace, data):
    import zlib

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b"")
    )


def raw_png(width, height, depth, color, rows):
    data = b"".join(b"\0" + bytes(row.astype(np.uint8)) for row in rows)
    return png_file(width, height, depth, color, 0, data)


def interlaced_png(width, height, rng):
    data = b""
    for x0, y0, dx, dy in [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4),
                           (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]:
        columns, rows = -(-(width - x0) // dx), -(-(height - y0) // dy)
        for _ in range(max(0, rows) if columns > 0 else 0):
            data += b"\0" + rng.integers(0, 256, columns * 3).astype(np.uint8).tobytes()
    return png_file(width, height, 8, 2, 1, data)


def moved_frame(data, screen, at):
    """The GIF on a larger screen, its frame moved."""
    data = bytearray(data)
    struct.pack_into("<HH", data, 6, *screen)
    pos = 13 + (6 << (data[10] & 7) if data[10] & 128 else 0)
    while data[pos] == 0x21:
        pos += 2
        while data[pos]:
            pos += 1 + data[pos]
        pos += 1
    struct.pack_into("<HH", data, pos + 1, *at)
    return bytes(data)


def gifs():
    base = scene(45, 31, 30).quantize(50)
    yield "gif.gif", save(base, "GIF", interlace=0)
    yield "gif_interlaced.gif", save(base, "GIF", interlace=1)
    yield "gif_transparent.gif", save(base, "GIF", transparency=2)
    yield "gif_partial.gif", moved_frame(save(base, "GIF"), (60, 50), (7, 9))
    yield "gif_partial_transparent.gif", moved_frame(
        save(base, "GIF", transparency=4), (60, 50), (3, 0))
    yield "gif_beyond_screen.gif", moved_frame(save(base, "GIF"), (20, 20), (5, 6))
    yield "gif_gray.gif", save(scene(30, 30, 31).convert("L"), "GIF")
    frames = [scene(24, 18, n).quantize(16) for n in (32, 33, 34)]
    yield "gif_animated.gif", save(frames[0], "GIF", save_all=True, append_images=frames[1:])


def others():
    base = scene(37, 26, 40)
    rgba = base.copy()
    rgba.putalpha(base.convert("L"))
    yield "bmp_24.bmp", save(base, "BMP")
    yield "bmp_8.bmp", save(base.quantize(30), "BMP")
    yield "bmp_gray.bmp", save(base.convert("L"), "BMP")
    yield "bmp_1.bmp", save(base.convert("1"), "BMP")
    yield "bmp_32.bmp", save(rgba, "BMP")
    yield "bmp_555.bmp", bmp_16(base, top_down=False)
    yield "bmp_565_top_down.bmp", bmp_16(base, top_down=True)
    yield "tiff_rgb.tif", save(base, "TIFF")
    yield "tiff_lzw.tif", save(base, "TIFF", compression="tiff_lzw")
    yield "tiff_deflate_rgba.tif", save(rgba, "TIFF", compression="tiff_adobe_deflate")
    yield "tiff_packbits_gray.tif", save(base.convert("L"), "TIFF", compression="packbits")
    yield "tiff_1.tif", save(base.convert("1"), "TIFF")
    yield "tiff_palette.tif", save(base.quantize(20), "TIFF", compression="tiff_lzw")
    yield "tiff_cmyk.tif", save(base.convert("CMYK"), "TIFF", compression="tiff_lzw")
    deep = np.random.default_rng(41).integers(0, 65536, (15, 22), dtype=np.uint16)
    yield "tiff_gray_16.tif", save(Image.fromarray(deep), "TIFF")
    for value in (3, 6, 8):
        yield f"tiff_orientation_{value}.tif", save(
            base, "TIFF", compression="tiff_lzw", tiffinfo={274: value})
    yield "webp_lossless.webp", save(base, "WEBP", lossless=True)
    yield "webp_lossless_alpha.webp", save(rgba, "WEBP", lossless=True, exact=True)
    yield "webp_exif_5.webp", save(base, "WEBP", lossless=True, exif=rotated(5))
    frames = [scene(24, 18, n) for n in (42, 43)]
    yield "webp_animated.webp", save(
        frames[0], "WEBP", lossless=True, save_all=True, append_images=frames[1:])


def bmp_16(image, top_down):
    pixels = np.asarray(image).astype(np.uint32)
    height, width = pixels.shape[:2]
    green = (6, 5) if top_down else (5, 5)
    value = ((pixels[:, :, 0] >> 3) << (sum(green))) | (
        (pixels[:, :, 1] >> (8 - green[0])) << 5) | (pixels[:, :, 2] >> 3)
    if not top_down:
        value = value[::-1]
    rows = b"".join(r.astype("<u2").tobytes() + b"\0" * (-2 * width % 4) for r in value)
    masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F) if top_down else b""
    info = struct.pack("<IiiHHIIiiII", 40, width, -height if top_down else height, 1, 16,
                       3 if top_down else 0, len(rows), 0, 0, 0, 0)
    offset = 14 + len(info) + len(masks)
    return struct.pack("<2sIHHI", b"BM", offset + len(rows), 0, 0, offset) + info + masks + rows


def write(name, document):
    (HERE / name).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def make_own():
    files = {}
    for make in (jpegs, pngs, gifs, others):
        for name, data in make():
            (HERE / name).write_bytes(data)
            files[name] = describe(data, SPECS)
    write("reference.json", {"specs": SPECS, "files": files})


def is_lossy_webp(data):
    return data[8:12] == b"WEBP" and b"VP8 " in data[12:]


def make_fixtures(folder):
    Image.MAX_IMAGE_PIXELS = 40_000_000
    files = {}
    found = sorted(p for part in ("images", "nasty") for p in (folder / part).rglob("*"))
    for path in found:
        if not path.is_file() or path.suffix == ".json":
            continue
        data = path.read_bytes()
        try:
            entry = describe(data, MODEL_SPECS)
        except Exception:  # whatever Pillow refuses has no pixels to compare
            continue
        if is_lossy_webp(data):
            thumb = load(data).resize((8, 8), 2)
            entry = {"size": entry["size"], "thumb": np.asarray(thumb).ravel().tolist()}
        files[path.relative_to(folder).as_posix()] = entry
    write("fixtures.json", {"specs": MODEL_SPECS, "files": files})


if __name__ == "__main__":
    if len(sys.argv) > 1:
        make_fixtures(Path(sys.argv[1]))
    else:
        make_own()
