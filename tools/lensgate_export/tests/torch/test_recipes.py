"""The recipes: that each step does what it says, and that the tables come out as the text promises."""

from __future__ import annotations

import contextlib
import copy
import io
import unittest
from collections.abc import Callable

import torch

from lensgate_export.recipes import distill, network, prune
from lensgate_export.recipes.network import Network


def printed(main: Callable[[], None]) -> dict[str, list[str]]:
    """The rows of the table that `main` prints, by their first cell."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        main()
    print(said.getvalue())
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in said.getvalue().splitlines() if "|" in line]
    return {row[0]: row[1:] for row in rows[2:]}


def share(cell: str) -> float:
    return float(cell.rstrip("%")) / 100


class Recipes(unittest.TestCase):
    def test_channels_without_weight_can_go_without_a_trace(self) -> None:
        torch.manual_seed(1)
        model = Network((8, 8, 8))
        model.eval()
        with torch.no_grad():
            for (layer, norm), kept in zip(prune._blocks(model), (slice(0, 4), slice(2, 6), slice(4, 8))):
                dead = torch.ones(8, dtype=torch.bool)
                dead[kept] = False
                layer.weight[dead] = 0
                norm.running_mean.normal_()
                norm.running_mean[dead] = 0
                norm.running_var.uniform_(0.5, 2)
        small = prune.without_channels(copy.deepcopy(model), 0.5)
        small.eval()
        self.assertEqual(small.widths, (4, 4, 4))
        x, _ = network.pictures(2, 5)
        torch.testing.assert_close(small(x), model(x))

    def test_a_share_of_the_weights_stays_zero_through_training(self) -> None:
        torch.manual_seed(1)
        model = Network((8, 8, 8))
        prune.prune_weights(model, *network.pictures(8, 5))
        weights = torch.cat([layer.weight.flatten() for layer in model.convolutions()])
        self.assertAlmostEqual(float((weights == 0).float().mean()), prune.SHARES[-1], delta=0.005)

    def test_the_divergence_is_zero_for_the_teachers_own_answers_and_positive_else(self) -> None:
        logits = torch.tensor([[1.0, 2.0, -3.0], [0.0, 0.5, 0.1]])
        self.assertAlmostEqual(float(distill.softened(logits, logits)), 0.0, places=6)
        self.assertGreater(float(distill.softened(logits.flip(1), logits)), 0.1)

    def test_pruning_keeps_its_promises(self) -> None:
        rows = printed(prune.main)
        dense, sparse = rows["dense"], rows["90% of weights zero"]
        cut, narrow = rows["half of the channels, as cut"], rows["half of the channels, trained on"]
        self.assertGreater(share(dense[0]), 0.95)
        self.assertGreater(share(sparse[0]), share(dense[0]) - 0.02)
        self.assertLess(int(sparse[1]), 0.15 * int(dense[1]))
        self.assertLess(float(sparse[3]), 0.4 * float(dense[3]), "it compresses")
        self.assertGreater(share(narrow[0]), share(dense[0]) - 0.03)
        self.assertGreater(share(narrow[0]), share(cut[0]) + 0.2, "it is training that brings the accuracy back")
        self.assertLess(float(narrow[2]), 0.5 * float(dense[2]), "it is smaller")

    def test_distilling_keeps_its_promises(self) -> None:
        rows = printed(distill.main)
        teacher, alone, taught = rows["teacher"], rows[f"student, {distill.LABELLED} labels"], rows["student, distilled"]
        self.assertLess(int(taught[1]), 0.1 * int(teacher[1]))
        self.assertGreater(share(taught[0]), share(alone[0]) + 0.02)
