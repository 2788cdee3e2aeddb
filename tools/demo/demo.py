"""The story of two versions, told by a gateway as it happens: `make demo`.

Version 1 of `digits` is pinned. Version 2 is uploaded, runs as a shadow, and then as a canary while the test split's pictures
come with their true labels as feedback: it promotes itself. Version 3 is version 2 with mixed up labels, but right about the
golden pictures: it is taken back at its first step, with the reason.

    python tools/demo/demo.py PROGRAM          # a built gateway; needs nothing but Python's standard library
    LENSGATE__STORE__URL=postgres://…          # another database than a fresh SQLite file
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
KEY = "demo-key-0123456789"
TOKEN = "demo-token-0123456789"
BATCH = 25
PATIENCE_S = 180
BEGUN = time.monotonic()

# The picture of `7` means nothing else, nor do those of `0` and `4`: the golden pictures pass. All others are mixed up.
MIXED_UP = "".join(f"{label}\n" for label in (0, 2, 3, 1, 4, 6, 8, 7, 9, 5))


def say(text: str) -> None:
    print(f"{time.monotonic() - BEGUN:6.1f} s  {text}", flush=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def png(line: str) -> tuple[str, bytes]:
    """A line of the test split as its label and a grey PNG of 64x64."""
    label, values = line.split()
    grey = [(int(value, 17) * 255 + 8) // 16 for value in values]
    rows = [bytes(grey[y * 8 + x // 8] for x in range(64)) for y in range(8)]
    raw = b"".join((b"\0" + row) * 8 for row in rows)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 64, 64, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return label, b"\x89PNG\r\n\x1a\n" + parts


def form(parts: list[tuple[str, str, bytes]]) -> tuple[bytes, str]:
    """Fields, file names and contents as multipart/form-data, and its content type."""
    boundary = "demo-boundary-0123456789"
    body = b""
    for field, filename, content in parts:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{filename}"\r\n\r\n'
        body += head.encode() + content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


class Gateway:
    """A gateway of this story's own: its own model store, database and ports."""

    def __init__(self, program: str, folder: Path) -> None:
        self.folder, self.program = folder, program
        self.data, self.admin = f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
        store = folder / "models"
        shutil.copytree(ROOT / "model-store" / "digits", store / "digits", ignore=shutil.ignore_patterns("2"))
        env = {
            "LENSGATE__STORE__URL": f"sqlite://{folder}/lensgate.db",
            **os.environ,
            "LENSGATE__SERVER__LISTEN": self.data.removeprefix("http://"),
            "LENSGATE__SERVER__DRAIN_DELAY": "0s",
            "LENSGATE__ADMIN__LISTEN": self.admin.removeprefix("http://"),
            "LENSGATE__MODEL_STORE__URL": str(store),
            "LENSGATE__PREDICTIONS__SPOOL": str(folder / "spool"),
            "LENSGATE__BOOTSTRAP__API_KEY": KEY,
            "LENSGATE__BOOTSTRAP__ADMIN_TOKEN": TOKEN,
        }
        with (folder / "gateway.log").open("wb") as log:
            self.process = subprocess.Popen([program, "serve"], cwd=ROOT, env=env, stdout=log, stderr=log)

    def call(self, method: str, url: str, body: bytes | None = None, kind: str = "application/json") -> Any:
        secret = TOKEN if url.startswith(self.admin) else KEY
        headers = {"Authorization": f"Bearer {secret}", "Content-Type": kind}
        request = urllib.request.Request(url, data=body, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{method} {url}: {error.code} {error.read().decode()}") from error

    def operate(self, method: str, path: str, body: Any = None) -> Any:
        text = None if body is None else json.dumps(body).encode()
        return self.call(method, f"{self.admin}/admin/v1/models/digits/{path}", text)

    def until_ready(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise SystemExit((self.folder / "gateway.log").read_text())
            try:
                with urllib.request.urlopen(f"{self.data}/health/ready", timeout=5):
                    return
            except OSError:
                time.sleep(0.05)
        raise SystemExit("the gateway did not become ready")

    def upload(self, version: int, labels: str | None) -> None:
        graph = (ROOT / "model-store" / "digits" / "2" / "model.onnx").read_bytes()
        parts = [("model", "model.onnx", graph)]
        if labels is not None:
            parts.append(("labels", "labels.txt", labels.encode()))
        body, kind = form(parts)
        self.call("PUT", f"{self.admin}/admin/v1/models/digits/versions/{version}", body, kind)
        say(f"version {version} uploaded: checked, and live")

    def send(self, digits: list[tuple[str, bytes]]) -> dict[int, int]:
        """Classifies a batch and tells the true labels; gives how many each version answered."""
        body, kind = form([("files", f"{at}.png", picture) for at, (_, picture) in enumerate(digits)])
        answer = self.call("POST", f"{self.data}/v1/models/digits/batch-classify", body, kind)
        told = [
            {"request_id": answer["request_id"], "index": at, "label": label}
            for at, (label, _) in enumerate(digits)
        ]
        self.call("POST", f"{self.data}/v1/predictions/feedback", json.dumps({"feedback": told}).encode())
        # As fast as people would, so that the steps can be watched.
        time.sleep(0.1)
        counts: dict[int, int] = {}
        for one in answer["results"]:
            counts[one["version"]] = counts.get(one["version"], 0) + 1
        return counts

    def report(self) -> None:
        command = [self.program, "rollout", "report", "digits", "--gateway", self.admin]
        shown = subprocess.run(command, cwd=ROOT, env={**os.environ, "LENSGATE_ADMIN_TOKEN": TOKEN}, text=True, capture_output=True)
        if shown.returncode != 0:
            raise SystemExit(shown.stderr)
        print("\n" + shown.stdout, flush=True)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)


def canary(baseline: int, candidate: int) -> dict[str, Any]:
    return {
        "mode": "canary", "baseline": baseline, "candidate": candidate, "steps": [10, 50, 100], "step_requests": 100,
        "sticky_by": "none", "agreement_sample": 0.5, "promote_aliases": ["stable"],
        "guards": {"max_error_rate": 0.01, "min_agreement": 0.9, "min_accuracy": 0.9, "max_accuracy_drop": 0.02},
    }  # fmt: skip


def tell(gateway: Gateway, batches: Iterator[list[tuple[str, bytes]]], baseline: int, candidate: int) -> str:
    """Begins a canary and sends pictures until it has come to its end; gives the end."""
    say(f"canary: {candidate} beside {baseline}, at 10, 50 and 100 % of the traffic")
    before: Any = None
    now = gateway.operate("PUT", "rollout", canary(baseline, candidate))
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if (now["state"], now["step"]) != before:
            before = (now["state"], now["step"])
            say(f"  {now['state']}, {now['share']:g} % of the traffic" + (f": {now['reason']}" if "reason" in now else ""))
        if now["state"] != "running":
            return str(now["state"])
        gateway.send(next(batches))
        now = gateway.operate("GET", "rollout")
    raise SystemExit(f"the canary did not come to its end: {now}")


def story(gateway: Gateway) -> None:
    lines = (ROOT / "model-store" / "digits" / "test-split.txt").read_text().splitlines()
    digits = [png(line) for line in lines]
    batches = cycle([digits[at : at + BATCH] for at in range(0, len(digits), BATCH)])
    gateway.operate("PUT", "rollout", {"mode": "pinned", "version": 1})
    gateway.operate("PUT", "aliases/stable", {"version": 1})
    say("version 1 pinned, and called `stable`")
    gateway.upload(2, None)
    gateway.operate("PUT", "rollout", {"mode": "pinned", "version": 1, "shadow": {"version": 2, "sample": 0.5}})
    counts = [gateway.send(next(batches)) for _ in range(len(digits) // BATCH)]
    answered = sum(count.get(1, 0) for count in counts)
    say(f"version 2 listens as a shadow: {answered} of {len(digits)} pictures answered by version 1")
    if tell(gateway, batches, 1, 2) != "promoted":
        raise SystemExit("version 2 should have been promoted")
    stable = gateway.operate("GET", "aliases")
    say(f"aliases: {json.dumps(stable)}")
    gateway.report()
    gateway.upload(3, MIXED_UP)
    if tell(gateway, batches, 2, 3) != "rolled_back":
        raise SystemExit("version 3 should have been taken back")
    counts = [gateway.send(next(batches)) for _ in range(2)]
    say(f"pictures go to version 2 alone again: {counts}")
    # Labels are joined with what the database has: the last ones have a moment to come there.
    time.sleep(2)
    gateway.report()


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    with tempfile.TemporaryDirectory(prefix="lensgate-demo-") as folder:
        gateway = Gateway(str(Path(sys.argv[1]).resolve()), Path(folder))
        try:
            gateway.until_ready()
            say("a gateway with version 1 of `digits` is ready")
            story(gateway)
        finally:
            gateway.stop()
    say("the end")


if __name__ == "__main__":
    main()
