"""Pruning, in two ways, and what each is worth.

    tools/models.sh prune

1. Single weights: the smallest go, by size over the whole network, in rounds with training in between, so that the rest
   can take over. The file compresses better; no general runtime, ONNX Runtime and tract included, runs it any faster,
   because it still multiplies by the zeros.
2. Whole channels: of each convolution the half with the smallest weights goes, and what is left is a smaller network
   of the usual kind. This is what makes serving faster.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import torch
from torch import nn

from lensgate_export.from_torch import load
from lensgate_export.recipes import network
from lensgate_export.recipes.network import Network
from lensgate_export.tables import table

WIDTHS = (32, 64, 64)
SHARES = (0.5, 0.75, 0.9)


def prune_weights(model: Network, x: torch.Tensor, y: torch.Tensor) -> None:
    """Zeroes `SHARES` of all convolution weights, one share after another, with some training after each."""
    weights = [layer.weight for layer in model.convolutions()]
    for share in SHARES:
        sizes = torch.cat([weight.detach().abs().flatten() for weight in weights])
        limit = sizes.kthvalue(int(share * len(sizes))).values
        masks = [(weight.detach().abs() > limit).float() for weight in weights]

        def hold(masks: list[torch.Tensor] = masks) -> None:
            # A step of the optimiser moves zeros too.
            with torch.no_grad():
                for weight, mask in zip(weights, masks):
                    weight.mul_(mask)

        hold()
        network.train(model, x, y, epochs=4, rate=2e-3, after_step=hold)


def without_channels(model: Network, share: float) -> Network:
    """A narrower network with the channels of `model` whose filters have the largest L1 norms; not trained yet."""
    widths = tuple(max(1, round(width * (1 - share))) for width in model.widths)
    small = Network((widths[0], widths[1], widths[2]))
    inputs = torch.arange(3)
    with torch.no_grad():
        for old, new in zip(_blocks(model), _blocks(small)):
            norms = old[0].weight.abs().sum(dim=(1, 2, 3))
            outputs = norms.topk(new[0].out_channels).indices.sort().values
            new[0].weight.copy_(old[0].weight[outputs][:, inputs])
            for name in ("weight", "bias", "running_mean", "running_var"):
                getattr(new[1], name).copy_(getattr(old[1], name)[outputs])
            inputs = outputs
        small.head.weight.copy_(model.head.weight[:, inputs])
        small.head.bias.copy_(model.head.bias)
    return small


def _blocks(model: Network) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    layers = list(model.body)
    return [(layers[i], layers[i + 1]) for i in range(0, len(layers), 4)]


def main() -> None:
    """Prints the table of the three."""
    load().manual_seed(1)
    torch.set_num_threads(1)
    x, y = network.pictures(200, 1)
    test = network.pictures(250, 2)
    dense = Network(WIDTHS)
    network.train(dense, x, y, epochs=12, rate=3e-3)
    sparse = copy.deepcopy(dense)
    prune_weights(sparse, x, y)
    narrow = without_channels(dense, 0.5)
    raw = copy.deepcopy(narrow)
    network.train(narrow, x, y, epochs=6, rate=2e-3)
    rows = []
    with tempfile.TemporaryDirectory() as work:
        for name, model in (
            ("dense", dense),
            (f"{SHARES[-1]:.0%} of weights zero", sparse),
            ("half of the channels, as cut", raw),
            ("half of the channels, trained on", narrow),
        ):
            rows.append((name, *network.measured(model, Path(work) / "model.onnx", *test).row()))
    print(table(("network", *network.HEAD), rows))


if __name__ == "__main__":
    main()
