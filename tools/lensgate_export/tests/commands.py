"""Runs the command line in a process of its own, as people do, and small graphs to run it on."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lensgate_export.recipes import shapes

ROOT = Path(__file__).resolve().parents[3]
DIGITS = ROOT / "model-store" / "digits"


def run(*words: object) -> subprocess.CompletedProcess[str]:
    """`python -m lensgate_export WORDS...` with the packages of this process."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lensgate_export", *(str(word) for word in words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)


class InFolder(unittest.TestCase):
    """A test with an empty folder of its own, gone afterwards."""

    def setUp(self) -> None:
        held = tempfile.TemporaryDirectory(prefix="lensgate-tests-")
        self.addCleanup(held.cleanup)
        self.folder = Path(held.name)
        self.store = self.folder / "store"

    def pictures(self, name: str = "shapes", each: int = 4, seed: int = 7) -> Path:
        return shapes.folder(self.folder / name, each, seed)

    def usual(self, out: str = "shapes/1") -> list[object]:
        """The options that every export takes, on freshly drawn pictures."""
        root = self.folder / "shapes"
        if not root.is_dir():
            self.pictures()
        return ["--labels", f"{root}.labels.txt", "--samples", root, "--out", self.store / out]

    def succeeds(self, *words: object) -> str:
        done = run(*words)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def fails(self, code: int, reason: str, *words: object) -> None:
        """Ends with `code`, says `reason`, in one line without a traceback, and leaves nothing in the store."""
        before = self.content()
        done = run(*words)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        self.assertIn(reason, done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        self.assertEqual(self.content(), before)

    def content(self) -> list[Path]:
        return sorted(self.store.rglob("*")) if self.store.exists() else []


def classifier(
    path: Path,
    shape: Sequence[int | str],
    classes: int,
    element: int = TensorProto.FLOAT,
    last: str | None = None,
    seed: int = 1,
    gain: float = 4.0,
) -> None:
    """Writes a linear classifier of pictures of `shape` (the batch first) with random weights, sensitive to each pixel."""
    count = int(np.prod([extent for extent in shape[1:] if isinstance(extent, int)]))
    rng = np.random.default_rng(seed)
    weights = (gain * rng.standard_normal((count, classes)) / np.sqrt(count)).astype(np.float32)
    kind = helper.tensor_dtype_to_np_dtype(element)
    start = "input"
    nodes = []
    values = [numpy_helper.from_array(weights, "weights")]
    if element != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", ["input"], ["floats"], to=TensorProto.FLOAT))
        start = "floats"
        if np.dtype(kind).kind in "iu":
            values.append(numpy_helper.from_array(np.float32(1 / 128), "small"))
            nodes.append(helper.make_node("Mul", ["floats", "small"], ["scaled"]))
            start = "scaled"
    nodes.append(helper.make_node("Flatten", [start], ["flat"], axis=1))
    nodes.append(helper.make_node("MatMul", ["flat", "weights"], ["scores"]))
    if last:
        nodes.append(helper.make_node(last, ["scores"], ["answer"]))
    graph = helper.make_graph(
        nodes,
        "tests",
        [helper.make_tensor_value_info("input", element, shape)],
        [helper.make_tensor_value_info("answer" if last else "scores", TensorProto.FLOAT, [shape[0], classes])],
        values,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
