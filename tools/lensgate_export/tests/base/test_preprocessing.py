"""The second way to a tensor, held against the gateway and its documentation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from onnx import TensorProto
from PIL import Image

from lensgate_export import graph, manifest, parity, reference
from lensgate_export.failures import Failure
from lensgate_export.gateway import Gateway
from lensgate_export.reference import Runner
from lensgate_export.tests.commands import ROOT, InFolder, classifier

WAYS: list[tuple[str, list[int | str], int, dict[str, Any]]] = [
    ("torchvision", ["N", 3, 20, 20], TensorProto.FLOAT, {"preset": "torchvision"}),
    ("keras-tf", ["N", 17, 23, 3], TensorProto.FLOAT, {"preset": "keras-tf"}),
    ("keras-caffe", ["N", 16, 16, 3], TensorProto.FLOAT, {"preset": "keras-caffe", "std": 64.0}),
    ("keras-raw, bytes", [1, 16, 16, 3], TensorProto.UINT8, {"preset": "keras-raw"}),
    ("signed bytes", [1, 16, 16, 3], TensorProto.INT8, {"preset": "keras-raw", "mean": 128.0, "filter": "lanczos"}),
    ("halves in 16 bits", [1, 3, 16, 16], TensorProto.FLOAT16, {"filter": "bicubic", "resize_to": 21}),
    ("letterbox", [1, 3, 24, 20], TensorProto.FLOAT, {"resize": "letterbox", "filter": "bilinear"}),
    ("letterbox, cut", [1, 3, 15, 20], TensorProto.FLOAT, {"resize": "letterbox", "resize_to": [25, 31]}),
    ("stretched, padded", [1, 3, 31, 30], TensorProto.FLOAT, {"resize": "stretch", "resize_to": [20, 25]}),
    ("padded", [1, 3, 31, 31], TensorProto.FLOAT, {"resize_to": 20}),
    ("gray", [1, 1, 18, 18], TensorProto.FLOAT, {"preset": "torchvision", "color": "gray"}),
    ("blue first", [1, 3, 16, 16], TensorProto.FLOAT, {"color": "bgr", "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.4, 0.3]}),
]


class Preprocessing(InFolder):
    def pictures_of_all_kinds(self) -> list[Path]:
        """Odd sizes, modes and formats that Pillow and the gateway read alike."""
        rng = np.random.default_rng(5)
        made = []
        for number, (height, width) in enumerate([(50, 71), (97, 33), (9, 14), (64, 64)]):
            coarse = rng.integers(0, 256, (height // 3 + 2, width // 3 + 2, 3), dtype=np.uint8)
            picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
            made.append(self.folder / f"{number}.png")
            picture.save(made[-1])
        picture.save(self.folder / "a.jpg", quality=90)
        turned = Image.Exif()
        turned[0x0112] = 6
        Image.open(made[0]).save(self.folder / "turned.jpg", quality=90, exif=turned)
        Image.open(made[1]).convert("RGBA").save(self.folder / "alpha.png")
        deep = (np.asarray(Image.open(made[0]).convert("L"), np.uint16) * 257) + rng.integers(0, 100, dtype=np.uint16)
        Image.fromarray(deep.astype(np.uint16)).save(self.folder / "deep.png")
        return [*made, *(self.folder / name for name in ("a.jpg", "turned.jpg", "alpha.png", "deep.png"))]

    def test_the_gateway_feeds_what_pillow_and_numpy_make_by_the_manifest(self) -> None:
        pictures = self.pictures_of_all_kinds()
        gateway = Gateway.found(None)
        for number, (name, shape, element, keys) in enumerate(WAYS, 1):
            with self.subTest(name):
                version = self.store / "ways" / str(number)
                classifier(version / "model.onnx", shape, 12, element)
                (version / "model.toml").write_text(manifest.written({"input": keys}))
                own = Runner(version).confidences(pictures)
                got = gateway.answers(version, version, pictures, 12).confidences
                self.assertGreater(np.ptp(own, axis=0).max(), 0.05, "the model is blind: the test shows nothing")
                allowed = 0.002 if element == TensorProto.FLOAT16 else 2e-5
                held = parity.Parity("gateway", "numpy", got, own, allowed)
                self.assertTrue(held.holds, f"{held.largest} on {pictures[int(np.abs(got - own).max(1).argmax())].name}")

    def test_another_filter_than_the_manifests_is_seen(self) -> None:
        pictures = self.pictures_of_all_kinds()
        version = self.store / "ways" / "1"
        classifier(version / "model.onnx", ["N", 3, 20, 20], 12)
        (version / "model.toml").write_text('[input]\nfilter = "bilinear"\n')
        own = Runner(version).confidences(pictures)
        (version / "model.toml").write_text('[input]\nfilter = "nearest"\n')
        got = Gateway.found(None).answers(version, version, pictures, 12).confidences
        self.assertFalse(parity.Parity("gateway", "numpy", got, own, 0.002).holds)

    def test_the_presets_are_those_of_the_documentation(self) -> None:
        text = (ROOT / "docs" / "manifest.md").read_text()
        rows = re.findall(r"^\| `([\w-]+)` \| (\w+) \| ([\w-]+) \| .*? \| (\w+) \| ([\d/.]+) \| ([\d., ]+) \| ([\d., ]+) \|", text, re.M)
        told = {}
        for name, color, resize, filter, scale, mean, std in rows:
            above, _, below = scale.partition("/")
            numbers = [tuple(float(each) for each in value.split(",")) for value in (mean, std)]
            told[name] = {
                "color": color, "resize": resize, "filter": filter, "scale": float(above) / float(below or 1),
                "mean": numbers[0], "std": numbers[1],
            }  # fmt: skip
        self.assertEqual(told, manifest.PRESETS)

    def test_what_is_written_is_read_back(self) -> None:
        table = {
            "labels": "labels.txt",
            "golden": [{"image": 'a "quoted"\\\x7f.png', "label": "größe\n", "min_confidence": 0.5}],
            "input": {"preset": "torchvision", "size": [3, 4], "mean": [0.1, 2.0], "scale": 1 / 255, "fast_decode": True},
            "output": {"zero_point": -128},
        }
        version = self.folder / "m" / "1"
        version.mkdir(parents=True)
        (version / "model.toml").write_text(manifest.written(table), encoding="utf-8")
        self.assertEqual(manifest.read(version), table)

    def test_a_versions_keys_win_over_the_models_one_by_one(self) -> None:
        version = self.folder / "m" / "2"
        version.mkdir(parents=True)
        (version.parent / "model.toml").write_text('[input]\npreset = "torchvision"\nfilter = "bicubic"\n[[golden]]\nimage="a"\nlabel="b"\n')
        (version / "model.toml").write_text('golden = []\n[input]\nfilter = "nearest"\n')
        self.assertEqual(manifest.read(version), {"golden": [], "input": {"preset": "torchvision", "filter": "nearest"}})

    def test_graphs_that_are_no_classifiers_are_refused_by_name(self) -> None:
        path = self.folder / "model.onnx"
        for shape, reason in (
            ([4, 3, 8, 8], "the batch is fixed at 4"),
            (["N", 5, 8, 8], "neither axis"),
            (["N", 8, 8], "four axes"),
        ):
            with self.subTest(reason):
                classifier(path, shape, 3)
                with self.assertRaisesRegex(Failure, reason):
                    graph.facts(path).picture_axes(None)
        path.write_bytes(b"\x08\x07garbage")
        with self.assertRaisesRegex(Failure, "no ONNX file|has 0 inputs"):
            graph.facts(path)

    def test_operators_that_onnx_lacks_are_named(self) -> None:
        import onnx

        path = self.folder / "model.onnx"
        classifier(path, ["N", 3, 8, 8], 3)
        model = onnx.load(path)
        model.graph.node[0].op_type, model.graph.node[0].domain = "FlexBeta", "tf.custom"
        path.write_bytes(model.SerializeToString())
        with self.assertRaisesRegex(Failure, r"tf\.custom\.FlexBeta"):
            graph.facts(path)

    def test_integers_that_operators_share_become_one_each(self) -> None:
        """Two quantised weights with one zero point: opened as the gateway opens it, ONNX Runtime refuses that."""
        import onnx
        from onnx import helper, numpy_helper

        rng = np.random.default_rng(1)
        nodes, values, last = [], [numpy_helper.from_array(np.int8(0), "zero")], "input"
        values += [numpy_helper.from_array(np.float32(0.02), "small"), numpy_helper.from_array(np.uint8(128), "middle")]
        for number in (1, 2):
            weights = rng.integers(-90, 90, (3, 3, 1, 1), dtype=np.int8)
            values.append(numpy_helper.from_array(weights, f"w{number}"))
            nodes += [
                helper.make_node("QuantizeLinear", [last, "small", "middle"], [f"q{number}"]),
                helper.make_node("DequantizeLinear", [f"q{number}", "small", "middle"], [f"x{number}"]),
                helper.make_node("DequantizeLinear", [f"w{number}", "small", "zero"], [f"k{number}"]),
                helper.make_node("Conv", [f"x{number}", f"k{number}"], [f"c{number}"]),
            ]
            last = f"c{number}"
        nodes += [
            helper.make_node("QuantizeLinear", [last, "small", "middle"], ["q3"]),
            helper.make_node("DequantizeLinear", ["q3", "small", "middle"], ["x3"]),
            helper.make_node("GlobalAveragePool", ["x3"], ["answer"]),
        ]
        made = helper.make_graph(
            nodes, "tests", [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 8, 8])],
            [helper.make_tensor_value_info("answer", TensorProto.FLOAT, [1, 3, 1, 1])], values,
        )  # fmt: skip
        version = self.store / "shared" / "1"
        version.mkdir(parents=True)
        path = version / "model.onnx"
        path.write_bytes(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())
        # As on a processor without VNNI; this one may have it.
        inexact = mock.patch.object(reference, "sums_8_bit_exactly", return_value=False)
        with inexact, self.assertRaisesRegex(Failure, "cannot execute"):
            Runner(version)
        graph.tidy(path)
        with inexact:
            Runner(version)
        zeros = [name for node in onnx.load(path).graph.node for name in node.input if name.startswith("zero")]
        self.assertEqual(len(set(zeros)), 2)
        got = Gateway.found(None).answers(version, version, self.pictures_of_all_kinds(), 3)
        self.assertIn("(ort)", got.by)

    def test_a_batch_that_is_open_by_name_alone_is_found_out(self) -> None:
        """As exporters leave it where a layer reshapes to one row."""
        import onnx
        from onnx import helper, numpy_helper

        pictures = self.pictures_of_all_kinds()
        version = self.store / "batch" / "1"
        path = version / "model.onnx"
        classifier(path, ["N", 3, 8, 8], 5)
        self.assertTrue(Runner(version).takes_batches(pictures))
        model = onnx.load(path)
        model.graph.initializer.append(numpy_helper.from_array(np.array([1, 192]), "row"))
        model.graph.node[0].CopyFrom(helper.make_node("Reshape", ["input", "row"], ["flat"]))
        path.write_bytes(model.SerializeToString())
        self.assertFalse(Runner(version).takes_batches(pictures))
        graph.fix_batch(path)
        self.assertEqual(graph.facts(path).input_shape, (1, 3, 8, 8))
        self.assertIn("(ort)", Gateway.found(None).answers(version, version, pictures, 5).by)
