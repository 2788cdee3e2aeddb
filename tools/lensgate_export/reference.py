"""A version's answers without the gateway: Pillow, numpy and onnxruntime, one picture at a time on one thread."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from lensgate_export import graph, manifest, picture
from lensgate_export.failures import Failure

# The warm-up's scores count as confidences where they sum to 1 within this, as in the gateway.
_SUM = 0.02


def activated(scores: np.ndarray, activation: str) -> np.ndarray:
    """Scores [N, C] as confidences [N, C]."""
    scores = scores.astype(np.float64)
    if activation == "softmax":
        exp = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return exp / exp.sum(axis=-1, keepdims=True)
    if activation == "sigmoid":
        return 1 / (1 + np.exp(-scores))
    return scores


def demand_version(folder: Path) -> None:
    """A `Failure` where the folder has no graph."""
    if not (folder / "model.onnx").is_file():
        raise Failure(f"{folder} is no version: it has no model.onnx")


def sums_8_bit_exactly() -> bool:
    """Whether this processor adds products of 8 bits without a loss: x86 with VNNI, and all others."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return any(flag in flags.split() for flag in ("avx512_vnni", "avx_vnni"))



class Runner:
    """One version's graph in onnxruntime, fed as its manifest says."""

    def __init__(self, version: Path) -> None:
        path = version / "model.onnx"
        demand_version(version)
        self.table = manifest.read(version)
        self.graph = graph.facts(path)
        self.preprocessing = manifest.preprocessing(self.table, self.graph)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4  # what fails is raised
        # As the gateway opens it: without VNNI, sums of 8-bit products would overflow.
        if not sums_8_bit_exactly():
            options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a class of its own for each status
            raise Failure(f"onnxruntime cannot execute {path}: {error}") from error
        keys = self.table.get("output", {})
        self._scale = keys.get("scale", self.graph.output_scale)
        self._zero = keys.get("zero_point", self.graph.output_zero_point) or 0
        self._activation: str | None = keys.get("activation")

    def tensors(self, pictures: Sequence[Path]) -> list[np.ndarray]:
        """Each picture as a tensor with a batch of 1."""
        return [picture.tensor(path, self.preprocessing) for path in pictures]

    def scores(self, tensor: np.ndarray) -> np.ndarray:
        """The output [C] for one tensor, dequantised."""
        raw = self._session.run([self.graph.output_name], {self.graph.input_name: tensor})[0]
        if raw.dtype.kind in "iu" and self._scale is not None:
            return (raw.astype(np.float64).reshape(-1) - self._zero) * self._scale
        return raw.astype(np.float64).reshape(-1)

    def confidences(self, pictures: Sequence[Path]) -> np.ndarray:
        """Confidences [N, C] for the pictures."""
        scores = np.stack([self.scores(tensor) for tensor in self.tensors(pictures)])
        if self._activation is None:
            sums = abs(scores.sum(axis=-1) - 1).max() <= _SUM
            self._activation = "none" if self.graph.ends_in or sums else "softmax"
        return activated(scores, self._activation)

    def takes_batches(self, pictures: Sequence[Path]) -> bool:
        """Whether two pictures in one run get what each gets alone. A graph whose batch is open may reshape to 1 inside."""
        if self.graph.input_shape[0] is not None:
            return False
        one, two = self.tensors([pictures[0], pictures[-1]])
        try:
            both = self._session.run([self.graph.output_name], {self.graph.input_name: np.concatenate([one, two])})[0]
        except Exception:  # whatever it says: it takes one
            return False
        alone = [self._session.run([self.graph.output_name], {self.graph.input_name: each})[0] for each in (one, two)]
        step = 1.0 if both.dtype.kind in "iu" else 1e-3
        together, apart = both.astype(np.float64), np.concatenate(alone).astype(np.float64)
        return together.shape == apart.shape and bool(np.allclose(together, apart, rtol=1e-3, atol=step))

    def milliseconds(self, pictures: Sequence[Path], runs: int = 30) -> float:
        """The median time of one run on one thread; the pictures are fed by turns, and made into tensors beforehand."""
        tensors = self.tensors(pictures[:8])
        feeds = [{self.graph.input_name: tensor} for tensor in tensors]
        for feed in feeds[:3]:
            self._session.run(None, feed)
        times = []
        for run in range(runs):
            start = time.perf_counter()
            self._session.run(None, feeds[run % len(feeds)])
            times.append((time.perf_counter() - start) * 1000)
        return statistics.median(times)
