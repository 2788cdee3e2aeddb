"""From what an importer exported to a version's folder: files, golden pictures, the gateway's own checks and parity."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lensgate_export import golden, graph, manifest, parity, version
from lensgate_export.failures import Failure
from lensgate_export.gateway import Gateway
from lensgate_export.manifest import Table
from lensgate_export.reference import Runner
from lensgate_export.samples import Sample, found

Answers = Callable[[Sequence[Path]], np.ndarray]


@dataclass(frozen=True)
class Exported:
    """What an importer hands over.

    `answers` gives the framework's own confidences [N, C] for pictures, through its own preprocessing. `told` are
    other ways to prepare a picture, by name, whose difference is shown and never a reason to fail. `quantised_step`
    is the step of a quantised output, and `roundings` what roundings between layers may make of a confidence; both are
    0 for floats.
    """

    framework: str
    table: Table
    answers: Answers
    told: dict[str, Answers] = field(default_factory=dict)
    quantised_step: float = 0.0
    roundings: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What was asked for, checked before anything slow begins."""

    place: Path
    labels: list[str]
    labels_file: Path
    samples: list[Sample]
    gateway: Gateway | None

    @classmethod
    def of(cls, args: argparse.Namespace) -> Plan:
        place = version.place(args.out)
        labels = manifest.labels_of(args.labels)
        if args.classes is not None and args.classes != len(labels):
            raise Failure(f"--classes is {args.classes}, and {args.labels} has {len(labels)} labels")
        samples = found(args.samples, labels, args.limit)
        turned = [sample for sample in samples if not sample.upright]
        for sample in turned:
            print(f"left out: {sample.path} is turned by its EXIF, which the gateway obeys and frameworks' loaders do not")
        samples = [sample for sample in samples if sample.upright]
        if not samples:
            raise Failure(f"{args.samples} has no picture that every loader reads the same way")
        return cls(place, labels, args.labels, samples, None if args.no_parity else Gateway.found(args.gateway))

    @property
    def pictures(self) -> list[Path]:
        return [sample.path for sample in self.samples]


def ship(plan: Plan, args: argparse.Namespace, export: Callable[[Path], Exported]) -> None:
    """Calls `export` with the path to write the graph to, and puts the version in place where everything holds."""
    with version.staged(plan.place) as folder:
        exported = export(folder / "model.onnx")
        graph.tidy(folder / "model.onnx")
        facts = graph.facts(folder / "model.onnx")
        if facts.classes is not None and facts.classes != len(plan.labels):
            raise Failure(f"the model has {facts.classes} outputs, and {plan.labels_file} has {len(plan.labels)} labels")
        answers = exported.answers(plan.pictures)
        if answers.shape[1] != len(plan.labels):
            raise Failure(f"the model has {answers.shape[1]} outputs, and {plan.labels_file} has {len(plan.labels)} labels")
        shutil.copyfile(plan.labels_file, folder / "labels.txt")
        # What random weights get right, they get right by chance.
        count = 0 if getattr(args, "weights", None) == "none" else args.golden
        pictures = golden.chosen(plan.samples, answers, plan.labels, count, args.golden_min_confidence)
        # Always written, also when empty: the pictures of the model's manifest were chosen for another version. Not yet
        # here, for where the answers are wrong, the table says more than the picture that shows it.
        table: Table = {"labels": "labels.txt", **exported.table, "golden": []}
        (folder / "model.toml").write_text(manifest.written(table), encoding="utf-8")
        if facts.input_shape[0] is None and not Runner(folder).takes_batches(plan.pictures):
            print("the graph takes one picture at a time, though its batch is open: it is written with a batch of 1")
            graph.fix_batch(folder / "model.onnx")
        judged = compared(plan, args, folder, exported, answers)
        print(parity.shown(judged))
        parity.demand(judged, plan.pictures, answers)
        table["golden"] = golden.kept(folder, pictures)
        (folder / "model.toml").write_text(manifest.written(table), encoding="utf-8")
        if plan.gateway is not None:
            plan.gateway.check(folder, plan.place)
        parity.remember(folder, exported.framework, plan.samples, answers, judged)
        size = (folder / "model.onnx").stat().st_size
    print(f"{plan.place}: {size / 1e6:.2f} MB, {len(plan.labels)} classes, {len(pictures)} golden pictures")
    if args.golden and count == 0:
        print("no golden pictures: the weights are random")
    elif args.golden and not pictures:
        print(
            "no golden pictures: no sample whose true label is known (a folder a label, or LABEL_….png) comes out right "
            f"with a confidence of {args.golden_min_confidence:g}"
        )
    if plan.gateway is None:
        print("NOT COMPARED with the gateway (--no-parity): nobody has shown that it answers what the framework does")


def compared(
    plan: Plan, args: argparse.Namespace, folder: Path, exported: Exported, answers: np.ndarray
) -> list[parity.Parity]:
    """The exported graph under onnxruntime and the gateway, each against the framework."""
    tolerance = max(args.tolerance, 1.001 * exported.quantised_step, exported.roundings)
    # The folder lies beside its place, so that it is read with the same manifest of its model.
    own = Runner(folder).confidences(plan.pictures)
    judged = [parity.Parity("onnxruntime", exported.framework, own, answers, tolerance)]
    if plan.gateway is not None:
        got = plan.gateway.answers(folder, plan.place, plan.pictures, len(plan.labels))
        rows, step = got.confidences, exported.quantised_step
        judged.append(parity.Parity(got.by, "onnxruntime", rows, own, parity.allowed_of_gateway(step)))
        judged.append(parity.Parity(got.by, exported.framework, rows, answers, tolerance))
        for way, other in exported.told.items():
            judged.append(parity.Parity(got.by, way, rows, other(plan.pictures), None))
    return judged
