"""Distillation: a small network learns from a large one's answers instead of from labels.

    tools/models.sh distill

Few pictures have labels, many have none. The teacher is trained on a good set; the student, too small for much, once on
the few labels alone, and once also on what the teacher says of the unlabelled pictures. Answers are softened by a
temperature: how the teacher spreads its doubts over the wrong classes is what a label does not tell.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch.nn import functional

from lensgate_export.from_torch import load
from lensgate_export.recipes import network
from lensgate_export.recipes.network import Network
from lensgate_export.tables import table

TEACHER, STUDENT = (32, 64, 64), (6, 12, 16)
TEMPERATURE = 3.0
LABELLED = 100


def softened(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The Kullback-Leibler divergence of the student's softened answers from the teacher's, whose logits are `targets`.

    Times the square of the temperature, which keeps gradients as large as those of labels.
    """
    own = functional.log_softmax(logits / TEMPERATURE, dim=1)
    teacher = functional.log_softmax(targets / TEMPERATURE, dim=1)
    return functional.kl_div(own, teacher, log_target=True, reduction="batchmean") * TEMPERATURE**2


def distilled(teacher: Network, x: torch.Tensor, epochs: int) -> Network:
    """A student that was trained on the teacher's answers to `x` alone."""
    with torch.no_grad():
        answers = teacher(x)
    torch.manual_seed(3)
    student = Network(STUDENT)
    network.train(student, x, answers, epochs=epochs, rate=5e-3, loss=softened)
    return student


def main() -> None:
    """Prints the table of teacher and students."""
    load().manual_seed(1)
    torch.set_num_threads(1)
    test = network.pictures(250, 2)
    teacher = Network(TEACHER)
    network.train(teacher, *network.pictures(250, 1), epochs=12, rate=3e-3)
    few = network.pictures(LABELLED // network.CLASSES, 3)
    unlabelled, _ = network.pictures(250, 4)
    torch.manual_seed(3)
    alone = Network(STUDENT)
    # As many steps as the other: more data, not more training, is what makes the difference.
    network.train(alone, *few, epochs=120, rate=5e-3)
    taught = distilled(teacher, torch.cat([few[0], unlabelled]), epochs=11)
    rows = []
    with tempfile.TemporaryDirectory() as work:
        for name, model in (("teacher", teacher), (f"student, {LABELLED} labels", alone), ("student, distilled", taught)):
            rows.append((name, *network.measured(model, Path(work) / "model.onnx", *test).row()))
    print(table(("network", *network.HEAD), rows))


if __name__ == "__main__":
    main()
