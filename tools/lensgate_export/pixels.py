"""What the command line says of a picture's way to the tensor, for files that do not say it themselves.

A SavedModel or TFLite file takes numbers; how they came from pixels stands in the code that trained it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lensgate_export import picture
from lensgate_export.failures import Misuse
from lensgate_export.graph import Graph
from lensgate_export.manifest import COLORS, FILTERS, PRESETS, RESIZES, Preprocessing, Table, preprocessing

_KEYS = ("preset", "color", "resize", "resize_to", "filter", "scale", "mean", "std")


def add_options(parser: argparse.ArgumentParser) -> None:
    """`--preset` and the keys of `[input]` that it sets."""
    add = parser.add_argument
    add("--preset", choices=sorted(PRESETS), help="how pixels became the model's numbers in training")
    add("--color", choices=COLORS)
    add("--resize", choices=RESIZES)
    add("--resize-to", type=int, nargs="+", metavar="PIXELS", help="one number, or H W")
    add("--filter", choices=FILTERS)
    add("--scale", type=float, metavar="FACTOR", help="of the 8-bit pixel; 0 to 1 is 0.00392156862745098")
    add("--mean", type=float, nargs="+", metavar="M", help="subtracted after the scale; one, or one a channel")
    add("--std", type=float, nargs="+", metavar="S", help="divided by; one, or one a channel")


def asked(args: argparse.Namespace) -> Table:
    """The `[input]` table that the options mean; a `Misuse` where nothing was said at all."""
    table: Table = {}
    for key in _KEYS:
        value = getattr(args, key)
        if value is None:
            continue
        if key == "resize_to":
            if len(value) > 2:
                raise Misuse("--resize-to is one number, or H W")
            value = value[0] if len(value) == 1 else value
        table[key] = value
    if not table:
        raise Misuse(
            "the file does not say how pixels become its numbers: give --preset, or --resize, --filter, --scale, "
            "--mean and --std as they were in training"
        )
    return table


def floats(table: Table, layout: str, size: tuple[int, int], channels: int) -> Preprocessing:
    """The options' meaning for a float tensor of `size` (H, W), whatever type the file takes."""
    shape = (None, channels, *size) if layout == "NCHW" else (None, *size, channels)
    facts = Graph(
        input_name="", input_type=np.dtype(np.float32), input_shape=shape, output_name="",
        output_type=np.dtype(np.float32), classes=None, ends_in=None, output_scale=None, output_zero_point=None,
    )  # fmt: skip
    return preprocessing({"input": {**table, "layout": layout}}, facts)


def batch(pictures: Sequence[Path], p: Preprocessing) -> np.ndarray:
    """[N, ...] of the pictures."""
    return np.concatenate([picture.tensor(path, p) for path in pictures])


def quantised(table: Table, p: Preprocessing, scale: float, zero_point: int) -> Table:
    """`[input]` for an integer tensor `q = real / scale + zero_point`, where `real` is what `p` makes of a pixel.

    `((pixel * s - m) / d) / scale + zero_point` is `(pixel * s - (m - zero_point * scale * d)) / (scale * d)`.
    """
    exact: Any = {key: value for key, value in table.items() if key not in ("scale", "mean", "std")}
    mean = [m - zero_point * scale * d for m, d in zip(p.mean, p.std)]
    std = [scale * d for d in p.std]
    return {**exact, "scale": p.scale, "mean": _shortest(mean), "std": _shortest(std)}


def _shortest(values: list[float]) -> float | list[float]:
    return values[0] if len(set(values)) == 1 else values
