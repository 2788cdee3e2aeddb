"""Folders of pictures, with their true labels where names tell them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lensgate_export.failures import Failure
from lensgate_export.picture import opened

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Sample:
    """A picture that can be read. `label` is None where nothing tells it."""

    path: Path
    label: str | None
    upright: bool  # False: its EXIF turns it, which the frameworks' loaders ignore

    @property
    def digest(self) -> str:
        """SHA-256 of the file, in hex."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


def found(folder: Path, labels: list[str], limit: int) -> list[Sample]:
    """The pictures below `folder`, at most `limit`, spread evenly over them.

    In a subfolder, the folder's name is the label; beside them, the file's name up to an underscore, where that is one.
    A subfolder that is no label, and a picture that cannot be read, are a `Failure`: left out silently, either would
    make the figures mean something else than they say.
    """
    if not folder.is_dir():
        raise Failure(f"the samples' folder {folder} is not there")
    pictures: list[tuple[Path, str | None]] = []
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.name.startswith("."):
            inside = [path for path in sorted(entry.iterdir()) if path.suffix.lower() in SUFFIXES]
            if inside and entry.name not in labels:
                raise Failure(f"the folder {entry} is named by no label; there are {_some(labels)}")
            pictures += [(path, entry.name) for path in inside]
        elif entry.suffix.lower() in SUFFIXES:
            pictures.append((entry, _named(entry.stem, labels)))
    if not pictures:
        raise Failure(f"{folder} has no pictures ({', '.join(sorted(SUFFIXES))})")
    if len(pictures) > limit:
        pictures = [pictures[i * len(pictures) // limit] for i in range(limit)]
    return [_read(path, label) for path, label in pictures]


def _read(path: Path, label: str | None) -> Sample:
    opened(path)
    with Image.open(path) as file:
        orientation = file.getexif().get(_ORIENTATION, 1)
    return Sample(path, label, upright=orientation not in range(2, 9))


def _named(stem: str, labels: list[str]) -> str | None:
    """The longest label that `stem` is, or begins with before an underscore."""
    fitting = [label for label in labels if stem == label or stem.startswith(f"{label}_")]
    return max(fitting, key=len, default=None)


def _some(labels: list[str]) -> str:
    shown = ", ".join(labels[:10])
    return shown if len(labels) <= 10 else f"{shown} and {len(labels) - 10} more"
