"""Folders, labels, samples and golden pictures: what is refused, and what is left behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
from PIL import Image

from lensgate_export import golden, manifest, parity, samples, version
from lensgate_export.failures import Failure, Misuse
from lensgate_export.tests.commands import InFolder, run


class Places(InFolder):
    def test_a_version_is_put_in_place_whole(self) -> None:
        place = version.place(self.store / "flowers" / "3")
        with version.staged(place) as folder:
            (folder / "model.onnx").write_text("x")
            self.assertFalse(place.exists())
        self.assertEqual([path.name for path in place.iterdir()], ["model.onnx"])
        self.assertEqual(place.stat().st_mode & 0o777, 0o755)
        self.assertEqual([path.name for path in place.parent.iterdir()], ["3"])

    def test_whatever_ends_it_leaves_nothing(self) -> None:
        for error in (Failure("no"), KeyboardInterrupt(), MemoryError()):
            with self.subTest(type(error).__name__), self.assertRaises(type(error)):
                with version.staged(self.store / "flowers" / "1") as folder:
                    (folder / "model.onnx").write_text("half")
                    raise error
            self.assertFalse(self.store.exists())

    def test_what_was_there_before_stays(self) -> None:
        (self.store / "flowers" / "1").mkdir(parents=True)
        with self.assertRaises(Failure):
            with version.staged(self.store / "flowers" / "2"):
                raise Failure("no")
        self.assertEqual([path.name for path in (self.store / "flowers").iterdir()], ["1"])

    def test_no_version_is_overwritten(self) -> None:
        place = self.store / "flowers" / "1"
        place.mkdir(parents=True)
        with self.assertRaisesRegex(Failure, "never overwritten"):
            version.place(place)
        (self.store / "flowers" / "2").symlink_to("gone")
        with self.assertRaisesRegex(Failure, "never overwritten"):
            version.place(self.store / "flowers" / "2")

    def test_one_that_came_meanwhile_wins(self) -> None:
        place = self.store / "flowers" / "1"
        with self.assertRaisesRegex(Failure, "never overwritten"):
            with version.staged(place):
                place.mkdir()
                (place / "model.onnx").write_text("theirs")
        self.assertEqual((place / "model.onnx").read_text(), "theirs")

    def test_places_that_are_none(self) -> None:
        for out in ("flowers/v1", "flowers/0", "flowers/01", "Flowers/1", "-x/1"):
            with self.subTest(out), self.assertRaises(Misuse):
                version.place(self.store / out)


class Labels(InFolder):
    def labels(self, content: bytes) -> list[str]:
        (self.folder / "labels.txt").write_bytes(content)
        return manifest.labels_of(self.folder / "labels.txt")

    def test_they_are_read_as_the_gateway_reads_them(self) -> None:
        self.assertEqual(self.labels("\ufeff a, b \r\nc\n\n\n".encode()), ["a, b", "c"])

    def test_files_that_are_no_labels(self) -> None:
        for content, reason in ((b"", "empty"), (b"\n\n", "empty"), (b"a\n\nb\n", "empty line 2"), (b"\xff\xfe\x00", "cannot be read")):
            with self.subTest(reason), self.assertRaisesRegex(Failure, reason):
                self.labels(content)
        with self.assertRaisesRegex(Failure, "is not there"):
            manifest.labels_of(self.folder / "none.txt")


class Samples(InFolder):
    def picture(self, name: str, **options: object) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (200, 10, 10)).save(path, **options)
        return path

    def test_labels_come_from_folders_and_from_names(self) -> None:
        self.picture("a/1.png")
        self.picture("big_cat_3.jpg")
        self.picture("big_2.png")
        self.picture("else_1.png")
        (self.folder / "notes.txt").write_text("x")
        found = samples.found(self.folder, ["a", "big", "big_cat"], 10)
        self.assertEqual(
            [(sample.path.name, sample.label) for sample in found],
            [("1.png", "a"), ("big_2.png", "big"), ("big_cat_3.jpg", "big_cat"), ("else_1.png", None)],
        )

    def test_a_limit_is_spread_over_all(self) -> None:
        for number in range(10):
            self.picture(f"a/{number}.png")
            self.picture(f"b/{number}.png")
        found = samples.found(self.folder, ["a", "b"], 4)
        self.assertEqual([sample.label for sample in found], ["a", "a", "b", "b"])

    def test_pictures_that_are_turned_are_told(self) -> None:
        turned = Image.Exif()
        turned[0x0112] = 3
        self.picture("t.jpg", exif=turned)
        self.picture("u.jpg")
        self.assertEqual([sample.upright for sample in samples.found(self.folder, [], 9)], [False, True])

    def test_folders_that_cannot_be_meant(self) -> None:
        with self.assertRaisesRegex(Failure, "has no pictures"):
            samples.found(self.folder, [], 9)
        with self.assertRaisesRegex(Failure, "is not there"):
            samples.found(self.folder / "none", [], 9)
        self.picture("typo/1.png")
        with self.assertRaisesRegex(Failure, "typo is named by no label; there are a, b"):
            samples.found(self.folder, ["a", "b"], 9)

    def test_a_picture_that_cannot_be_read_is_named(self) -> None:
        self.picture("a.png")
        whole = self.picture("b.png").read_bytes()
        for content in (b"", b"no picture", whole[: len(whole) // 2]):
            (self.folder / "b.png").write_bytes(content)
            with self.subTest(len(content)), self.assertRaisesRegex(Failure, "b.png cannot be read"):
                samples.found(self.folder, [], 9)


class Golden(InFolder):
    def sample(self, name: str, label: str | None) -> samples.Sample:
        path = self.folder / name
        Image.new("L", (4, 4)).save(path)
        return samples.Sample(path, label, True)

    def test_each_class_gives_its_surest_first(self) -> None:
        found = [self.sample(f"{i}.png", label) for i, label in enumerate(["a", "a", "a", "b", "b", None])]
        answers = np.array([[0.99, 0.01], [0.98, 0.02], [0.3, 0.7], [0.2, 0.8], [0.45, 0.55], [0.0, 1.0]])
        chosen = golden.chosen(found, answers, ["a", "b"], 3, 0.6)
        self.assertEqual([sample.path.name for sample, _ in chosen], ["0.png", "3.png", "1.png"])
        entries = golden.kept(self.folder, chosen)
        self.assertEqual(entries[1], {"image": "golden/2-3.png", "label": "b", "min_confidence": 0.7})
        self.assertTrue((self.folder / "golden" / "2-3.png").is_file())

    def test_nothing_that_is_wrong_unsure_or_unlabelled(self) -> None:
        found = [self.sample("0.png", "a"), self.sample("1.png", "b"), self.sample("2.png", None)]
        answers = np.array([[0.1, 0.9], [0.45, 0.55], [1.0, 0.0]])
        self.assertEqual(golden.chosen(found, answers, ["a", "b"], 3, 0.6), [])


class Parities(InFolder):
    def held(self, got: list[list[float]], tolerance: float | None = 0.002) -> parity.Parity:
        return parity.Parity("a", "b", np.array(got), np.array([[0.7, 0.3], [0.2, 0.8]]), tolerance)

    def test_what_holds_and_what_does_not(self) -> None:
        self.assertTrue(self.held([[0.701, 0.299], [0.2, 0.8]]).holds)
        self.assertFalse(self.held([[0.703, 0.297], [0.2, 0.8]]).holds)
        self.assertFalse(self.held([[0.3, 0.7], [0.2, 0.8]]).holds)
        self.assertTrue(self.held([[0.3, 0.7], [0.2, 0.8]], None).holds)
        self.assertFalse(self.held([[0.3, 0.7], [0.2, 0.8]], 0.1).holds)

    def test_the_worst_picture_is_named(self) -> None:
        bad = self.held([[0.7, 0.3], [0.4, 0.6]])
        with self.assertRaisesRegex(Failure, "0.2000 on two.png"):
            parity.demand([bad], [Path("one.png"), Path("two.png")], bad.wanted)

    def test_a_model_that_says_the_same_of_all_shows_nothing(self) -> None:
        same = np.array([[0.5, 0.5], [0.501, 0.499]])
        flat = parity.Parity("a", "b", same, same, 0.002)
        with self.assertRaisesRegex(Failure, "the same of every sample"):
            parity.demand([flat], [Path("one.png"), Path("two.png")], same)


class Commands(InFolder):
    def test_wrong_words_are_2(self) -> None:
        usual = self.usual()
        for words in (
            [],
            ["unknown"],
            ["keras", *usual],
            ["keras", "--architecture", "resnet51", "--weights", "none", *usual],
            ["keras", "--architecture", "resnet50", "--weights", "none", "--golden", "-1", *usual],
            ["keras", "--architecture", "resnet50", "--weights", "none", *self.usual("shapes/v1")],
            ["torch", "--weights", "none", *usual],
            ["tflite", "--model", "x.tflite", *self.usual("Shapes/1")],
            ["quantize"],
            ["compare", "a"],
        ):
            with self.subTest(words=words[:3]):
                done = run(*words)
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertNotIn("Traceback", done.stderr)
        self.assertEqual(self.content(), [])

    def test_what_is_missing_is_1(self) -> None:
        usual = self.usual()
        labels = self.folder / "shapes.labels.txt"
        keras = ["keras", "--architecture", "mobilenetv3-small", "--weights", "none"]
        self.fails(1, "--classes is 3", *keras, "--classes", 3, *usual)
        self.fails(1, "is not there", *keras, *usual, "--labels", self.folder / "none.txt")
        self.fails(1, "is not there", *keras, *usual, "--samples", self.folder / "none")
        self.fails(2, "is no program", *keras, *usual, "--gateway", labels)
        self.fails(1, "start with tools/models.sh", *keras, *usual)
        (self.store / "shapes" / "1").mkdir(parents=True)
        self.fails(1, "never overwritten", *keras, *usual)

    def test_without_the_packages_it_says_what_fetches_them(self) -> None:
        for words in (["torch", "--architecture", "resnet18", "--weights", "none"], ["tflite", "--model", "x", "--preset", "keras-raw"]):
            with self.subTest(words[0]):
                self.fails(1, "start with tools/models.sh", *words, *self.usual())

    def test_every_command_explains_itself(self) -> None:
        for name in ("keras", "torch", "timm", "savedmodel", "tflite", "quantize", "compare", "check"):
            with self.subTest(name):
                self.assertIn("--samples", self.succeeds(name, "--help"))


class Ending(InFolder):
    def test_sigterm_leaves_nothing(self) -> None:
        """The process ends itself at the moment when half of the version is written."""
        program = (
            "import os, signal, sys\n"
            "from pathlib import Path\n"
            "from lensgate_export import cli, version\n"
            "place = Path(sys.argv[1])\n"
            "def half(args):\n"
            "    with version.staged(place) as folder:\n"
            "        (folder / 'model.onnx').write_text('half')\n"
            "        os.kill(os.getpid(), signal.SIGTERM)\n"
            "cli._run_check = half\n"
            "sys.exit(cli.main(['check', 'x', '--samples', 'y']))\n"
        )
        import subprocess
        import sys

        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-c", program, str(self.store / "m" / "1")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 128 + signal.SIGTERM, done.stderr)
        self.assertEqual(self.content(), [])
