"""The real gateway's answers, from its command line: `lensgate classify` and `lensgate models check`; no server.

A version that is still being made is shown to it in a store of its own, beside what its model's folder already has, so
that it is judged as it will be once it is in place.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lensgate_export import manifest
from lensgate_export.failures import Failure, Misuse

_ROOT = Path(__file__).resolve().parents[2]
# Pictures of one call: command lines are bounded.
_CHUNK = 200
_SECONDS = 600


@dataclass(frozen=True)
class Answered:
    """Confidences [N, C], and who gave them: the gateway's name and version, and what executed the graph."""

    confidences: np.ndarray
    by: str


@dataclass(frozen=True)
class Gateway:
    """A binary of the gateway."""

    binary: Path

    @classmethod
    def found(cls, given: Path | None) -> Gateway:
        """The binary that was named, here or by LENSGATE_GATEWAY, else the newest one built here, else the PATH's."""
        if given is None and os.environ.get("LENSGATE_GATEWAY"):
            given = Path(os.environ["LENSGATE_GATEWAY"])
        if given is not None:
            if not os.access(given, os.X_OK) or given.is_dir():
                raise Misuse(f"the gateway {given} is no program")
            return cls(given.resolve())
        built = [_ROOT / "target" / kind / "lensgate" for kind in ("release", "debug")]
        there = [path for path in built if path.is_file()]
        if there:
            return cls(max(there, key=lambda path: path.stat().st_mtime))
        installed = shutil.which("lensgate")
        if installed is None:
            raise Failure(
                "no gateway to compare with: build it (`make build`), name one with --gateway, or leave the "
                "comparison out with --no-parity"
            )
        return cls(Path(installed).resolve())

    def name(self) -> str:
        """Its name and version."""
        return self._run(["--version"], _ROOT).stdout.strip()

    def answers(self, version: Path, place: Path, pictures: Sequence[Path], classes: int) -> Answered:
        """What the version in the folder `version`, which is to be `place`, says of the pictures.

        Where ONNX Runtime cannot open the graph, the gateway takes tract, which is slower and knows fewer operators;
        that is told.
        """
        backend = ""
        rows = np.full((len(pictures), classes), np.nan)
        with _store(version, place) as store:
            base = ["classify", "--json", "--top-k", str(classes), *_which(place), *_settings(store)]
            for start in range(0, len(pictures), _CHUNK):
                chunk = pictures[start : start + _CHUNK]
                done = self._run([*base, "--", *(str(path.resolve()) for path in chunk)], store)
                lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
                if len(lines) != len(chunk):
                    raise Failure(f"the gateway cannot use the version: {done.stderr.strip() or done.stdout.strip()}")
                for row, line in enumerate(lines, start):
                    if "error" in line:
                        raise Failure(f"the gateway refuses {line['picture']}: {line['error']}")
                    backend = line["backend"]
                    for answer in line["classes"]:
                        rows[row, answer["index"]] = answer["confidence"]
        if np.isnan(rows).any():
            raise Failure(f"the gateway names fewer than {classes} classes, or some confidence that is no number")
        if backend != "ort":
            print(f"the gateway executes this version by {backend}, as ONNX Runtime cannot open its graph: it will be slow")
        return Answered(rows, f"{self.name()} ({backend})")

    def check(self, version: Path, place: Path) -> dict[str, Any]:
        """What `models check` says of the version: its golden pictures, labels, shapes. A failed check is a `Failure`."""
        with _store(version, place) as store:
            done = self._run(
                ["models", "check", "--json", *_which(place), *_settings(store), str(store)], store
            )
        try:
            found: dict[str, Any] = json.loads(done.stdout)["models"][0]["versions"][0]
        except (json.JSONDecodeError, KeyError, IndexError) as error:
            raise Failure(f"the gateway does not check the version: {done.stderr.strip() or error}") from error
        if not found["ok"]:
            raise Failure(f"the gateway would not serve the version: {found.get('reason') or found.get('checks')}")
        return found

    def _run(self, arguments: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
        # The surroundings' settings (LENSGATE__…) are for a server that runs; the answers must not depend on them.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LENSGATE__")}
        environment.setdefault("ORT_DYLIB_PATH", str(_onnxruntime()))
        try:
            return subprocess.run(
                [str(self.binary), *arguments],
                cwd=folder, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Failure(f"the gateway {self.binary} does not run: {error}") from error


def _onnxruntime() -> Path:
    """The library that the gateway loads: the one fetched for it, else the Python package's, which is the same."""
    import onnxruntime

    fetched = sorted((_ROOT / ".runtime" / "onnxruntime").glob("libonnxruntime.so.*"))
    packaged = sorted(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"))
    for path in (*fetched, *packaged):
        if path.suffix != ".part":
            return path
    raise Failure("there is no ONNX Runtime library for the gateway: run tools/fetch-onnxruntime.sh")


def _which(place: Path) -> list[str]:
    return ["--model", place.parent.name, "--version", place.name]


def _settings(store: Path) -> list[str]:
    pairs = (f"model_store.url={store}", "model_store.trials_file=", "model_store.quiet_ms=0")
    return [word for pair in pairs for word in ("--set", pair)]


@contextmanager
def _store(version: Path, place: Path) -> Iterator[Path]:
    """A store that holds this version alone, with what lies beside the versions in the folder of its model."""
    with tempfile.TemporaryDirectory(prefix="lensgate-export-") as name:
        store = Path(name)
        model = store / place.parent.name
        model.mkdir()
        # Copied, as the gateway follows no link out of a model's folder; and no more than it reads.
        for name in _named(version):
            if (place.parent / name).is_file():
                (model / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(place.parent / name, model / name)
        (model / place.name).symlink_to(version.resolve())
        yield store


def _named(version: Path) -> list[str]:
    """What a version may take from the folder of its model, where it has no file of that name itself."""
    table = manifest.read(version)
    labels = table.get("labels", "labels.txt")
    names = ["model.toml", *([labels] if isinstance(labels, str) else [])]
    names += [str(golden.get("image")) for golden in table.get("golden", [])]
    inside = [name for name in names if not os.path.isabs(name) and ".." not in Path(name).parts]
    return list(dict.fromkeys(inside))
