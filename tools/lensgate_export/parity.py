"""Two sets of answers to the same pictures, held against each other, and what a version's folder remembers of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lensgate_export.failures import Failure
from lensgate_export.samples import Sample
from lensgate_export.tables import table

# What the gateway promises against Pillow and onnxruntime (0.0005, or one step of a quantised output).
_PROMISED = 0.0005

FILE = "parity.json"
HEAD = ("answers of", "against", "pictures", "max difference", "mean difference", "same label", "allowed", "")


@dataclass(frozen=True)
class Parity:
    """How far answers `got` [N, C] are from `wanted` [N, C]. Differences are of confidences, 0 to 1."""

    of: str
    against: str
    got: np.ndarray
    wanted: np.ndarray
    tolerance: float | None  # None: told, and never a reason to fail

    @property
    def largest(self) -> float:
        return float(np.abs(self.got - self.wanted).max())

    @property
    def mean(self) -> float:
        return float(np.abs(self.got - self.wanted).mean())

    @property
    def other_label(self) -> np.ndarray:
        """[N], true where the first label differs although the two are further apart than twice the tolerance."""
        rows = np.arange(len(self.got))
        first, other = self.wanted.argmax(1), self.got.argmax(1)
        apart = self.wanted[rows, first] - self.wanted[rows, other]
        return (first != other) & (apart > 2 * (self.tolerance or 0.0))

    @property
    def agreement(self) -> float:
        return float((self.got.argmax(1) == self.wanted.argmax(1)).mean())

    @property
    def holds(self) -> bool:
        if self.tolerance is None:
            return True
        return self.largest <= self.tolerance and not self.other_label.any()

    def row(self) -> tuple[str, ...]:
        same = int((self.got.argmax(1) == self.wanted.argmax(1)).sum())
        allowed = "told only" if self.tolerance is None else f"{self.tolerance:g}"
        verdict = "" if self.tolerance is None else "ok" if self.holds else "FAILS"
        count = len(self.got)
        return (
            self.of, self.against, str(count), f"{self.largest:.2e}", f"{self.mean:.2e}", f"{same}/{count}",
            allowed, verdict,
        )  # fmt: skip


def allowed_of_gateway(quantised_step: float) -> float:
    """How far the gateway may be from onnxruntime on the same file and the same pictures."""
    return max(_PROMISED, 1.001 * quantised_step)


def shown(parities: Sequence[Parity]) -> str:
    """The table of them."""
    return table(HEAD, [parity.row() for parity in parities])


def demand(parities: Sequence[Parity], pictures: Sequence[Path], spread: np.ndarray) -> None:
    """A `Failure` that names the worst picture where one does not hold.

    `spread` [N, C] are answers that must differ from picture to picture: a model that says the same of everything
    would agree with any preprocessing, and the comparison would show nothing.
    """
    for parity in parities:
        if not parity.holds:
            far = np.abs(parity.got - parity.wanted).max(1)
            worst = int(far.argmax())
            raise Failure(
                f"{parity.of} differs from {parity.against} by {far[worst]:.4f} on {pictures[worst]} "
                f"(allowed: {parity.tolerance:g}): the manifest does not say what the model was trained with, or the "
                "resizers differ (docs/models.md, Parity)"
            )
    if len(spread) > 1 and float(np.ptp(spread, axis=0).max()) < 0.01:
        raise Failure(
            "the model says the same of every sample, so that agreement shows nothing: give other samples, or a "
            "model that was trained"
        )


def remember(folder: Path, framework: str, samples: Sequence[Sample], answers: np.ndarray, judged: Sequence[Parity]) -> None:
    """Writes `parity.json`: the framework's answers by the pictures' SHA-256, for `check` at any later time."""
    content = {
        "framework": framework,
        "compared": [dict(zip(HEAD[:-1], parity.row())) for parity in judged],
        "pictures": [
            {"name": sample.path.name, "sha256": sample.digest, "confidences": [float(f"{c:.7g}") for c in row]}
            for sample, row in zip(samples, answers)
        ],
    }
    (folder / FILE).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def remembered(folder: Path) -> tuple[str, dict[str, np.ndarray]] | None:
    """The framework's name and its answers [C] by SHA-256; None where the version was made without."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        answers = {each["sha256"]: np.asarray(each["confidences"], np.float64) for each in content["pictures"]}
        return str(content["framework"]), answers
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failure(f"{path} cannot be read: {error}") from error
