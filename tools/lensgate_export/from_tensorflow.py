"""From files of TensorFlow's: a SavedModel, or a TFLite file, quantised ones too.

Called by `cli`. Neither says how pixels became its numbers; the command line does (`pixels`).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lensgate_export import pixels, tensorflow_graph
from lensgate_export.failures import Failure, Misuse
from lensgate_export.manifest import Table
from lensgate_export.reference import activated
from lensgate_export.ship import Exported, Plan

_BATCH = 8
# A quantised TFLite file computes in integers, its ONNX form in floats between roundings: each layer may round one step
# away, and the steps add up to some of the output's.
_ROUNDINGS = 0.05


def export_savedmodel(plan: Plan, args: argparse.Namespace, onnx: Path) -> Exported:
    """Writes the graph of one signature of a SavedModel to `onnx`."""
    table = pixels.asked(args)
    if not (args.model / "saved_model.pb").is_file():
        raise Failure(f"{args.model} is no SavedModel: it has no saved_model.pb")
    tensorflow = tensorflow_graph.load()
    try:
        loaded = tensorflow.saved_model.load(str(args.model))
    except Exception as error:  # TensorFlow's own classes are many
        raise Failure(f"{args.model} cannot be loaded: {tensorflow_graph.first_line(error)}") from error
    signature = _signature(loaded, args)
    name, spec = _only_input(signature)
    output = _only_output(signature, args)
    height, width, channels = _extents(spec.shape, args)

    def called(tensor: Any) -> Any:
        return signature(**{name: tensor})[output]

    # A batch of any size where the signature takes one; else what it takes.
    spec = tensorflow.TensorSpec((spec.shape[0], height, width, channels), spec.dtype, "input")
    tensorflow_graph.to_onnx(called, spec, onnx)
    prepared = pixels.floats(table, "NHWC", (height, width), channels)

    def answers(pictures: Sequence[Path]) -> np.ndarray:
        rows = []
        step = spec.shape[0] or _BATCH
        for start in range(0, len(pictures), step):
            tensor = pixels.batch(pictures[start : start + step], prepared)
            if spec.dtype != tensorflow.float32:
                limits = np.iinfo(spec.dtype.as_numpy_dtype)
                tensor = np.rint(tensor).clip(limits.min, limits.max).astype(limits.dtype)
            rows.append(called(tensorflow.constant(tensor)).numpy())
        return activated(np.concatenate(rows).reshape(len(pictures), -1), activation)

    activation = args.activation or _found(onnx)
    framework = f"SavedModel in tensorflow {tensorflow.__version__}"
    # One that takes whole numbers: the same sums, which the gateway rounds.
    section = table if spec.dtype == tensorflow.float32 else pixels.quantised(table, prepared, 1.0, 0)
    return Exported(framework, {"input": section, "output": {"activation": activation}}, answers)


def export_tflite(plan: Plan, args: argparse.Namespace, onnx: Path) -> Exported:
    """Writes the graph of a TFLite file to `onnx`; integer inputs and outputs stay integers."""
    table = pixels.asked(args)
    tensorflow = tensorflow_graph.load()
    if not args.model.is_file():
        raise Failure(f"{args.model} is not there")
    _try_apart(args.model)
    try:
        with tensorflow_graph.silent():
            interpreter = tensorflow.lite.Interpreter(model_path=str(args.model), num_threads=1)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise Failure(f"{args.model} cannot be read as TFLite: {tensorflow_graph.first_line(error)}") from error
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    if len(inputs) != 1 or len(outputs) != 1:
        raise Failure(f"{args.model} has {len(inputs)} inputs and {len(outputs)} outputs; a classifier has one of each")
    shape = [int(extent) for extent in inputs[0]["shape"]]
    if len(shape) != 4 or shape[3] not in (1, 3):
        raise Failure(f"{args.model} takes an input of shape {shape}; a picture is [1, H, W, 1 or 3]")
    tensorflow_graph.tflite_to_onnx(args.model, onnx)
    prepared = pixels.floats(table, "NHWC", (shape[1], shape[2]), shape[3])
    taken = np.dtype(inputs[0]["dtype"])
    scale_in, zero_in = inputs[0]["quantization"]
    scale_out, zero_out = outputs[0]["quantization"]
    whole_in, whole_out = taken.kind in "iu", np.dtype(outputs[0]["dtype"]).kind in "iu"
    activation = args.activation or _found(onnx)

    def answers(pictures: Sequence[Path]) -> np.ndarray:
        rows = []
        for path in pictures:
            tensor = pixels.batch([path], prepared)
            if whole_in:
                limits = np.iinfo(taken)
                tensor = np.rint(tensor.astype(np.float64) / scale_in + zero_in).clip(limits.min, limits.max).astype(taken)
            interpreter.set_tensor(inputs[0]["index"], tensor)
            interpreter.invoke()
            row = interpreter.get_tensor(outputs[0]["index"]).astype(np.float64).reshape(-1)
            rows.append((row - zero_out) * scale_out if whole_out else row)
        return activated(np.stack(rows), activation)

    section = pixels.quantised(table, prepared, scale_in, zero_in) if whole_in else table
    output: Table = {"activation": activation}
    if whole_out:
        output |= {"scale": float(scale_out), "zero_point": int(zero_out)}
    framework = f"TFLite in tensorflow {tensorflow.__version__}"
    step = float(scale_out) if whole_out else 0.0
    return Exported(
        framework, {"input": section, "output": output}, answers,
        quantised_step=step, roundings=_ROUNDINGS if _is_quantised(interpreter) else 0.0,
    )  # fmt: skip


def _try_apart(path: Path) -> None:
    """A `Failure` where the interpreter does not open the file; one that is cut off makes it crash, hence a child."""
    program = (
        "import sys, tensorflow\n"
        "interpreter = tensorflow.lite.Interpreter(model_path=sys.argv[1], num_threads=1)\n"
        "interpreter.allocate_tensors()\n"
        "interpreter.invoke()\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        reason = said[-1] if said and done.returncode > 0 else f"the interpreter crashes ({-done.returncode})"
        raise Failure(f"{path} cannot be read as TFLite: {reason}")


def _is_quantised(interpreter: Any) -> bool:
    """Whether any tensor of it is of integers with a scale."""
    tensors = interpreter.get_tensor_details()
    return any(np.dtype(each["dtype"]) in (np.uint8, np.int8) and each["quantization"][0] > 0 for each in tensors)


def _signature(loaded: Any, args: argparse.Namespace) -> Any:
    names = list(loaded.signatures)
    if not names:
        raise Failure(
            f"{args.model} has no signature, so that nothing says what to call: save it with model.export(...), or with "
            "tf.saved_model.save(model, folder, signatures=...)"
        )
    if args.signature not in names:
        raise Misuse(f"{args.model} has no signature {args.signature}; --signature is one of {', '.join(names)}")
    return loaded.signatures[args.signature]


def _only_input(signature: Any) -> tuple[str, Any]:
    _, inputs = signature.structured_input_signature
    if len(inputs) != 1:
        raise Failure(f"the signature has {len(inputs)} inputs ({', '.join(inputs)}); a picture classifier has one")
    ((name, spec),) = inputs.items()
    if spec.shape.rank != 4:
        raise Failure(f"the signature's input {name} has shape {spec.shape}; a picture input has four axes")
    if spec.dtype.name not in ("float32", "uint8", "int8"):
        raise Failure(f"the signature's input {name} is of type {spec.dtype.name}; float32, uint8 and int8 are served")
    return name, spec


def _only_output(signature: Any, args: argparse.Namespace) -> str:
    names = sorted(signature.structured_outputs)
    if args.output is not None and args.output not in names:
        raise Misuse(f"the signature has no output {args.output}; --output is one of {', '.join(names)}")
    if args.output is None and len(names) != 1:
        raise Misuse(f"the signature has several outputs: --output is one of {', '.join(names)}")
    return args.output or names[0]


def _extents(shape: Any, args: argparse.Namespace) -> tuple[int, int, int]:
    _, height, width, channels = shape.as_list()
    if args.size and (height or args.size[0], width or args.size[1]) != tuple(args.size):
        raise Misuse(f"--size is {args.size[0]} {args.size[1]}, and the model is fixed at {height} {width}")
    if height is None or width is None:
        if not args.size:
            raise Misuse("the model takes pictures of any size: --size says which it was trained with")
        height, width = args.size
    if channels not in (1, 3):
        raise Failure(f"the model takes {channels} channels; pictures of 1 and 3 are served, channels last")
    return height, width, channels


def _found(onnx: Path) -> str:
    """None where the graph ends in a softmax or sigmoid, else softmax."""
    from lensgate_export import graph

    return "none" if graph.facts(onnx).ends_in else "softmax"
