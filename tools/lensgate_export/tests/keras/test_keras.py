"""Keras, SavedModels and TFLite: each way in on tiny models, and what they must refuse."""

from __future__ import annotations

import argparse
import json
import tempfile
import tomllib
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
from PIL import Image

from lensgate_export import from_keras, manifest, picture, pixels, ship, tensorflow_graph
from lensgate_export.failures import Failure
from lensgate_export.recipes import shapes
from lensgate_export.tests.commands import InFolder, run

SIDE = 48


def kinds(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def trained(keras: Any) -> Any:
    """A small classifier of shapes, with its own rescaling inside and hard-swishes as MobileNetV3 has."""
    keras.utils.set_random_seed(2)
    x, y = shapes.arrays(60, 3, SIDE)
    start = keras.Input((SIDE, SIDE, 3))
    hidden = keras.layers.Rescaling(1 / 127.5, offset=-1)(start)
    for width in (8, 16, 32):
        hidden = keras.layers.Conv2D(width, 3, padding="same", use_bias=False)(hidden)
        hidden = keras.layers.BatchNormalization(momentum=0.8)(hidden)
        hidden = keras.layers.Activation("hard_swish")(hidden)
        hidden = keras.layers.MaxPooling2D()(hidden)
    hidden = keras.layers.GlobalAveragePooling2D()(hidden)
    model = keras.Model(start, keras.layers.Dense(len(shapes.LABELS), activation="softmax")(hidden))
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    model.fit(x.astype("float32"), y, epochs=25, batch_size=32, verbose=0)
    return model


class Files(InFolder):
    """One trained model in every form, made once."""

    made: Path

    @classmethod
    def setUpClass(cls) -> None:
        held = tempfile.TemporaryDirectory(prefix="lensgate-tests-")
        cls.addClassCleanup(held.cleanup)
        cls.made = Path(held.name)
        tensorflow, keras = tensorflow_graph.load(), from_keras.load()
        model = trained(keras)
        model.save(cls.made / "tiny.keras")
        with tensorflow_graph.silent():
            model.export(cls.made / "saved", verbose=False)
        calibration, _ = shapes.arrays(16, 3, SIDE)
        for name, kind in (("float", None), ("uint8", tensorflow.uint8), ("int8", tensorflow.int8)):
            converter = tensorflow.lite.TFLiteConverter.from_saved_model(str(cls.made / "saved"))
            if kind is not None:
                converter.optimizations = [tensorflow.lite.Optimize.DEFAULT]
                converter.representative_dataset = lambda: ([row[None].astype("float32")] for row in calibration)
                converter.target_spec.supported_ops = [tensorflow.lite.OpsSet.TFLITE_BUILTINS_INT8]
                converter.inference_input_type = converter.inference_output_type = kind
            with tensorflow_graph.silent():
                (cls.made / f"{name}.tflite").write_bytes(converter.convert())

    def manifest(self, version: str = "shapes/1") -> Any:
        return tomllib.loads((self.store / version / "model.toml").read_text())

    def test_a_trained_model_becomes_a_whole_version(self) -> None:
        said = self.succeeds("keras", "--weights", self.made / "tiny.keras", "--mode", "raw", "--classes", 4, *self.usual())
        print(said)
        version = self.store / "shapes" / "1"
        self.assertEqual(
            sorted(path.name for path in version.iterdir()), ["golden", "labels.txt", "model.onnx", "model.toml", "parity.json"]
        )
        found = self.manifest()
        self.assertEqual(found["input"], {"preset": "keras-raw"})
        self.assertEqual(found["output"], {"activation": "none"})
        self.assertEqual(len(found["golden"]), 3)
        self.assertEqual(len({entry["label"] for entry in found["golden"]}), 3, "each of another class")
        self.assertLessEqual(kinds(version / "model.onnx").count("Transpose"), 1, "the optimiser gave up")
        record = json.loads((version / "parity.json").read_text())
        self.assertEqual(len(record["pictures"]), 16)
        answers = np.array([picture["confidences"] for picture in record["pictures"]])
        self.assertGreaterEqual((answers.argmax(1) == np.repeat([0, 3, 1, 2], 4)).mean(), 0.9, "it was trained")
        self.assertIn("holds", self.succeeds("check", version, "--samples", self.folder / "shapes"))
        self.fails(1, "never overwritten", "keras", "--weights", self.made / "tiny.keras", "--mode", "raw", *self.usual())

    def test_a_manifest_that_says_otherwise_than_the_training_is_found_out(self) -> None:
        """What parity is for: had the preset been another, no version would have been written."""
        args = argparse.Namespace(
            out=self.store / "shapes" / "1", labels=None, samples=None, classes=None, limit=200, gateway=None,
            no_parity=False, golden=3, golden_min_confidence=0.5, tolerance=0.002, seed=1, architecture=None,
            weights=str(self.made / "tiny.keras"), mode="raw", interpolation="nearest", trained_on="load-img",
            activation=None, dropout=0.2, size=None,
        )  # fmt: skip
        args.samples = self.pictures()
        args.labels = Path(f"{args.samples}.labels.txt")
        plan = ship.Plan.of(args)
        for wrong in ({"preset": "keras-tf"}, {"preset": "keras-raw", "filter": "bilinear"}, {"preset": "keras-raw", "color": "bgr"}):
            with self.subTest(wrong), mock.patch.dict(from_keras._TABLES, {"raw": wrong}):
                with self.assertRaisesRegex(Failure, "differs from keras"):
                    ship.ship(plan, args, lambda onnx: from_keras.export(plan, args, onnx))
            self.assertEqual(self.content(), [])

    def test_training_by_image_dataset_tells_what_the_resizers_differ_by(self) -> None:
        said = self.succeeds(
            "keras", "--weights", self.made / "tiny.keras", "--mode", "raw", "--trained-on", "image-dataset", *self.usual()
        )
        self.assertRegex(said, r"image_dataset_from_directory's resizer .* told only")
        self.assertEqual(self.manifest()["input"], {"preset": "keras-raw", "filter": "bilinear"})

    def test_labels_and_outputs_must_agree(self) -> None:
        usual = self.usual()
        labels = Path(f"{self.folder / 'shapes'}.labels.txt")
        labels.write_text(labels.read_text() + "star\n")
        self.fails(1, "has 4 outputs, and there are 5 labels", "keras", "--weights", self.made / "tiny.keras", "--mode", "raw", *usual)
        self.fails(1, "5 labels", "savedmodel", "--model", self.made / "saved", "--preset", "keras-raw", *usual)
        self.fails(1, "5 labels", "tflite", "--model", self.made / "int8.tflite", "--preset", "keras-raw", *usual)

    def test_an_unreadable_sample_is_named(self) -> None:
        usual = self.usual()
        (self.folder / "shapes" / "cross" / "1.png").write_bytes(b"\x89PNG\r\n")
        self.fails(1, "cross/1.png cannot be read", "keras", "--weights", self.made / "tiny.keras", "--mode", "raw", *usual)

    def test_weights_that_are_none(self) -> None:
        usual = self.usual()
        broken = self.folder / "broken.keras"
        broken.write_bytes(b"PK\x03\x04nothing")
        self.fails(1, "cannot be loaded", "keras", "--weights", broken, "--mode", "raw", *usual)
        self.fails(1, "are not there", "keras", "--weights", self.folder / "no.keras", "--mode", "raw", *usual)
        self.fails(2, "--mode", "keras", "--weights", self.made / "tiny.keras", *usual)
        other = self.folder / "other.weights.h5"
        other.write_bytes(b"\x89HDF\r\n\x1a\n")
        words = ["keras", "--architecture", "mobilenetv3-small", "--size", 64, 64, "--weights", other]
        self.fails(1, "does not fit mobilenetv3-small", *words, *usual)
        words = ["keras", "--architecture", "mobilenetv3-small", "--size", 8, 8, "--weights", "none"]
        self.fails(1, "cannot be built at 8x8", *words, *usual)

    def test_a_savedmodel(self) -> None:
        words = ["savedmodel", "--model", self.made / "saved"]
        usual = self.usual()
        self.fails(2, "does not say how pixels", *words, *usual)
        self.fails(2, "--signature is one of serve", *words, "--signature", "x", "--preset", "keras-raw", *usual)
        self.fails(2, "no output x", *words, "--output", "x", "--preset", "keras-raw", *usual)
        self.fails(2, "fixed at 48 48", *words, "--size", 32, 32, "--preset", "keras-raw", *usual)
        print(self.succeeds(*words, "--preset", "keras-raw", *usual))
        self.assertEqual(len(self.manifest()["golden"]), 3)
        self.assertLessEqual(kinds(self.store / "shapes" / "1" / "model.onnx").count("Transpose"), 1)

    def test_a_savedmodel_that_takes_bytes_of_any_size(self) -> None:
        tensorflow = tensorflow_graph.load()
        kernel = np.random.default_rng(4).standard_normal((16 * 20 * 3, 4)).astype(np.float32) / 20

        class Module(tensorflow.Module):  # type: ignore[misc, name-defined]
            @tensorflow.function(input_signature=[tensorflow.TensorSpec((None, None, None, 3), tensorflow.uint8)])
            def serve(self, x: Any) -> Any:
                flat = tensorflow.reshape(tensorflow.cast(x, tensorflow.float32) / 255.0, (-1, 16 * 20 * 3))
                return {"logits": tensorflow.matmul(flat, kernel)}

        module = Module()
        tensorflow.saved_model.save(module, str(self.folder / "bytes"), signatures={"serving_default": module.serve})
        words = ["savedmodel", "--model", self.folder / "bytes", "--preset", "keras-raw", "--filter", "bilinear"]
        usual = self.usual()
        self.fails(2, "--size says", *words, *usual)
        said = self.succeeds(*words, "--size", 16, 20, *usual)
        self.assertEqual((said.count("| ok"), said.count("(ort)")), (3, 2))
        self.assertEqual(self.manifest()["output"], {"activation": "softmax"})
        start = onnx.load(self.store / "shapes" / "1" / "model.onnx").graph.input[0].type.tensor_type
        self.assertEqual(start.elem_type, onnx.TensorProto.UINT8)
        self.assertEqual([dim.dim_value for dim in start.shape.dim], [0, 16, 20, 3])

    def test_savedmodels_that_cannot_be_served(self) -> None:
        tensorflow = tensorflow_graph.load()
        usual = [*self.usual(), "--preset", "keras-raw"]

        class Module(tensorflow.Module):  # type: ignore[misc, name-defined]
            @tensorflow.function(input_signature=[tensorflow.TensorSpec((None, 8, 8, 3))])
            def named(self, x: Any) -> Any:
                return {"a": tensorflow.reduce_mean(x, (1, 2)), "b": tensorflow.reduce_max(x, (1, 2))}

            @tensorflow.function(input_signature=[tensorflow.TensorSpec((None, 8, 8, 3))])
            def foreign(self, x: Any) -> Any:
                features = tensorflow.reshape(x, (-1, 192))[:, :4]
                return {"a": tensorflow.raw_ops.Betainc(a=features + 1.0, b=features + 2.0, x=features / 256.0)}

            @tensorflow.function(input_signature=[tensorflow.TensorSpec((None, 192))])
            def flat(self, x: Any) -> Any:
                return {"a": x[:, :4]}

        module = Module()
        cases = (
            ({}, 1, "has no signature"),
            ({"serving_default": module.named}, 2, "--output is one of a, b"),
            ({"serving_default": module.foreign}, 1, "Betainc"),
            ({"serving_default": module.flat}, 1, "four axes"),
        )
        for number, (signatures, code, reason) in enumerate(cases):
            with self.subTest(reason):
                folder = self.folder / f"saved{number}"
                tensorflow.saved_model.save(module, str(folder), signatures=signatures)
                self.fails(code, reason, "savedmodel", "--model", folder, *usual)
        self.fails(1, "no SavedModel", "savedmodel", "--model", self.folder, *usual)
        (self.folder / "saved_model.pb").write_bytes(b"garbage")
        self.fails(1, "cannot be loaded", "savedmodel", "--model", self.folder, *usual)

    def test_tflite_of_floats_and_of_integers(self) -> None:
        for number, (name, keys) in enumerate(
            (
                ("float", {"preset": "keras-raw"}),
                ("uint8", {"preset": "keras-raw", "scale": 1.0, "mean": 0.0, "std": 1.0}),
                ("int8", {"preset": "keras-raw", "scale": 1.0, "mean": 128.0, "std": 1.0}),
            ),
            1,
        ):
            with self.subTest(name):
                words = ["tflite", "--model", self.made / f"{name}.tflite", "--preset", "keras-raw"]
                said = self.succeeds(*words, *self.usual(f"shapes/{number}"))
                print(said)
                self.assertIn("(ort)", said, "the gateway cannot open it with ONNX Runtime")
                found = self.manifest(f"shapes/{number}")
                self.assertEqual(found["input"], keys)
                self.assertEqual(len(found["golden"]), 3)
                if name != "float":
                    self.assertAlmostEqual(found["output"]["scale"], 1 / 256)
                    self.assertEqual(found["output"]["zero_point"], 0 if name == "uint8" else -128)

    def test_tflite_files_that_are_none(self) -> None:
        usual = [*self.usual(), "--preset", "keras-raw"]
        broken = self.folder / "broken.tflite"
        for content in (b"", b"no model", (self.made / "float.tflite").read_bytes()[:2000]):
            broken.write_bytes(content)
            with self.subTest(len(content)):
                self.fails(1, "cannot be read as TFLite", "tflite", "--model", broken, *usual)
        self.fails(1, "is not there", "tflite", "--model", self.folder / "none.tflite", *usual)
        self.fails(2, "does not say how pixels", "tflite", "--model", self.made / "float.tflite", *usual[:-2])


class Applications(InFolder):
    """The tutorial's `build_model` with weights=None, as nothing can be downloaded."""

    def export(self, architecture: str, *more: object) -> Any:
        words = ["keras", "--architecture", architecture, "--weights", "none", "--size", 64, 64]
        said = self.succeeds(*words, *more, *self.usual())
        print(architecture)
        print(said)
        self.assertEqual((said.count("| ok"), said.count("(ort)")), (3, 2))
        self.assertIn("no golden pictures: the weights are random", said)
        return tomllib.loads((self.store / "shapes" / "1" / "model.toml").read_text())["input"]

    def test_mobilenetv3(self) -> None:
        self.assertEqual(self.export("mobilenetv3-small"), {"preset": "keras-raw"})
        found = kinds(self.store / "shapes" / "1" / "model.onnx")
        self.assertLessEqual(found.count("Transpose"), 1, "the optimiser gave up")

    def test_efficientnet(self) -> None:
        self.assertEqual(self.export("efficientnet-b0", "--interpolation", "bicubic"), {"preset": "keras-raw", "filter": "bicubic"})

    def test_resnet50(self) -> None:
        self.assertEqual(self.export("resnet50"), {"preset": "keras-caffe"})

    def test_weights_of_build_model_come_back(self) -> None:
        keras = from_keras.load()
        keras.utils.set_random_seed(5)
        model = from_keras.build_model("mobilenetv2", 4, (64, 64), 0.2)
        x, y = shapes.arrays(8, 3, 64)
        from_keras.spread(model, x / 127.5 - 1, 5)
        model.save_weights(self.folder / "tuned.weights.h5")
        words = ["keras", "--architecture", "mobilenetv2", "--size", 64, 64, "--weights", self.folder / "tuned.weights.h5"]
        self.succeeds(*words, *self.usual())
        record = json.loads((self.store / "shapes" / "1" / "parity.json").read_text())
        first = keras.utils.img_to_array(
            keras.utils.load_img(self.folder / "shapes" / "circle" / "0.png", target_size=(64, 64))
        )
        own = model.predict(first[None] / 127.5 - 1, verbose=0)[0]
        np.testing.assert_allclose(record["pictures"][0]["confidences"], own, atol=1e-4)

    def test_every_architecture_is_one_of_keras(self) -> None:
        keras = from_keras.load()
        for name, architecture in from_keras.ARCHITECTURES.items():
            with self.subTest(name):
                self.assertTrue(callable(getattr(keras.applications, architecture.name, None)))
                self.assertIn(architecture.mode, from_keras.MODES)

    def test_modes_are_what_keras_itself_computes(self) -> None:
        """The manifest's numbers against `preprocess_input` of each mode, on every level of every channel."""
        levels = np.arange(256, dtype=np.uint8)
        every = np.stack([levels, levels[::-1], np.roll(levels, 99)], axis=-1).reshape(16, 16, 3)
        path = self.folder / "levels.png"
        Image.fromarray(every).save(path)
        for mode, table in from_keras._TABLES.items():
            with self.subTest(mode):
                own = picture.tensor(path, pixels.floats(table, "NHWC", (16, 16), 3))
                keras = from_keras._prepared(every[None].astype(np.float32), mode)
                np.testing.assert_allclose(own, keras, atol=2e-5)
        self.assertEqual(set(manifest.PRESETS) - {"torchvision"}, {t["preset"] for t in from_keras._TABLES.values()})


class Wording(InFolder):
    def test_without_an_architecture_or_a_whole_model(self) -> None:
        done = run("keras", "--weights", "none", *self.usual())
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("--architecture is needed", done.stderr)
