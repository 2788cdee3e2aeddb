"""The small network of the recipes: training, measuring, ONNX. Pictures are of `shapes`, 32 x 32 pixels."""

from __future__ import annotations

import gzip
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn
from torch.nn import functional

from lensgate_export import graph
from lensgate_export.recipes import shapes

SIDE = 32
CLASSES = len(shapes.LABELS)
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Network(nn.Module):
    """Three convolutions of `widths` channels, each halving the sides, then the mean and a linear head.

    Takes [N, 3, 32, 32] of 0 to 1, gives logits [N, 4].
    """

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        self.widths = widths
        blocks: list[nn.Module] = []
        before = 3
        for width in widths:
            blocks += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
            before = width
        self.body = nn.Sequential(*blocks)
        self.head = nn.Linear(before, CLASSES)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits."""
        logits: torch.Tensor = self.head(self.body(pixels).mean(dim=(2, 3)))
        return logits

    def convolutions(self) -> list[nn.Conv2d]:
        """In the order in which pixels meet them."""
        return [block for block in self.body if isinstance(block, nn.Conv2d)]


@dataclass(frozen=True)
class Measured:
    """`accuracy` on pictures that no training saw; sizes in kB; the time of one picture on one thread in ms, the least of ten medians."""

    accuracy: float
    parameters: int
    kilobytes: float
    zipped: float
    milliseconds: float

    def row(self) -> tuple[str, ...]:
        return (
            f"{self.accuracy:.2%}", str(self.parameters), f"{self.kilobytes:.1f}", f"{self.zipped:.1f}",
            f"{self.milliseconds:.3f}",
        )  # fmt: skip


HEAD = ("accuracy", "parameters", "kB", "kB zipped", "ms, one thread")


def pictures(each: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels [N, 3, 32, 32] of 0 to 1, and classes [N]; `each` of every class."""
    pixels, classes = shapes.arrays(each, seed, SIDE, hard=True)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(classes)


def train(
    model: Network,
    x: torch.Tensor,
    targets: torch.Tensor,
    epochs: int,
    rate: float,
    loss: Loss = functional.cross_entropy,
    after_step: Callable[[], None] = lambda: None,
) -> None:
    """Adam with a cosine rate; `targets` are what `loss` takes beside the logits. `after_step` may mend the weights."""
    model.train()
    optimiser = torch.optim.Adam(model.parameters(), rate)
    steps = epochs * -(-len(x) // 32)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(32):
            optimiser.zero_grad()
            loss(model(x[rows]), targets[rows]).backward()
            optimiser.step()
            schedule.step()
            after_step()
    model.eval()


def measured(model: Network, onnx: Path, x: torch.Tensor, y: torch.Tensor) -> Measured:
    """Writes the model to `onnx` and measures that file, which is what would be served."""
    model.eval()
    torch.onnx.export(
        model, (x[:2],), str(onnx), dynamo=True, opset_version=18, external_data=False, verbose=False,
        input_names=["input"], output_names=["logits"], dynamic_shapes=({0: torch.export.Dim("batch")},),
    )  # fmt: skip
    graph.tidy(onnx)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    logits = session.run(None, {"input": x.numpy()})[0]
    one = {"input": x[:1].numpy()}
    medians = []
    for _ in range(10):
        times = []
        for _ in range(100):
            start = time.perf_counter()
            session.run(None, one)
            times.append((time.perf_counter() - start) * 1000)
        medians.append(statistics.median(times))
    content = onnx.read_bytes()
    return Measured(
        accuracy=float(np.mean(logits.argmax(1) == y.numpy())),
        parameters=sum(int(p.count_nonzero()) for p in model.parameters()),
        kilobytes=len(content) / 1000,
        zipped=len(gzip.compress(content)) / 1000,
        # What else the machine does only ever adds.
        milliseconds=min(medians),
    )
