"""A function of TensorFlow's to ONNX, by tf2onnx; what Keras models, SavedModels and TFLite files have in common.

tf2onnx 1.17 has faults that cost graphs speed or fail them, mended here from outside until it does so itself:
- It uses names that NumPy 2 took away. Keras has a repair of that for its own exports.
- Its optimiser gives up on the whole graph where a scalar is added behind a convolution, as in every hard-swish: a
  MobileNetV3 keeps a hundred transposes. A scalar is the same in every layout, so it may be moved past them.
- It takes the constants that a function has captured for inputs, and loses their values; so does Keras's own export of
  an EfficientNet, by its normalisation. Freezing the function before the conversion makes them constants again.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lensgate_export.failures import Failure

# Both of the gateway's backends execute what is written in it.
_OPSET = 17


def load() -> Any:
    """TensorFlow, quiet, on the CPU."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    # Warnings about what TensorFlow and tf2onnx still use are for their authors.
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*tf.lite.Interpreter.*")
    try:
        with silent():
            import tensorflow
    except ImportError as error:
        raise Failure(f"TensorFlow is not there ({error}): start with tools/models.sh, which fetches it") from error
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    return tensorflow


def to_onnx(function: Callable[[Any], Any], spec: Any, onnx: Path) -> None:
    """Writes `function` of one tensor of the `TensorSpec` `spec` to `onnx`."""
    tensorflow = load()
    _mend()
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    try:
        with silent():
            concrete = tensorflow.function(function, input_signature=[spec]).get_concrete_function()
            frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=False)
            inputs = [tensor.name for tensor in frozen.inputs if tensor.op.type == "Placeholder"]
            outputs = [tensor.name for tensor in frozen.outputs]
            tf2onnx.convert.from_graph_def(
                frozen.graph.as_graph_def(),
                input_names=inputs, output_names=outputs, opset=_OPSET, output_path=str(onnx),
            )  # fmt: skip
    except Exception as error:  # tf2onnx and TensorFlow raise what they like
        raise Failure(f"tf2onnx cannot convert this model: {first_line(error)}") from error


def tflite_to_onnx(tflite: Path, onnx: Path) -> None:
    """Writes a TFLite file's graph to `onnx`."""
    load()
    _mend()
    import tf2onnx

    try:
        with silent():
            tf2onnx.convert.from_tflite(str(tflite), opset=_OPSET, output_path=str(onnx))
    except Exception as error:  # as above
        raise Failure(f"tf2onnx cannot convert {tflite}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """What an error of many lines says first."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Drops what Python code and libraries in C++ print while converting; what matters is raised."""
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


@functools.cache
def _mend() -> None:
    # Keras's repair is private; the versions are pinned together, and the tests convert by every way that needs it.
    from keras.src.export.tf2onnx_lib import patch_tf2onnx
    from tf2onnx.optimizer.transpose_optimizer import TransposeOptimizer

    patch_tf2onnx()
    vectors_only = TransposeOptimizer._add_handler

    @functools.wraps(vectors_only)
    def scalars_too(self: Any, trans: Any, node: Any) -> Any:
        added = node.inputs[1]
        if added.is_const() and added.get_tensor_value(as_list=False).ndim == 0:
            return self._handle_node_having_branches(trans, node)
        return vectors_only(self, trans, node)

    TransposeOptimizer._add_handler = scalars_too
