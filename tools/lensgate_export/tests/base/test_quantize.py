"""Quantising, comparing and checking a model that was really trained: `digits`, which the repository ships."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

from lensgate_export.tests.commands import DIGITS, InFolder, classifier, run

PAD = "0123456789abcdefg"


class Quantise(InFolder):
    def setUp(self) -> None:
        super().setUp()
        self.model = self.store / "digits"
        shutil.copytree(DIGITS, self.model)
        self.version = self.model / "2"
        self.calibration, self.samples = self.folder / "calibration", self.folder / "samples"
        # The test split that is shipped beside the model: a line is a label and 8x8 values of 0 to 16.
        for number, line in enumerate((DIGITS / "test-split.txt").read_text().split("\n")[:-1]):
            label, values = line.split(" ")
            digit = np.array([PAD.index(value) for value in values]).reshape(8, 8)
            pixels = np.kron(np.rint(digit * 255 / 16).astype(np.uint8), np.ones((8, 8), np.uint8))
            folder = (self.calibration if number % 2 else self.samples) / label
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{number}.png")

    def quantise(self, *more: object) -> list[object]:
        return [
            "quantize", self.version, "--calibration", self.calibration, "--samples", self.samples,
            "--out", self.model / "3", *more,
        ]  # fmt: skip

    def test_a_good_one_is_written_with_its_figures_and_golden_pictures(self) -> None:
        said = self.succeeds(*self.quantise("--limit", 225, "--max-accuracy-drop", 0.02))
        print(said)
        self.assertRegex(said, r"\| float +\| \d+\.\d+ +\| \d+\.\d+ +\| (9\d|100)\.\d\d%")
        self.assertRegex(said, r"\| int8 +\| \d+\.\d+ +\| \d+\.\d+ +\| (9\d|100)\.\d\d%")
        self.assertIn("same label on", said)
        made = self.model / "3"
        self.assertEqual(
            sorted(path.name for path in made.iterdir()), ["labels.txt", "model.onnx", "model.toml", "parity.json", "samples"]
        )
        self.assertEqual(sorted(path.name for path in (made / "samples").iterdir()), ["0_a.png", "4_a.png", "7_a.png"])
        kinds = {value.data_type for value in onnx.load(made / "model.onnx").graph.initializer}
        self.assertIn(onnx.TensorProto.INT8, kinds, "no weight is of 8 bits")
        self.assertLess((made / "model.onnx").stat().st_size, 0.5 * (self.version / "model.onnx").stat().st_size)

        with self.subTest("compare"):
            said = self.succeeds("compare", self.version, made, "--samples", self.samples, "--min-agreement", 0.9)
            self.assertIn(f"{made} to {self.version}", said)
            self.fails(1, "they agree on", "compare", self.model / "1", made, "--samples", self.samples, "--min-agreement", 1)
        with self.subTest("check"):
            said = self.succeeds("check", made, "--samples", self.samples)
            self.assertIn("onnxruntime, int8, then", said)
        with self.subTest("check sees a manifest that was changed"):
            manifest = made / "model.toml"
            manifest.write_text(manifest.read_text().replace('"bilinear"', '"nearest"'))
            self.fails(1, "onnxruntime, int8, then", "check", made, "--samples", self.samples)
        with self.subTest("a quantised one again"):
            classifier(self.model / "4" / "model.onnx", ["N", 1, 8, 8], 10, onnx.TensorProto.UINT8)
            self.fails(1, "quantised already", "quantize", self.model / "4", *self.quantise()[2:7], self.model / "5")

    def test_a_bad_one_is_refused_unless_forced(self) -> None:
        # Calibrated on darkness, every activation is cut off at what black pixels make.
        for path in self.calibration.rglob("*.png"):
            Image.new("L", (64, 64)).save(path)
        text = (self.model / "model.toml").read_text()
        (self.model / "model.toml").write_text(text[: text.index("[[golden]]")])
        self.fails(1, "not written: it agrees with the float version on", *self.quantise())
        self.assertFalse((self.model / "3").exists())
        said = self.succeeds(*self.quantise("--force"))
        self.assertIn("written by --force, although it agrees", said)
        self.assertTrue((self.model / "3" / "model.onnx").is_file())
        self.fails(1, "never overwritten", *self.quantise("--force"))

    def test_no_force_writes_one_whose_golden_pictures_fail(self) -> None:
        for path in self.calibration.rglob("*.png"):
            Image.new("L", (64, 64)).save(path)
        self.fails(1, "the gateway would not serve the version", *self.quantise("--force"))

    def test_layers_can_stay_floats(self) -> None:
        self.fails(1, "the types are", *self.quantise("--exclude", "Nothing"))
        self.succeeds(*self.quantise("--exclude", "Gemm", "--no-parity"))
        weights = {value.name: value for value in onnx.load(self.model / "3" / "model.onnx").graph.initializer}
        self.assertEqual(weights["w4"].data_type, onnx.TensorProto.FLOAT, "w4")
        self.assertTrue("c1" not in weights, "the convolutions are to be quantised")

    def test_samples_that_calibrated_are_told(self) -> None:
        done = run(*self.quantise("--samples", self.calibration))
        self.assertIn("of the samples are in the calibration set too", done.stdout)

    def test_what_is_no_version(self) -> None:
        self.fails(1, "has no model.onnx", "compare", self.folder, self.version, "--samples", self.samples)
        self.fails(1, "has no model.onnx", "check", self.folder / "none", "--samples", self.samples)
        (self.version / "model.onnx").write_bytes(b"")
        self.fails(1, "model.onnx", *self.quantise())

    def test_a_record_that_is_broken_is_no_record(self) -> None:
        (self.version / "parity.json").write_text(json.dumps({"pictures": [{"sha256": "x"}]}))
        self.fails(1, "parity.json cannot be read", "check", self.version, "--samples", self.samples)

    def test_without_a_record_the_gateway_is_held_against_onnxruntime_alone(self) -> None:
        said = self.succeeds("check", self.version, "--samples", self.samples, "--limit", 20)
        self.assertIn("not held against the framework", said)
        self.assertEqual(len([line for line in said.splitlines() if "| ok" in line]), 1)


class Places(InFolder):
    def test_golden_pictures_outside_the_version_are_not_followed(self) -> None:
        version = self.store / "m" / "1"
        classifier(version / "model.onnx", ["N", 3, 8, 8], 4, last="Softmax")
        root = self.pictures()
        (version / "labels.txt").write_bytes(Path(f"{root}.labels.txt").read_bytes())
        (self.folder / "secret.png").write_bytes((root / "circle" / "0.png").read_bytes())
        (version / "model.toml").write_text('[[golden]]\nimage = "../../../secret.png"\nlabel = "circle"\n')
        self.fails(
            1, "outside the version's folder", "quantize", version, "--calibration", root, "--samples", root,
            "--out", self.store / "m" / "2", "--no-parity",
        )  # fmt: skip
