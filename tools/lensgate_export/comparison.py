"""Two versions beside each other on the same pictures: size, speed, accuracy, agreement. No gateway is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lensgate_export.failures import Failure
from lensgate_export.reference import Runner
from lensgate_export.samples import Sample
from lensgate_export.tables import table


@dataclass(frozen=True)
class Pair:
    """What was measured of two versions. Times are milliseconds on one thread, the least of five medians; `answers` are [N, C]."""

    names: tuple[str, str]
    bytes: tuple[int, int]
    milliseconds: tuple[float, float]
    answers: tuple[np.ndarray, np.ndarray]
    # Shares of the labelled samples whose true label comes first, and how many those are; None where there are none.
    accuracies: tuple[float, float] | None
    labelled: int

    @property
    def agreement(self) -> float:
        """The share of samples for which both name the same label first."""
        return float((self.answers[0].argmax(1) == self.answers[1].argmax(1)).mean())

    def shown(self) -> str:
        """The table, and the lines on how far the answers are apart."""
        rows = []
        for i, name in enumerate(self.names):
            accuracy = f"{self.accuracies[i]:.2%}" if self.accuracies else "no labels"
            rows.append((name, f"{self.bytes[i] / 1e6:.3f}", f"{self.milliseconds[i]:.2f}", accuracy))
        accuracy = f"{self.accuracies[1] - self.accuracies[0]:+.2%}" if self.accuracies else ""
        size, speed = self.bytes[1] / self.bytes[0], self.milliseconds[1] / self.milliseconds[0]
        rows.append((f"{self.names[1]} to {self.names[0]}", f"{size:.2f}x", f"{speed:.2f}x", accuracy))
        apart = np.abs(self.answers[0] - self.answers[1])
        return "\n".join(
            [
                table(("version", "MB", "ms, one thread", f"accuracy ({self.labelled} labelled)"), rows),
                f"same label on {self.agreement:.2%} of {len(apart)} pictures; confidences differ by {apart.max():.4f} at "
                f"most, {apart.mean():.4f} on average",
            ]
        )


def compared(
    first: Path, second: Path, samples: Sequence[Sample], labels: Sequence[str], names: tuple[str, str] | None = None
) -> Pair:
    """Measures two versions' folders. Times are taken by turns, so that a busy machine slows both alike."""
    runners = Runner(first), Runner(second)
    pictures = [sample.path for sample in samples]
    answers = runners[0].confidences(pictures), runners[1].confidences(pictures)
    for folder, answer in zip((first, second), answers):
        if answer.shape[1] != len(labels):
            raise Failure(f"{folder} has {answer.shape[1]} outputs, and there are {len(labels)} labels")
    rounds = [[runner.milliseconds(pictures) for runner in runners] for _ in range(5)]
    # What else the machine does only ever adds.
    times = np.asarray(rounds).min(axis=0)
    known = [(row, sample.label) for row, sample in enumerate(samples) if sample.label is not None]
    accuracies = None
    if known:
        right = [[labels[int(answer[row].argmax())] == label for row, label in known] for answer in answers]
        accuracies = float(np.mean(right[0])), float(np.mean(right[1]))
    return Pair(
        names=names or (str(first), str(second)),
        bytes=(_bytes(first), _bytes(second)),
        milliseconds=(float(times[0]), float(times[1])),
        answers=answers,
        accuracies=accuracies,
        labelled=len(known),
    )


def _bytes(version: Path) -> int:
    """The graph's file and its external data; pictures and texts are none of a runtime's business."""
    beside = {"labels.txt", "model.toml", "parity.json"}
    return sum(path.stat().st_size for path in version.iterdir() if path.is_file() and path.name not in beside)
