"""Make the tiny ONNX files, manifests, pictures and reference answers of this folder.

    python tests/data/make_models.py     # with the packages of tools/train_digits/requirements.txt

Every good model scores a picture by its mean colour: `red`, `green`, `blue` (`dark`, `light` for one channel), so
that each differs from the others in one thing alone: the element type, the layout, the shape, the last operator.
`models/` is what must be served, `odd/` what is served and fails for some pictures, `broken/` what must be refused with a reason, `hostile/` what never ends or takes more
memory than there is, `images/` the pictures, and `expected.json` what ONNX Runtime answers for them after Pillow's resize. The same bytes come out of every run.
"""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto as T
from onnx import helper, numpy_helper
from PIL import Image

HERE = Path(__file__).resolve().parent
MODELS, BROKEN, HOSTILE, IMAGES = HERE / "models", HERE / "broken", HERE / "hostile", HERE / "images"
ODD = HERE / "odd"
GAIN = 4.0  # scores are GAIN times the channel's mean in 0..1, so that softmax tells the colours apart
STEP = 1.0 / 256.0  # of quantised outputs
RGB, GRAY = ["red", "green", "blue"], ["dark", "light"]

Node = onnx.NodeProto
Shape = Sequence[int | str]
Consts = dict[str, np.ndarray]

NCHW: Shape = ["N", 3, 8, 8]
NHWC: Shape = ["N", 8, 8, 3]

node = helper.make_node


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


# The colour of each channel as a 1x1 convolution, its mean as a global average pool.
PICK = {"w": (np.eye(3) * GAIN).astype(np.float32).reshape(3, 3, 1, 1)}
PICK_BGR = {"w": PICK["w"][:, ::-1].copy()}


def pooled(source: str = "image", bias: str | None = None) -> list[Node]:
    """`mean` [N, 3, 1, 1] out of an NCHW float tensor in 0..1."""
    return [
        node("Conv", [source, "w"] + ([bias] if bias else []), ["colour"], kernel_shape=[1, 1]),
        node("GlobalAveragePool", ["colour"], ["mean"]),
    ]


def flat(source: str = "mean", out: str = "scores") -> list[Node]:
    return [node("Flatten", [source], [out], axis=1)]


def model(
    nodes: list[Node],
    consts: Consts,
    input_shape: Shape = NCHW,
    output_shape: Shape = ("N", 3),
    input_type: int = T.FLOAT,
    output_type: int = T.FLOAT,
    inputs: Sequence[str] = ("image",),
    opset: int = 13,
    check: bool = True,
    ml: bool = False,
) -> onnx.ModelProto:
    """A model with one output `scores`."""
    graph = helper.make_graph(
        nodes,
        "mean_colour",
        [helper.make_tensor_value_info(name, input_type, input_shape) for name in inputs],
        [helper.make_tensor_value_info("scores", output_type, output_shape)],
        [numpy_helper.from_array(v, k) for k, v in consts.items()],
    )
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid("ai.onnx.ml", 2)] if ml else [])
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="lensgate-tests")
    if check:
        onnx.checker.check_model(made, full_check=True)
    return made


def manifest(color: str = "rgb", input_extra: str = "", rest: str = "", labels: Sequence[str] = RGB) -> dict[str, str]:
    """The text files beside the versions."""
    text = f'labels = "labels.txt"\n\n[input]\ncolor = "{color}"\nsize = [8, 8]\nresize = "stretch"\ncrop = "none"\n'
    return {"model.toml": text + input_extra + rest, "labels.txt": "".join(f"{name}\n" for name in labels)}


def write(
    root: Path, name: str, data: onnx.ModelProto | bytes, texts: dict[str, str], beside: Consts | None = None
) -> None:
    """Writes the folder of a model: version 1, files beside it, and the texts."""
    version = root / name / "1"
    version.mkdir(parents=True)
    raw = data if isinstance(data, bytes) else data.SerializeToString(deterministic=True)
    (version / "model.onnx").write_bytes(raw)
    for file, value in (beside or {}).items():
        (version / file).write_bytes(value.tobytes())
    for file, text in texts.items():
        (root / name / file).write_text(text)


def textured(*base: int) -> Image.Image:
    """A 16x16 picture of about this colour, no two neighbours alike, so that a wrong resize shows."""
    y, x = np.mgrid[0:16, 0:16]
    wave = np.stack([(x * (5 + 2 * c) + y * (3 + 4 * c)) % 23 - 11 for c in range(len(base))], axis=-1)
    out = (np.array(base) + wave).astype(np.uint8)
    return Image.fromarray(out if len(base) == 3 else out[:, :, 0])


def make_images() -> None:
    IMAGES.mkdir()
    pictures = {
        "red.png": textured(222, 50, 24),
        "green.png": textured(40, 201, 70),
        "blue.png": textured(20, 66, 215),
        "gray_dark.png": textured(48),
        "gray_light.png": textured(210),
    }
    for name, picture in pictures.items():
        picture.save(IMAGES / name)
    pictures["red.png"].save(IMAGES / "red.jpg", quality=90)


def external(location: str, weights: np.ndarray) -> onnx.ModelProto:
    """A Gemm over all pixels whose weights [192, 3] lie in another file."""
    made = model([*flat("image", "flat"), node("Gemm", ["flat", "w"], ["scores"])], {"w": weights})
    tensor = made.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, location, offset=0, length=weights.nbytes)
    tensor.ClearField("raw_data")
    tensor.data_location = T.EXTERNAL
    return made


def averaging() -> np.ndarray:
    """[192, 3]: the mean of each channel, as one matrix."""
    return np.repeat(np.eye(3, dtype=np.float32) * np.float32(GAIN / 64), 64, axis=0)


def quantised(kind: type[np.integer], shift: float) -> tuple[list[Node], Consts]:
    """NHWC integers in, a softmax in steps of 1/256 out."""
    nodes = [
        node("Cast", ["image"], ["float"], to=T.FLOAT),
        node("Add", ["float", "shift"], ["raw"]),
        node("Mul", ["raw", "by255"], ["unit"]),
        node("Transpose", ["unit"], ["nchw"], perm=[0, 3, 1, 2]),
        *pooled("nchw"),
        *flat("mean", "flat"),
        node("Softmax", ["flat"], ["soft"], axis=1),
        node("QuantizeLinear", ["soft", "step", "zero"], ["scores"]),
    ]
    zero = np.array(-128 if kind is np.int8 else 0, kind)
    consts = {"shift": f32(shift), "by255": f32(1 / 255), "step": np.array(STEP, np.float32), "zero": zero}
    return nodes, {**PICK, **consts}


def make_models() -> None:
    write(MODELS, "rgb-f32", model([*pooled(), *flat()], PICK), manifest())
    write(MODELS, "rgb-f32-fixed1", model([*pooled(), *flat()], PICK, [1, 3, 8, 8], [1, 3]), manifest())
    half = [
        node("Cast", ["image"], ["float"], to=T.FLOAT),
        *pooled("float"),
        *flat("mean", "flat"),
        node("Cast", ["flat"], ["scores"], to=T.FLOAT16),
    ]
    write(MODELS, "rgb-f16", model(half, PICK, input_type=T.FLOAT16, output_type=T.FLOAT16), manifest())
    output = f"\n[output]\nscale = {STEP}\nzero_point = "
    u8 = model(*quantised(np.uint8, 0), input_shape=NHWC, input_type=T.UINT8, output_type=T.UINT8)
    write(MODELS, "rgb-u8", u8, manifest(rest=output + "0\n"))
    i8 = model(*quantised(np.int8, 128), input_shape=NHWC, input_type=T.INT8, output_type=T.INT8)
    shift = "scale = 1.0\nmean = [128.0, 128.0, 128.0]\nstd = [1.0, 1.0, 1.0]\n"
    write(MODELS, "rgb-i8", i8, manifest(input_extra=shift, rest=output + "-128\n"))
    soft = [
        *pooled(),
        node("Softmax", ["mean"], ["soft"], axis=1),
        node("Reshape", ["soft", "shape"], ["scores"]),
    ]
    write(MODELS, "rgb-softmax", model(soft, {**PICK, "shape": i64(-1, 3)}), manifest())
    sigmoid = [*pooled(bias="b"), node("Sigmoid", ["mean"], ["sigmoid"]), *flat("sigmoid")]
    write(MODELS, "rgb-sigmoid", model(sigmoid, {**PICK, "b": f32(*[-GAIN / 2] * 3)}), manifest())
    vector = [*pooled(), node("Reshape", ["mean", "shape"], ["scores"])]
    write(MODELS, "rgb-vector", model(vector, {**PICK, "shape": i64(3)}, [1, 3, 8, 8], [3]), manifest())
    conv = pooled()
    conv[-1].output[0] = "scores"
    write(MODELS, "rgb-nc11", model(conv, PICK, output_shape=["N", 3, 1, 1]), manifest())
    gray = {"w": f32(-GAIN, GAIN).reshape(2, 1, 1, 1), "b": f32(GAIN / 2, -GAIN / 2)}
    made = model([*pooled(bias="b"), *flat()], gray, ["N", 1, 8, 8], ["N", 2])
    write(MODELS, "gray-f32", made, manifest("gray", labels=GRAY))
    nhwc = [node("Transpose", ["image"], ["nchw"], perm=[0, 3, 1, 2]), *pooled("nchw"), *flat()]
    write(MODELS, "rgb-nhwc", model(nhwc, PICK, NHWC), manifest())
    write(MODELS, "rgb-sized-by-manifest", model([*pooled(), *flat()], PICK, ["N", 3, "H", "W"]), manifest())
    write(MODELS, "rgb-external", external("weights.bin", averaging()), manifest(), {"weights.bin": averaging()})
    write(MODELS, "rgb-bgr", model([*pooled(), *flat()], PICK_BGR), manifest("bgr"))


def make_broken() -> None:
    good = model([*pooled(), *flat()], PICK)
    write(BROKEN, "empty", b"", manifest())
    write(BROKEN, "text", b"This is a text file, not a model.\n", manifest())
    wide = np.arange(192 * 32, dtype=np.float32).reshape(192, 32) / 6144
    big = [*flat("image", "flat"), node("Gemm", ["flat", "w1"], ["hidden"]), node("Gemm", ["hidden", "w2"], ["scores"])]
    whole = model(big, {"w1": wide, "w2": wide[:32, :3].copy()}).SerializeToString(deterministic=True)
    write(BROKEN, "truncated", whole[: len(whole) * 6 // 10], manifest())
    write(BROKEN, "future-opset", model([*pooled(), *flat()], PICK, opset=99, check=False), manifest())
    unknown = [*pooled(), *flat("mean", "flat"), node("Frobnicate", ["flat"], ["scores"])]
    write(BROKEN, "unknown-op", model(unknown, PICK, check=False), manifest())

    weights = averaging()
    write(BROKEN, "external-missing", external("weights.bin", weights), manifest())
    write(BROKEN, "external-escape", external("../../outside.bin", weights), manifest())
    (BROKEN / "outside.bin").write_bytes(weights.tobytes())
    write(BROKEN, "external-absolute", external("/etc/hostname", weights), manifest())
    write(BROKEN, "external-short", external("weights.bin", weights), manifest(), {"weights.bin": weights[:64]})

    two = [node("Add", ["image", "other"], ["sum"]), *pooled("sum"), *flat()]
    write(BROKEN, "two-inputs", model(two, PICK, inputs=("image", "other")), manifest())
    rank3 = [
        *flat("image", "flat"),
        node("Gemm", ["flat", "w"], ["hidden"]),
        node("Reshape", ["hidden", "shape"], ["scores"]),
    ]
    consts = {"w": wide[:, :20].copy(), "shape": i64(-1, 4, 5)}
    write(BROKEN, "rank-3-output", model(rank3, consts, output_shape=["N", 4, 5]), manifest())
    whole_numbers = [*pooled(), *flat("mean", "flat"), node("Cast", ["flat"], ["scores"], to=T.INT64)]
    write(BROKEN, "int64-output", model(whole_numbers, PICK, output_type=T.INT64), manifest())
    argmax = [*pooled(), *flat("mean", "flat"), node("ArgMax", ["flat"], ["scores"], axis=1, keepdims=0)]
    made = model(argmax, PICK, output_shape=["N"], output_type=T.INT64)
    write(BROKEN, "argmax-output", made, manifest())
    names: Any = {"keys_int64s": [0, 1, 2], "values_strings": RGB, "default_string": "?"}
    named = argmax[:-1] + [node("ArgMax", ["flat"], ["best"], axis=1, keepdims=0)]
    named.append(node("LabelEncoder", ["best"], ["scores"], domain="ai.onnx.ml", **names))
    made = model(named, PICK, output_shape=["N"], output_type=T.STRING, ml=True)
    write(BROKEN, "string-output", made, manifest())
    nan = [*pooled(), *flat("mean", "flat"), node("Log", ["minus"], ["nan"]), node("Add", ["flat", "nan"], ["scores"])]
    write(BROKEN, "nan-output", model(nan, {**PICK, "minus": f32(-1)}), manifest())

    write(BROKEN, "wrong-labels", good, manifest(labels=[*RGB, "white"]))
    texts = manifest()
    texts["model.toml"] = texts["model.toml"].replace("size", "sise")
    write(BROKEN, "bad-manifest", good, texts)
    golden = '\n[[golden]]\nimage = "samples/red.png"\nlabel = "blue"\nmin_confidence = 0.5\n'
    write(BROKEN, "bad-golden", good, manifest(rest=golden))
    (BROKEN / "bad-golden" / "samples").mkdir()
    shutil.copyfile(IMAGES / "red.png", BROKEN / "bad-golden" / "samples" / "red.png")


def make_odd() -> None:
    """Models that serve, and fail for some pictures alone."""
    left = [*pooled(), *flat("mean", "flat"), node("Sub", ["most", "flat"], ["left"]), node("Log", ["left"], ["scores"])]
    write(ODD, "nan-when-bright", model(left, {**PICK, "most": f32(3.4)}), manifest())


def make_hostile() -> None:
    """Graphs that pass every check on paper. Whoever runs them here waits for ever, or is killed."""
    body = helper.make_graph(
        [node("Identity", ["going"], ["still"]), node("Sin", ["before"], ["after"])],
        "body",
        [
            helper.make_tensor_value_info("turn", T.INT64, []),
            helper.make_tensor_value_info("going", T.BOOL, []),
            helper.make_tensor_value_info("before", T.FLOAT, ["N", 3]),
        ],
        [
            helper.make_tensor_value_info("still", T.BOOL, []),
            helper.make_tensor_value_info("after", T.FLOAT, ["N", 3]),
        ],
    )
    loop = node("Loop", ["turns", "on", "flat"], ["scores"], body=body)
    consts = {**PICK, "turns": np.array(2**62, np.int64), "on": np.array(True)}
    write(HOSTILE, "endless", model([*pooled(), *flat("mean", "flat"), loop], consts), manifest())
    swell = [
        *pooled(),
        *flat("mean", "flat"),
        node("ConstantOfShape", ["much"], ["zeros"]),
        node("ReduceMax", ["zeros"], ["zero"], keepdims=0),
        node("Add", ["flat", "zero"], ["scores"]),
    ]
    write(HOSTILE, "swelling", model(swell, {**PICK, "much": i64(2**42)}), manifest())
    # The least of all integers divided by -1, made so that no checker sees it coming: ONNX Runtime dies of SIGFPE.
    divide = [
        *pooled(),
        *flat("mean", "flat"),
        node("Cast", ["flat"], ["whole"], to=T.INT32),
        node("Mul", ["whole", "zero"], ["nothing"]),
        node("Add", ["nothing", "least"], ["above"]),
        node("Sub", ["nothing", "one"], ["below"]),
        node("Div", ["above", "below"], ["ratio"]),
        node("Cast", ["ratio"], ["scores"], to=T.FLOAT),
    ]
    i32 = {name: np.array([value], np.int32) for name, value in [("zero", 0), ("one", 1), ("least", -(2**31))]}
    crashing = manifest(rest='\n[serving]\nbackend = "ort"\n')
    write(HOSTILE, "crashing", model(divide, {**PICK, **i32}), crashing)


def reference(folder: Path, picture: Path) -> list[float]:
    """The raw scores (dequantised) that ONNX Runtime gives for a picture."""
    told: dict[str, Any] = tomllib.loads((folder / "model.toml").read_text())
    color, output = told["input"]["color"], told.get("output", {})
    with Image.open(picture) as opened:
        rgb = opened.convert("RGB")
    height, width = told["input"]["size"]
    small = (rgb.convert("L") if color == "gray" else rgb).resize((width, height), Image.Resampling.BILINEAR)
    x = np.asarray(small).reshape(height, width, -1)
    x = x[:, :, ::-1] if color == "bgr" else x

    session = onnxruntime.InferenceSession(folder / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    (wanted,) = session.get_inputs()
    if wanted.type == "tensor(uint8)":
        tensor = x
    elif wanted.type == "tensor(int8)":
        tensor = (x.astype(np.int16) - 128).astype(np.int8)
    else:
        tensor = x.astype(np.float32) / np.float32(255)
        tensor = tensor.astype(np.float16) if wanted.type == "tensor(float16)" else tensor
    tensor = tensor if wanted.shape[-1] == 3 else tensor.transpose(2, 0, 1)
    scores = session.run(None, {wanted.name: np.ascontiguousarray(tensor[None])})[0].reshape(-1).astype(np.float64)
    if "scale" in output:
        scores = (scores - output["zero_point"]) * output["scale"]
    return [float(f"{score:.7g}") for score in scores]


def main() -> None:
    for folder in (MODELS, ODD, BROKEN, HOSTILE, IMAGES):
        shutil.rmtree(folder, ignore_errors=True)
    make_images()
    make_models()
    make_odd()
    make_broken()
    make_hostile()

    expected: dict[str, dict[str, list[float]]] = {}
    for folder in sorted(MODELS.iterdir()):
        labels = (folder / "labels.txt").read_text().split()
        answers = {p.name: reference(folder, p) for p in sorted(IMAGES.iterdir())}
        for name, scores in answers.items():
            label = name.split(".")[0].removeprefix("gray_")
            if label in labels and labels[int(np.argmax(scores))] != label:
                raise SystemExit(f"{folder.name}: {name} is not {label}: {scores}")
        expected[folder.name] = answers
    blocks = []
    for name, answers in expected.items():
        rows = ",\n".join(f'    "{picture}": {json.dumps(scores)}' for picture, scores in answers.items())
        blocks.append(f'  "{name}": {{\n{rows}\n  }}')
    (HERE / "expected.json").write_text("{\n" + ",\n".join(blocks) + "\n}\n")


if __name__ == "__main__":
    main()
