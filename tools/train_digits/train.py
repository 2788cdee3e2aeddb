"""Train and export the two versions of the shipped model `digits`.

    python tools/train_digits/train.py            # writes into model-store/digits
    python tools/train_digits/train.py --out DIR  # the same, elsewhere

Version 1 is a softmax regression (one matrix), version 2 a small convolutional network; both are trained here in
plain numpy on scikit-learn's bundled digits set and written as ONNX with a dynamic batch.

A digit of the set is 8x8 with values 0..16. It is drawn as a 64x64 grey PNG (each value a block of 8x8 pixels) and
comes back through what the gateway does with a picture: decode, `L`, resize to 8x8 (bilinear, antialiased, stretched),
x / 255. Training and measuring both use the pixels that come out of that path; the accuracies printed are those of the
exported files under ONNX Runtime on the test split, which is never trained on and decides no
setting (only the sample pictures are taken from it).

The same bytes come out of every run: seeds are fixed, one thread computes in float64, and the weights are rounded to
11 significant bits at the end, so that the last bits of another processor's arithmetic seldom matter.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"  # before numpy is imported: the order of sums depends on the number of threads

import argparse
import io
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

Array = np.ndarray
Params = dict[str, Array]

SIZE = 8  # the models' input is SIZE x SIZE
BLOCK = 8  # a value of the set becomes BLOCK x BLOCK pixels of the picture
CLASSES = 10
SEED = 20240607
CONV1, CONV2, HIDDEN = 16, 32, 64
EPOCHS, BATCH, RATE, DECAY = 120, 64, 2e-3, 1e-4
SHIFTS = range(-BLOCK, BLOCK + 1, BLOCK // 2)  # in pixels of the picture: up to one pixel of the digit


def draw(digit: Array, dx: int = 0, dy: int = 0) -> Image.Image:
    """The 64x64 grey picture of a digit, moved by (dx, dy) pixels with black moving in."""
    grey = np.rint(digit * 255.0 / 16.0).astype(np.uint8)
    big = np.kron(grey, np.ones((BLOCK, BLOCK), np.uint8))
    moved = np.pad(big, BLOCK)[BLOCK - dy :, BLOCK - dx :][: SIZE * BLOCK, : SIZE * BLOCK]
    return Image.fromarray(np.ascontiguousarray(moved))


def written(digit: Array, label: int) -> str:
    """A line of `test-split.txt`: the label, and the 64 values 0..16 row by row as `0` to `9` and `a` to `g`."""
    return f"{label} {''.join('0123456789abcdefg'[int(value)] for value in digit.ravel())}\n"


def png(picture: Image.Image) -> bytes:
    """The picture as the bytes of a PNG file."""
    picture.save(out := io.BytesIO(), "PNG", optimize=True)
    return out.getvalue()


def pixels(picture: Image.Image) -> Array:
    """What the gateway makes of a decoded picture: the 8x8 pixels, 0..255."""
    return np.asarray(picture.convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def tensor(rows: list[Array]) -> Array:
    """Pixels as the models' input [N, 1, 8, 8]: x / 255 in float32."""
    return (np.stack(rows)[:, None].astype(np.float32) / np.float32(255)).astype(np.float32)


def softmax(logits: Array) -> Array:
    """Softmax over the last axis."""
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def train_linear(x: Array, y: Array, steps: int = 1500, rate: float = 0.5, decay: float = 1e-4) -> Params:
    """Full-batch gradient descent with momentum on the cross entropy; no augmentation."""
    flat, target = x.reshape(len(x), -1), np.eye(CLASSES)[y]
    w, b = np.zeros((flat.shape[1], CLASSES)), np.zeros(CLASSES)
    vw, vb = np.zeros_like(w), np.zeros_like(b)
    for _ in range(steps):
        delta = (softmax(flat @ w + b) - target) / len(flat)
        vw = 0.9 * vw - rate * (flat.T @ delta + decay * w)
        vb = 0.9 * vb - rate * delta.sum(axis=0)
        w, b = w + vw, b + vb
    return {"w": w, "b": b}


def columns(x: Array) -> Array:
    """im2col for a 3x3 kernel with padding 1: [N, C, H, W] -> [N*H*W, C*9]."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, x.shape[1] * 9)


def fold(cols: Array, shape: tuple[int, ...]) -> Array:
    """The adjoint of `columns`: sums the windows back into [N, C, H, W]."""
    n, c, h, w = shape
    parts = cols.reshape(n, h, w, c, 3, 3).transpose(0, 3, 4, 5, 1, 2)
    out = np.zeros((n, c, h + 2, w + 2))
    for i in range(3):
        for j in range(3):
            out[:, :, i : i + h, j : j + w] += parts[:, :, i, j]
    return out[:, :, 1:-1, 1:-1]


def spread(rows: Array, n: int) -> Array:
    """From [N*H*W, C] to [N, C, H, W]."""
    return rows.reshape(n, SIZE, SIZE, -1).transpose(0, 3, 1, 2)


def gather(grid: Array) -> Array:
    """From [N, C, H, W] to [N*H*W, C]: the inverse of `spread`."""
    return grid.transpose(0, 2, 3, 1).reshape(-1, grid.shape[1])


def initial(rng: np.random.Generator) -> Params:
    """He initialisation."""
    flat = CONV2 * (SIZE // 2) ** 2

    def he(*shape: int, fan_in: int) -> Array:
        return rng.standard_normal(shape) * np.sqrt(2.0 / fan_in)

    return {
        "c1": he(9, CONV1, fan_in=9), "b1": np.zeros(CONV1),
        "c2": he(CONV1 * 9, CONV2, fan_in=CONV1 * 9), "b2": np.zeros(CONV2),
        "w3": he(flat, HIDDEN, fan_in=flat), "b3": np.zeros(HIDDEN),
        "w4": he(HIDDEN, CLASSES, fan_in=HIDDEN), "b4": np.zeros(CLASSES),
    }  # fmt: skip


def gradients(p: Params, x: Array, y: Array, rng: np.random.Generator) -> Params:
    """Gradients of the mean cross entropy, with dropout of one half on the hidden layer."""
    n = len(x)
    cols1 = columns(x)
    a1 = np.maximum(cols1 @ p["c1"] + p["b1"], 0)
    h1 = spread(a1, n)
    cols2 = columns(h1)
    a2 = np.maximum(cols2 @ p["c2"] + p["b2"], 0)
    half = SIZE // 2
    cells = spread(a2, n).reshape(n, CONV2, half, 2, half, 2).transpose(0, 1, 2, 4, 3, 5)
    cells = cells.reshape(n, CONV2, half, half, 4)
    best = cells.argmax(axis=-1)[..., None]
    flat = np.take_along_axis(cells, best, -1).reshape(n, -1)
    keep = (rng.random((n, HIDDEN)) < 0.5) * 2.0
    a3 = np.maximum(flat @ p["w3"] + p["b3"], 0)
    h3 = a3 * keep

    d4 = (softmax(h3 @ p["w4"] + p["b4"]) - np.eye(CLASSES)[y]) / n
    d3 = (d4 @ p["w4"].T) * keep * (a3 > 0)
    dcells = np.zeros_like(cells)
    np.put_along_axis(dcells, best, (d3 @ p["w3"].T).reshape(best.shape), -1)
    d2 = dcells.reshape(n, CONV2, half, half, 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, CONV2, SIZE, SIZE)
    d2 = gather(d2) * (a2 > 0)
    d1 = gather(fold(d2 @ p["c2"].T, h1.shape)) * (a1 > 0)
    return {
        "c1": cols1.T @ d1, "b1": d1.sum(axis=0), "c2": cols2.T @ d2, "b2": d2.sum(axis=0),
        "w3": flat.T @ d3, "b3": d3.sum(axis=0), "w4": h3.T @ d4, "b4": d4.sum(axis=0),
    }  # fmt: skip


def train_cnn(variants: Array, y: Array) -> Params:
    """Adam with weight decay and a cosine rate; a random one of `variants` [shifts, N, 1, 8, 8] each epoch."""
    rng = np.random.default_rng(SEED)
    p = initial(rng)
    m = {k: np.zeros_like(v) for k, v in p.items()}
    s = {k: np.zeros_like(v) for k, v in p.items()}
    batches = len(y) // BATCH
    for step in range(EPOCHS * batches):
        if step % batches == 0:
            order = rng.permutation(len(y))
            x = variants[rng.integers(len(variants), size=len(y)), np.arange(len(y))]
        rows = order[step % batches * BATCH :][:BATCH]
        rate = RATE * 0.5 * (1 + np.cos(np.pi * step / (EPOCHS * batches)))
        for k, g in gradients(p, x[rows], y[rows], rng).items():
            m[k] = 0.9 * m[k] + 0.1 * g
            s[k] = 0.999 * s[k] + 0.001 * g * g
            unbiased = m[k] / (1 - 0.9 ** (step + 1)) / (np.sqrt(s[k] / (1 - 0.999 ** (step + 1))) + 1e-8)
            p[k] = p[k] - rate * (unbiased + DECAY * p[k] * (p[k].ndim > 1))
    return p


def rounded(a: Array) -> Array:
    """To 11 significant bits, as float32."""
    mantissa, exponent = np.frexp(a)
    return np.ldexp(np.rint(mantissa * 2048) / 2048, exponent).astype(np.float32)


def kernel(c: Array) -> Array:
    """[C_in*9, C_out] as ONNX's [C_out, C_in, 3, 3]."""
    return np.ascontiguousarray(c.T.reshape(c.shape[1], -1, 3, 3))


def export(path: Path, name: str, nodes: list[onnx.NodeProto], weights: Params) -> int:
    """Writes and checks model.onnx; returns its number of parameters."""
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 1, SIZE, SIZE])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])]
    values = [numpy_helper.from_array(rounded(v), k) for k, v in weights.items()]
    graph = helper.make_graph(nodes, name, inputs, outputs, values)
    opsets = [helper.make_opsetid("", 13)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="lensgate-train-digits")
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return sum(v.size for v in weights.values())


def export_linear(path: Path, p: Params) -> int:
    node = helper.make_node
    nodes = [node("Flatten", ["input"], ["flat"], axis=1), node("Gemm", ["flat", "w", "b"], ["logits"])]
    return export(path, "digits_linear", nodes, p)


def export_cnn(path: Path, p: Params) -> int:
    node = helper.make_node
    same: Any = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        node("Conv", ["input", "c1", "b1"], ["conv1"], **same),
        node("Relu", ["conv1"], ["relu1"]),
        node("Conv", ["relu1", "c2", "b2"], ["conv2"], **same),
        node("Relu", ["conv2"], ["relu2"]),
        node("MaxPool", ["relu2"], ["pool"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["pool"], ["flat"], axis=1),
        node("Gemm", ["flat", "w3", "b3"], ["dense"]),
        node("Relu", ["dense"], ["relu3"]),
        node("Gemm", ["relu3", "w4", "b4"], ["logits"]),
    ]
    return export(path, "digits_cnn", nodes, {**p, "c1": kernel(p["c1"]), "c2": kernel(p["c2"])})


def confidences(path: Path, x: Array) -> Array:
    """What the exported file answers, after softmax."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return softmax(session.run(["logits"], {"input": x})[0].astype(np.float64))


def choose_samples(y: Array, one: Array, two: Array) -> dict[str, int]:
    """One clear picture a digit (`_a`), and two that only version 2 gets right (`_b`)."""
    right1, right2 = one.argmax(1) == y, two.argmax(1) == y
    clear = right1 & right2 & (one.max(1) > 0.8) & (two.max(1) > 0.9)
    chosen = {f"{d}_a.png": int(np.flatnonzero(clear & (y == d))[0]) for d in range(CLASSES)}
    for i in np.flatnonzero(~right1 & right2 & (two.max(1) > 0.9))[:2]:
        chosen.setdefault(f"{y[i]}_b.png", int(i))
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and export the model `digits`.")
    default = Path(__file__).resolve().parents[2] / "model-store" / "digits"
    parser.add_argument("--out", type=Path, default=default, help="the model's folder (model-store/digits)")
    out: Path = parser.parse_args().out

    digits = load_digits()
    train, test, y, y_test = train_test_split(
        digits.images, digits.target, test_size=0.25, random_state=SEED, stratify=digits.target
    )
    plain = tensor([pixels(draw(d)) for d in train]).astype(np.float64)
    shifted = np.stack([tensor([pixels(draw(d, dx, dy)) for d in train]) for dx in SHIFTS for dy in SHIFTS])
    files = [png(draw(d)) for d in test]
    x_test = tensor([pixels(Image.open(io.BytesIO(f))) for f in files])

    paths = {version: out / str(version) / "model.onnx" for version in (1, 2)}
    sizes = {1: export_linear(paths[1], train_linear(plain, y))}
    sizes[2] = export_cnn(paths[2], train_cnn(shifted.astype(np.float64), y))
    answers = {version: confidences(path, x_test) for version, path in paths.items()}
    for version, answer in answers.items():
        right = int((answer.argmax(1) == y_test).sum())
        print(f"version {version}: {right}/{len(y_test)} = {right / len(y_test):.2%}, {sizes[version]} parameters")

    (out / "test-split.txt").write_text("".join(written(d, label) for d, label in zip(test, y_test)))
    (out / "labels.txt").write_text("".join(f"{d}\n" for d in range(CLASSES)))
    samples = out / "samples"
    samples.mkdir(exist_ok=True)
    for old in samples.glob("*.png"):
        old.unlink()
    for name, i in sorted(choose_samples(y_test, answers[1], answers[2]).items()):
        (samples / name).write_bytes(files[i])
        print(name, *(f"v{v}: {a[i].argmax()} {a[i].max():.4f}" for v, a in answers.items()))

    manifest = out / "model.toml"
    goldens = tomllib.loads(manifest.read_text()).get("golden", []) if manifest.exists() else []
    for golden in goldens:
        x = tensor([pixels(Image.open(out / golden["image"]))])
        for version, path in paths.items():
            answer = confidences(path, x)[0]
            if str(answer.argmax()) != golden["label"] or answer.max() < golden.get("min_confidence", 0.0):
                raise SystemExit(f"golden {golden['image']} fails on version {version}: {answer.round(4)}")
    print(f"{len(goldens)} golden pictures pass on both versions")


if __name__ == "__main__":
    main()
