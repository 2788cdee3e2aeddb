"""Golden pictures: samples that a version gets right for sure, kept in its folder for the gateway to ask."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lensgate_export.manifest import Table
from lensgate_export.samples import Sample

FOLDER = "golden"
# Room below the confidence of today: another processor's or runtime's rounding must not fail a good version.
_ROOM = 0.1


def chosen(
    samples: Sequence[Sample], answers: np.ndarray, labels: Sequence[str], count: int, least: float
) -> list[tuple[Sample, float]]:
    """Up to `count` labelled samples whose true label comes first with at least `least`, with that confidence.

    Each class gives its surest first, so that the pictures stand for as many classes as they can.
    """
    right = [
        (sample, float(row.max()))
        for sample, row in zip(samples, answers)
        if sample.label is not None and labels[int(row.argmax())] == sample.label and row.max() >= least
    ]
    right.sort(key=lambda pair: -pair[1])
    taken: dict[str | None, int] = {}
    ranked = []
    for sample, confidence in right:
        ranked.append((taken.get(sample.label, 0), -confidence, sample))
        taken[sample.label] = taken.get(sample.label, 0) + 1
    ranked.sort(key=lambda entry: entry[:2])
    return [(sample, -negative) for _, negative, sample in ranked[:count]]


def kept(folder: Path, pictures: Sequence[tuple[Sample, float]]) -> list[Table]:
    """Copies the pictures into `folder`/golden and answers the manifest's `[[golden]]` entries."""
    entries: list[Table] = []
    for number, (sample, confidence) in enumerate(pictures, 1):
        target = folder / FOLDER
        target.mkdir(exist_ok=True)
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", sample.path.stem)[:40]
        name = f"{number}-{stem}{sample.path.suffix.lower()}"
        shutil.copyfile(sample.path, target / name)
        least = max(0.0, math.floor((confidence - _ROOM) * 100) / 100)
        entries.append({"image": f"{FOLDER}/{name}", "label": sample.label, "min_confidence": least})
    return entries
