"""A version that is there, held against what its framework answered when it was made, and against onnxruntime now.

Called by `cli`; needs no framework. To be run after an upgrade of the gateway or a change of the manifest.
"""

from __future__ import annotations

import argparse

import numpy as np

from lensgate_export import manifest, parity
from lensgate_export.failures import Failure
from lensgate_export.gateway import Gateway
from lensgate_export.reference import Runner
from lensgate_export.samples import found


def check(args: argparse.Namespace) -> None:
    """Prints the table; a `Failure` where the gateway is too far from either."""
    place = args.version.absolute()
    runner = Runner(place)
    labels = manifest.read_labels(place, runner.table)
    gateway = Gateway.found(args.gateway)
    classes = len(labels) if labels is not None else runner.graph.classes
    if classes is None:
        raise Failure(f"{args.version} has no labels, and its graph does not say how many classes there are")
    samples = found(args.samples, labels or [str(index) for index in range(classes)], args.limit)
    pictures = [sample.path for sample in samples]
    own = runner.confidences(pictures)
    got = gateway.answers(place, place, pictures, classes)
    step = float(runner.table.get("output", {}).get("scale", runner.graph.output_scale or 0.0))
    quantised = runner.graph.output_type.kind in "iu"
    allowed = parity.allowed_of_gateway(step if quantised else 0.0)
    judged = [parity.Parity(got.by, "onnxruntime", got.confidences, own, allowed)]
    known = parity.remembered(place)
    rows = []
    if known is not None:
        rows = [row for row, sample in enumerate(samples) if sample.digest in known[1]]
        if rows:
            wanted = np.stack([known[1][samples[row].digest] for row in rows])
            judged.append(parity.Parity(got.by, f"{known[0]}, then", got.confidences[rows], wanted, args.tolerance))
    print(parity.shown(judged))
    if not rows:
        print("not held against the framework: none of the samples is in the version's parity.json")
    for one in judged:
        parity.demand([one], pictures if len(one.got) == len(pictures) else [pictures[row] for row in rows], own)
    gateway.check(place, place)
    print(f"{args.version}: holds")
