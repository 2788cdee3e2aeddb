"""torchvision and timm on tiny models, and what they must refuse."""

from __future__ import annotations

import json
import pickle
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lensgate_export import from_torch
from lensgate_export.failures import Failure
from lensgate_export.tests.commands import InFolder

torch = from_torch.load()


class Ways(InFolder):
    def manifest(self) -> Any:
        return tomllib.loads((self.store / "shapes" / "1" / "model.toml").read_text())

    def recorded(self) -> np.ndarray:
        record = json.loads((self.store / "shapes" / "1" / "parity.json").read_text())
        return np.array([picture["confidences"] for picture in record["pictures"]])

    def test_torchvision_with_random_weights(self) -> None:
        words = ["torch", "--architecture", "mobilenet_v3_small", "--weights", "none", "--size", 96, 96]
        said = self.succeeds(*words, "--classes", 4, *self.usual())
        print(said)
        self.assertEqual((said.count("| ok"), said.count("(ort)")), (3, 2))
        self.assertEqual(self.manifest()["input"], {"preset": "torchvision"})
        self.assertEqual(self.manifest()["output"], {"activation": "softmax"})
        self.assertGreater(np.ptp(self.recorded(), axis=0).max(), 0.3, "parity on a model that says nothing")
        self.assertIn("holds", self.succeeds("check", self.store / "shapes" / "1", "--samples", self.folder / "shapes"))

    def test_the_published_transform_decides(self) -> None:
        """resnet18's is the preset; efficientnet_b1's second weights resize to 255 and crop 240."""
        words = ["torch", "--architecture", "efficientnet_b1", "--weights", "none", "--transform", "IMAGENET1K_V2"]
        self.succeeds(*words, *self.usual())
        self.assertEqual(self.manifest()["input"], {"preset": "torchvision", "resize_to": 255})

    def test_timm_with_its_own_configuration(self) -> None:
        words = ["timm", "--architecture", "mobilenetv3_small_050", "--weights", "none", "--size", 96, 96]
        said = self.succeeds(*words, *self.usual())
        print(said)
        self.assertEqual((said.count("| ok"), said.count("(ort)")), (3, 2))
        self.assertEqual(self.manifest()["input"], {"preset": "torchvision", "filter": "bicubic", "resize_to": 109})

    def test_a_state_dict_in_every_wrapping(self) -> None:
        import torchvision
        from safetensors.torch import save_file

        torch.manual_seed(3)
        model = torchvision.models.squeezenet1_1(weights=None, num_classes=4)
        # As random as it comes, it would say the same of everything.
        pixels = torch.rand(16, 3, 64, 64)
        from_torch.spread(model, pixels, 3)
        transform = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.transforms(crop_size=64, resize_size=73)
        state = model.state_dict()
        paths = [self.folder / name for name in ("plain.pth", "wrapped.pth", "tensors.safetensors")]
        torch.save(state, paths[0])
        torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, paths[1])
        save_file({name: value.contiguous() for name, value in state.items()}, paths[2])
        usual = self.usual()
        with torch.inference_mode():
            first = transform(Image.open(self.folder / "shapes" / "circle" / "0.png"))
            own = torch.softmax(model.eval()(first[None]), 1)[0].numpy()
        for number, path in enumerate(paths, 1):
            with self.subTest(path.name):
                words = ["torch", "--architecture", "squeezenet1_1", "--size", 64, 64, "--weights", path]
                self.succeeds(*words, *usual[:-1], self.store / "shapes" / str(number))
                record = json.loads((self.store / "shapes" / str(number) / "parity.json").read_text())
                np.testing.assert_allclose(record["pictures"][0]["confidences"], own, atol=1e-4)

    def test_weights_that_are_none_or_do_not_fit(self) -> None:
        usual = self.usual()
        words = ["torch", "--architecture", "squeezenet1_1", "--size", 64, 64, "--weights"]
        self.fails(1, "are not there", *words, self.folder / "none.pth", *usual)
        bad = self.folder / "bad.pth"
        bad.write_bytes(b"garbage")
        self.fails(1, "cannot be read", *words, bad, *usual)
        torch.save({"head.weight": torch.zeros(3)}, bad)
        self.fails(1, "does not fit", *words, bad, *usual)
        torch.save([1, 2], bad)
        self.fails(1, "no state dict", *words, bad, *usual)
        (self.folder / "bad.safetensors").write_bytes(b"\x00" * 20)
        self.fails(1, "cannot be read", *words, self.folder / "bad.safetensors", *usual)

    def test_no_code_in_a_weights_file_is_run(self) -> None:
        class Evil:
            def __reduce__(self) -> Any:
                return Path.touch, (Path(trap),)

        trap = str(self.folder / "trap")
        path = self.folder / "evil.pth"
        path.write_bytes(pickle.dumps(Evil()))
        words = ["torch", "--architecture", "squeezenet1_1", "--size", 64, 64, "--weights", path]
        self.fails(1, "cannot be read", *words, *self.usual())
        torch.save(Evil(), path)
        self.fails(1, "cannot be read", *words, *self.usual())
        self.assertFalse(Path(trap).exists())

    def test_names_that_nobody_has(self) -> None:
        usual = self.usual()
        self.fails(2, "torchvision has no classifier", "torch", "--architecture", "resnet51", "--weights", "none", *usual)
        self.fails(2, "it has IMAGENET1K_V1", "torch", "--architecture", "resnet18", "--weights", "none", "--transform", "X", *usual)
        self.fails(2, "timm has no model", "timm", "--architecture", "resnet_51x", "--weights", "none", *usual)
        self.fails(2, "fed with squares", "torch", "--architecture", "resnet18", "--weights", "none", "--size", 64, 32, *usual)

    def test_an_operator_that_cannot_be_exported(self) -> None:
        class Foreign(torch.nn.Module):  # type: ignore[misc, name-defined]
            def forward(self, x: Any) -> Any:
                return torch.linalg.eigvals(x.mean(dim=1)[:, :4, :4]).real

        with self.assertRaisesRegex(Failure, "torch cannot export this model"):
            from_torch._write(Foreign(), self.folder / "model.onnx", (8, 8))
