"""Pictures of shapes, drawn anew from a seed: a data set for recipes and tests that needs no download.

Four classes (circle, square, triangle, cross) of one bright colour on a dim one, anywhere, at any of many sizes, with
noise: a small network learns them in seconds, and not by their colour.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

LABELS = ("circle", "square", "triangle", "cross")


def drawn(label: str, rng: np.random.Generator, width: int, height: int, hard: bool = False) -> Image.Image:
    """One RGB picture of `width` x `height` pixels; a `hard` one has less contrast, more noise and smaller shapes."""
    darkest, noise, smallest = (110, 40, 0.14) if hard else (150, 12, 0.22)
    back = tuple(int(level) for level in rng.integers(0, 100, 3))
    front = tuple(int(level) for level in rng.integers(darkest, 256, 3))
    picture = Image.new("RGB", (width, height), back)
    draw = ImageDraw.Draw(picture)
    radius = float(rng.uniform(smallest, 0.4)) * min(width, height)
    x = float(rng.uniform(radius, width - radius))
    y = float(rng.uniform(radius, height - radius))
    box = (x - radius, y - radius, x + radius, y + radius)
    if label == "circle":
        draw.ellipse(box, fill=front)
    elif label == "square":
        draw.rectangle(box, fill=front)
    elif label == "triangle":
        draw.polygon(((x, y - radius), (x - radius, y + radius), (x + radius, y + radius)), fill=front)
    else:
        arm = radius / 3
        draw.rectangle((x - arm, y - radius, x + arm, y + radius), fill=front)
        draw.rectangle((x - radius, y - arm, x + radius, y + arm), fill=front)
    noisy = np.asarray(picture, np.int16) + rng.normal(0, noise, (height, width, 3)).astype(np.int16)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def folder(root: Path, each: int, seed: int, width: int = 120, height: int = 90) -> Path:
    """Writes `root`/LABEL/N.png, `each` of every class, and `root`.labels.txt beside it; answers `root`."""
    rng = np.random.default_rng(seed)
    for label in LABELS:
        (root / label).mkdir(parents=True)
        for number in range(each):
            drawn(label, rng, width, height).save(root / label / f"{number}.png")
    root.with_name(f"{root.name}.labels.txt").write_text("".join(f"{label}\n" for label in LABELS))
    return root


def arrays(each: int, seed: int, side: int, hard: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [N, side, side, 3] from 0 to 255 as uint8, and classes [N]; mixed."""
    rng = np.random.default_rng(seed)
    classes = np.repeat(np.arange(len(LABELS)), each)
    rng.shuffle(classes)
    pixels = np.stack([np.asarray(drawn(LABELS[c], rng, side, side, hard)) for c in classes])
    return pixels, classes
