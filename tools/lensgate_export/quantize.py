"""A float version to int8, by a calibration set, and what it costs in accuracy before anybody ships it.

Called by `cli`. Activations become unsigned and weights signed, one scale a channel: what x86 multiplies fastest, and
the form (QDQ) that both the gateway's backends read.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from lensgate_export import comparison, graph, manifest, parity, version
from lensgate_export.failures import Failure
from lensgate_export.gateway import Gateway
from lensgate_export.manifest import Table
from lensgate_export.reference import Runner
from lensgate_export.samples import found

_METHODS = {
    "minmax": quantization.CalibrationMethod.MinMax,
    "entropy": quantization.CalibrationMethod.Entropy,
    "percentile": quantization.CalibrationMethod.Percentile,
}
METHODS = tuple(_METHODS)


class _Pictures(quantization.CalibrationDataReader):  # type: ignore[misc]
    """The calibration pictures as tensors, one at a time: a set of thousands must not lie in memory."""

    def __init__(self, runner: Runner, pictures: Sequence[Path]) -> None:
        self._runner, self._pictures = runner, pictures
        self._next: Iterator[Path] = iter(pictures)

    def get_next(self) -> dict[str, np.ndarray] | None:
        path = next(self._next, None)
        return None if path is None else {self._runner.graph.input_name: self._runner.tensors([path])[0]}

    def rewind(self) -> None:
        self._next = iter(self._pictures)


def quantize(args: argparse.Namespace) -> None:
    """Writes `args.out` from `args.version`, where what it answers is near enough to what that answers."""
    place = version.place(args.out)
    source = Runner(args.version)
    if source.graph.input_type.kind != "f":
        raise Failure(f"{args.version} takes integers: it is quantised already")
    labels = manifest.read_labels(args.version, source.table)
    if labels is None:
        raise Failure(f"{args.version} has no labels")
    seen = found(args.calibration, labels, args.calibration_limit)
    calibration = [sample.path for sample in seen]
    samples = found(args.samples, labels, args.limit)
    both = {sample.digest for sample in samples} & {sample.digest for sample in seen}
    if both:
        print(f"{len(both)} of the samples are in the calibration set too: the accuracy below flatters the int8 version")
    gateway = None if args.no_parity else Gateway.found(args.gateway)
    with version.staged(place) as folder:
        _write(args, source, calibration, folder / "model.onnx")
        table = _accompany(args.version, source.table, labels, folder)
        pair = comparison.compared(args.version, folder, samples, labels, names=("float", "int8"))
        print(pair.shown())
        if pair.milliseconds[1] >= pair.milliseconds[0]:
            print("int8 is not faster here, opened as the gateway opens it: it saves size alone (docs/models.md, To int8)")
        _demand(args, pair)
        own = pair.answers[1]
        judged = []
        if gateway is not None:
            got = gateway.answers(folder, place, [sample.path for sample in samples], len(labels))
            judged = [parity.Parity(got.by, "onnxruntime", got.confidences, own, parity.allowed_of_gateway(0.0))]
            print(parity.shown(judged))
            parity.demand(judged, [sample.path for sample in samples], own)
        (folder / "model.toml").write_text(manifest.written(table), encoding="utf-8")
        if gateway is not None:
            gateway.check(folder, place)
        parity.remember(folder, "onnxruntime, int8", samples, own, judged)
    print(f"{place}: written")


def _demand(args: argparse.Namespace, pair: comparison.Pair) -> None:
    problems = []
    if pair.agreement < args.min_agreement:
        problems.append(f"it agrees with the float version on {pair.agreement:.2%} of the samples, less than {args.min_agreement:.2%}")
    if pair.accuracies is not None and args.max_accuracy_drop is not None:
        drop = pair.accuracies[0] - pair.accuracies[1]
        if drop > args.max_accuracy_drop:
            problems.append(f"its accuracy is {drop:.2%} lower, more than {args.max_accuracy_drop:.2%}")
    if problems and not args.force:
        raise Failure(
            f"not written: {'; '.join(problems)}. More calibration pictures, --method entropy or percentile, or leaving "
            "layers out (--exclude) may help; --force writes it all the same"
        )
    if problems:
        print(f"written by --force, although {'; '.join(problems)}")


def _write(args: argparse.Namespace, source: Runner, calibration: Sequence[Path], target: Path) -> None:
    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="lensgate-quantize-") as work:
        prepared = Path(work) / "prepared.onnx"
        try:
            # Symbolic shapes are for transformers of text; a picture's sizes are known.
            quant_pre_process(str(args.version / "model.onnx"), str(prepared), skip_symbolic_shape=True)
            _name_nodes(prepared)
            excluded = _excluded(prepared, args.exclude)
            quantization.quantize_static(
                str(prepared), str(target), _Pictures(source, calibration),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=_METHODS[args.method],
                nodes_to_exclude=excluded,
            )  # fmt: skip
        except Failure:
            raise
        except Exception as error:  # onnxruntime raises what it likes
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise Failure(f"onnxruntime cannot quantise {args.version}: {first}") from error
    graph.tidy(target)


def _name_nodes(path: Path) -> None:
    """Names the nameless: the quantiser tells nodes apart by name, and would leave out all of them with one."""
    model = onnx.load(path)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    path.write_bytes(model.SerializeToString())


def _excluded(path: Path, wanted: Sequence[str]) -> list[str]:
    """The names of nodes that stay floats: those named, and those of a type that is named (`Softmax`)."""
    nodes = onnx.load(path, load_external_data=False).graph.node
    names = []
    for word in wanted:
        fitting = [node.name for node in nodes if word in (node.name, node.op_type)]
        if not fitting:
            kinds = sorted({node.op_type for node in nodes})
            raise Failure(f"--exclude {word}: no node has that name or type; the types are {', '.join(kinds)}")
        names += fitting
    return names


def _accompany(source: Path, table: Table, labels: Sequence[str], folder: Path) -> Table:
    """Labels, manifest and golden pictures of the float version: the int8 one must get the same ones right.

    What is written here has no golden pictures yet, so that figures come before a verdict; the answer is the whole.
    """
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    kept: Table = {key: value for key, value in table.items() if key in ("input", "output", "golden")}
    for entry in kept.get("golden", []):
        origin = next((base / entry["image"] for base in (source, source.parent) if (base / entry["image"]).is_file()), None)
        if origin is None:
            raise Failure(f"{source}: the golden picture {entry['image']} is not there")
        target = folder / entry["image"]
        if not target.resolve().is_relative_to(folder.resolve()):
            raise Failure(f"{source}: the golden picture {entry['image']} is outside the version's folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(origin, target)
    whole: dict[str, Any] = {"labels": "labels.txt", **kept}
    if "serving" in table:
        whole["serving"] = {key: value for key, value in table["serving"].items() if key != "versions"}
    (folder / "model.toml").write_text(manifest.written({**whole, "golden": []}), encoding="utf-8")
    return {"golden": [], **whole}
