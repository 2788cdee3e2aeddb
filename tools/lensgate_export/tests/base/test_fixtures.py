"""Real models and photographs, where LENSGATE_FIXTURES names them."""

from __future__ import annotations

import json
import os
import shutil
import unittest
from pathlib import Path

import numpy as np

from lensgate_export import manifest, parity
from lensgate_export.gateway import Gateway
from lensgate_export.reference import Runner
from lensgate_export.tests.commands import InFolder

FIXTURES = os.environ.get("LENSGATE_FIXTURES")
MODELS = ("squeezenet1.1", "squeezenet1.1-int8", "mobilenetv2", "mobilenetv1-025-uint8", "cifar10-resnet8")
FORMATS = {".jpg", ".jpeg", ".png"}


@unittest.skipUnless(FIXTURES, "fixtures: NOT RUN (set LENSGATE_FIXTURES)")
class Fixtures(InFolder):
    def version(self, name: str) -> Path:
        """The fixture as a version, its `preprocess.json` as a manifest."""
        source = Path(FIXTURES or "") / "models" / name
        version = self.store / name / "1"
        version.mkdir(parents=True)
        shutil.copyfile(source / "model.onnx", version / "model.onnx")
        shutil.copyfile(source / "labels.txt", version / "labels.txt")
        told = json.loads((source / "preprocess.json").read_text())
        keys = {"color": told["color"].lower(), "resize_to": told["resize"]["to"], "scale": told["scale"]}
        keys |= {key: told[key] for key in ("mean", "std") if key in told}
        output = {"activation": "softmax" if told["output"]["kind"] == "logits" else "none"}
        (version / "model.toml").write_text(manifest.written({"input": keys, "output": output}))
        return version

    def photographs(self) -> list[Path]:
        return sorted(path for path in (Path(FIXTURES or "") / "images").iterdir() if path.suffix.lower() in FORMATS)

    def test_real_models_answer_as_the_reference_and_the_gateway_do(self) -> None:
        pictures = self.photographs()
        self.assertGreater(len(pictures), 5)
        gateway = Gateway.found(None)
        judged = []
        for name in MODELS:
            with self.subTest(name):
                version = self.version(name)
                runner = Runner(version)
                own = runner.confidences(pictures)
                got = gateway.answers(version, version, pictures, own.shape[1]).confidences
                step = runner.graph.output_scale or 0.0
                judged.append(parity.Parity(gateway.name(), f"onnxruntime, {name}", got, own, parity.allowed_of_gateway(step)))
                self.assertTrue(judged[-1].holds, judged[-1].row())
                expected = json.loads((Path(FIXTURES or "") / "expected" / f"{name}.json").read_text())
                self.assertEqual(self.differing(own, pictures, expected), [])
        print(parity.shown(judged))

    def differing(self, own: np.ndarray, pictures: list[Path], expected: object) -> list[str]:
        """The photographs whose first class is not the reference's, of those that the reference has."""
        entries = expected["images"] if isinstance(expected, dict) and "images" in expected else expected
        first = {}
        for name, entry in entries.items() if isinstance(entries, dict) else ((e["image"], e) for e in entries):
            first[Path(name).name] = entry["top5"][0]["index"]
        known = [(row, path.name) for row, path in enumerate(pictures) if path.name in first]
        self.assertGreater(len(known), 5, "the reference has none of the photographs")
        return [name for row, name in known if int(own[row].argmax()) != first[name]]

    def test_a_real_model_to_int8(self) -> None:
        version = self.version("mobilenetv2")
        photographs = self.folder / "photographs"
        photographs.mkdir()
        for path in self.photographs():
            shutil.copyfile(path, photographs / path.name)
        said = self.succeeds(
            "quantize", version, "--calibration", photographs, "--samples", photographs,
            "--out", version.parent / "2", "--min-agreement", 0.6,
        )  # fmt: skip
        print(said)
        small = (version.parent / "2" / "model.onnx").stat().st_size
        self.assertLess(small, 0.35 * (version / "model.onnx").stat().st_size)
