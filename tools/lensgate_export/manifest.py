"""`model.toml`: the presets, a version's effective table, and what it means for a picture.

The same rules as the gateway's (docs/manifest.md), written a second time on purpose: calibration data and the answers
that the gateway is held against must not come from the gateway itself.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lensgate_export.failures import Failure
from lensgate_export.graph import Graph

Table = dict[str, Any]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CAFFE_MEAN = (103.939, 116.779, 123.68)

_KERAS: Table = {"color": "rgb", "resize": "stretch", "filter": "nearest", "scale": 1.0, "mean": (0.0,), "std": (1.0,)}
PRESETS: dict[str, Table] = {
    "torchvision": {
        "color": "rgb", "resize": "shorter-side", "filter": "bilinear", "scale": 1 / 255,
        "mean": IMAGENET_MEAN, "std": IMAGENET_STD,
    },
    "keras-tf": {**_KERAS, "scale": 1 / 127.5, "mean": (1.0,)},
    "keras-caffe": {**_KERAS, "color": "bgr", "mean": CAFFE_MEAN},
    "keras-raw": _KERAS,
}  # fmt: skip

FILTERS = ("nearest", "bilinear", "bicubic", "lanczos")
RESIZES = ("stretch", "shorter-side", "letterbox")
COLORS = ("rgb", "bgr", "gray")
ACTIVATIONS = ("none", "softmax", "sigmoid")


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the tensor `(pixel * scale - mean) / std` of one version.

    `height`, `width` and `resize_to` [H, W] are pixels (`shorter-side` uses the first of `resize_to`); `mean` and
    `std` have one value a channel, in the tensor's own channel order.
    """

    layout: str
    element: np.dtype[Any]
    height: int
    width: int
    color: str
    resize: str
    resize_to: tuple[int, int]
    center_crop: bool
    filter: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read(version: Path) -> Table:
    """The effective table of a version's folder: its own `model.toml` laid key by key over the model's."""
    table: Table = {}
    for folder in (version.parent, version):
        path = folder / "model.toml"
        if path.is_file():
            try:
                _lay(table, tomllib.loads(path.read_text(encoding="utf-8")))
            except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                raise Failure(f"{path} cannot be read: {error}") from error
    return table


def _lay(base: Table, over: Table) -> None:
    """Tables are merged; anything else replaces what was there, lists (of golden pictures) too."""
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _lay(base[key], value)
        else:
            base[key] = value


def read_labels(version: Path, table: Table) -> list[str] | None:
    """A version's classes in output order; None where neither the manifest nor a file names them."""
    source = table.get("labels", "labels.txt")
    if isinstance(source, list):
        return [str(label) for label in source]
    for folder in (version, version.parent):
        if (folder / source).is_file():
            return labels_of(folder / source)
    if "labels" in table:
        raise Failure(f"{version}: there is no file {source}, which the manifest names for the labels")
    return None


def labels_of(path: Path) -> list[str]:
    """The lines of a labels file as the gateway reads them: trimmed, without empty ones at the end."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise Failure(f"the labels' file {path} is not there") from error
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"the labels' file {path} cannot be read: {error}") from error
    labels = [line.strip() for line in text.split("\n")]
    while labels and not labels[-1]:
        labels.pop()
    if not labels:
        raise Failure(f"the labels' file {path} is empty")
    if "" in labels:
        raise Failure(f"the labels' file {path} has an empty line {labels.index('') + 1} among its labels")
    return labels


def preprocessing(table: Table, graph: Graph) -> Preprocessing:
    """`[input]` against the graph: what is left out is read from the graph, the preset or the defaults."""
    keys: Table = table.get("input", {})
    layout, channels, rows, columns = graph.picture_axes(keys.get("layout"))
    preset: Table = {}
    if "preset" in keys:
        if keys["preset"] not in PRESETS:
            raise Failure(f"input.preset is {keys['preset']!r}; there are {', '.join(PRESETS)}")
        preset = PRESETS[keys["preset"]]
    found: Table = {**preset, **keys}
    color = found.get("color", "gray" if channels == 1 else "rgb")
    wanted = 1 if color == "gray" else 3
    if channels not in (None, wanted):
        raise Failure(f"input.color is {color}, and the graph takes {channels} channels")
    asked = keys.get("size", (224, 224))
    height, width = rows or asked[0], columns or asked[1]
    if "size" in keys and tuple(asked) != (height, width):
        raise Failure(f"input.size is {list(asked)}, and the graph is fixed at [{height}, {width}]")
    resize = found.get("resize", "shorter-side")
    to = found.get("resize_to")
    if isinstance(to, int):
        both = (to, to)
    elif to is not None:
        both = (to[0], to[1])
    elif resize == "shorter-side":
        # size / 0.875, rounded, without floats.
        side = (max(height, width) * 16 + 7) // 14
        both = (side, side)
    else:
        both = (height, width)
    integer = graph.input_type.kind in "iu"
    return Preprocessing(
        layout=layout,
        element=graph.input_type,
        height=height,
        width=width,
        color=color,
        resize=resize,
        resize_to=both,
        center_crop=keys.get("crop", "center") != "none",
        filter=found.get("filter", "bilinear"),
        scale=found.get("scale", 1.0 if integer else 1 / 255),
        mean=_per_channel("mean", found.get("mean", 0.0), wanted),
        std=_per_channel("std", found.get("std", 1.0), wanted),
    )


def _per_channel(key: str, value: Any, channels: int) -> tuple[float, ...]:
    values = tuple(float(each) for each in value) if isinstance(value, (list, tuple)) else (float(value),)
    if len(values) == 3 and channels == 1:
        # A preset's three, as the gateway takes them for a gray picture.
        values = (sum(values) / 3,)
    if len(values) == 1:
        return values * channels
    if len(values) != channels:
        raise Failure(f"input.{key} has {len(values)} numbers for {channels} channels")
    return values


def written(table: Table) -> str:
    """The table as the text of a `model.toml`."""
    lines = [f"{key} = {_value(value)}" for key, value in table.items() if not _is_section(value)]
    for key, value in table.items():
        if isinstance(value, dict) and value:
            lines += ["", f"[{key}]", *(f"{name} = {_value(each)}" for name, each in value.items())]
        elif _is_section(value):
            for entry in value:
                lines += ["", f"[[{key}]]", *(f"{name} = {_value(each)}" for name, each in entry.items())]
    return "\n".join(lines).lstrip("\n") + "\n"


def _is_section(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(each) for each in value)}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # A JSON string is a TOML string, but for the one control character that JSON leaves as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
