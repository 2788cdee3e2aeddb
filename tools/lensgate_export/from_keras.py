"""From Keras: an application's base with a new head (`build_model`), or a model that was saved whole.

Called by `cli`. Keras is imported inside, after its surroundings are set.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lensgate_export import tensorflow_graph
from lensgate_export.failures import Failure, Misuse
from lensgate_export.manifest import IMAGENET_MEAN, IMAGENET_STD, Table
from lensgate_export.reference import activated
from lensgate_export.ship import Answers, Exported, Plan


@dataclass(frozen=True)
class Architecture:
    """An application of Keras, and how it wants its pixels: `raw`, `tf`, `caffe` or `torch`."""

    name: str  # of the class in keras.applications
    mode: str


ARCHITECTURES = {
    **{f"efficientnet-b{n}": Architecture(f"EfficientNetB{n}", "raw") for n in range(8)},
    **{f"efficientnetv2-b{n}": Architecture(f"EfficientNetV2B{n}", "raw") for n in range(4)},
    **{f"efficientnetv2-{n.lower()}": Architecture(f"EfficientNetV2{n}", "raw") for n in "SML"},
    "mobilenetv3-small": Architecture("MobileNetV3Small", "raw"),
    "mobilenetv3-large": Architecture("MobileNetV3Large", "raw"),
    "mobilenet": Architecture("MobileNet", "tf"),
    "mobilenetv2": Architecture("MobileNetV2", "tf"),
    "resnet50": Architecture("ResNet50", "caffe"),
    "resnet101": Architecture("ResNet101", "caffe"),
    "resnet152": Architecture("ResNet152", "caffe"),
    "resnet50v2": Architecture("ResNet50V2", "tf"),
    "resnet101v2": Architecture("ResNet101V2", "tf"),
    "vgg16": Architecture("VGG16", "caffe"),
    "vgg19": Architecture("VGG19", "caffe"),
    "xception": Architecture("Xception", "tf"),
    "inceptionv3": Architecture("InceptionV3", "tf"),
    "densenet121": Architecture("DenseNet121", "torch"),
    "densenet169": Architecture("DenseNet169", "torch"),
    "densenet201": Architecture("DenseNet201", "torch"),
    "nasnet-mobile": Architecture("NASNetMobile", "tf"),
    "convnext-tiny": Architecture("ConvNeXtTiny", "raw"),
}

_TABLES: dict[str, Table] = {
    "raw": {"preset": "keras-raw"},
    "tf": {"preset": "keras-tf"},
    "caffe": {"preset": "keras-caffe"},
    # No preset: Keras resizes as it does for all its families, and normalises as torchvision does.
    "torch": {"preset": "keras-raw", "scale": 1 / 255, "mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)},
}
MODES = tuple(_TABLES)


def load() -> Any:
    """Keras over TensorFlow, quiet, on the CPU."""
    tensorflow_graph.load()
    import keras

    return keras


def build_model(architecture: str, classes: int, size: tuple[int, int], dropout: float) -> Any:
    """The application's base without its top, averaged, then dropout and a softmax over `classes`; random weights."""
    keras = load()
    make = getattr(keras.applications, ARCHITECTURES[architecture].name)
    try:
        base = make(weights=None, include_top=False, pooling="avg", input_shape=(*size, 3))
    except ValueError as error:
        raise Failure(f"{architecture} cannot be built at {size[0]}x{size[1]}: {error}") from error
    hidden = keras.layers.Dropout(dropout)(base.output)
    answer = keras.layers.Dense(classes, activation="softmax")(hidden)
    return keras.Model(base.input, answer, name=architecture.replace("-", "_"))


def export(plan: Plan, args: argparse.Namespace, onnx: Path) -> Exported:
    """Writes the graph to `onnx`."""
    keras = load()
    keras.utils.set_random_seed(args.seed)
    mode, model = _model(plan, args)
    height, width, channels = (int(extent) for extent in model.input_shape[1:])
    spec = tensorflow_graph.load().TensorSpec((None, height, width, channels), "float32", "input")
    tensorflow_graph.to_onnx(lambda pixels: model(pixels, training=False), spec, onnx)
    table = dict(_TABLES[mode])
    if channels == 1:
        table["color"] = "gray"
    interpolation = "bilinear" if args.trained_on == "image-dataset" else args.interpolation
    if interpolation != "nearest":
        table["filter"] = interpolation
    activation = args.activation or _activation(model)
    told: dict[str, Answers] = {}

    def answers(pictures: Sequence[Path]) -> np.ndarray:
        batch = np.stack([_loaded(path, (height, width), interpolation, channels) for path in pictures])
        return _predicted(model, batch, mode, activation)

    if args.trained_on == "image-dataset":

        def unsmoothed(pictures: Sequence[Path]) -> np.ndarray:
            batch = np.stack([_dataset(path, (height, width), channels) for path in pictures])
            return _predicted(model, batch, mode, activation)

        told["image_dataset_from_directory's resizer"] = unsmoothed
    framework = f"keras {keras.__version__} ({args.interpolation if not told else 'load_img, bilinear'})"
    return Exported(framework, {"input": table, "output": {"activation": activation}}, answers, told)


def _model(plan: Plan, args: argparse.Namespace) -> tuple[str, Any]:
    """The mode of its preprocessing, and the model."""
    mode = args.mode or (ARCHITECTURES[args.architecture].mode if args.architecture else None)
    weights = None if args.weights == "none" else Path(args.weights)
    whole = weights is not None and not weights.name.endswith(".weights.h5")
    if mode is None:
        raise Misuse("--architecture is needed, or --mode for a whole model of another kind")
    if weights is not None and not weights.is_file():
        raise Failure(f"the weights {weights} are not there")
    if whole:
        return mode, _saved(weights, len(plan.labels))
    if args.architecture is None:
        raise Misuse("--architecture is needed where --weights is no whole model (.keras, .h5)")
    size = tuple(args.size or (224, 224))
    model = build_model(args.architecture, len(plan.labels), (size[0], size[1]), args.dropout)
    if weights is None:
        batch = np.stack([_loaded(path, (size[0], size[1]), "nearest", 3) for path in plan.pictures[:32]])
        spread(model, _prepared(batch, mode), args.seed)
        return mode, model
    try:
        model.load_weights(str(weights))
    except Exception as error:  # h5py and Keras each have their own
        raise Failure(f"{weights} does not fit {args.architecture} with {len(plan.labels)} classes: {error}") from error
    return mode, model


def _saved(path: Path | None, classes: int) -> Any:
    keras = load()
    try:
        model = keras.saving.load_model(str(path), compile=False)
    except Exception as error:  # as above
        raise Failure(f"{path} cannot be loaded by Keras: {error}") from error
    shape = model.input_shape
    if not isinstance(shape, tuple) or len(shape) != 4 or None in shape[1:]:
        raise Failure(f"{path} takes an input of shape {shape}; one picture of a fixed size is served, [N, H, W, C]")
    if shape[3] not in (1, 3):
        raise Failure(f"{path} takes {shape[3]} channels; 1 and 3 are served")
    if model.output_shape[-1] != classes:
        raise Failure(f"{path} has {model.output_shape[-1]} outputs, and there are {classes} labels")
    return model


def spread(model: Any, batch: np.ndarray, seed: int) -> None:
    """Makes a random network say different things of different pictures, which it would not by itself.

    `batch` [N, H, W, C] is prepared. Its statistics become those of the batch normalisation, and the head is scaled so
    that its logits have a standard deviation of 2 over the batch: only then can parity tell one preprocessing from
    another.
    """
    keras = load()
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(batch, training=True)
    head = model.layers[-1]
    features = keras.Model(model.input, head.input).predict(batch, verbose=0, batch_size=16)
    kernel = np.random.default_rng(seed).standard_normal((features.shape[1], model.output_shape[-1]))
    logits = features @ kernel
    deviation = logits.std(axis=0) + 1e-12
    kernel = 2 * kernel / deviation
    head.set_weights([kernel.astype(np.float32), (-2 * logits.mean(axis=0) / deviation).astype(np.float32)])


def _activation(model: Any) -> str:
    """What is left to do behind the model: nothing where its last layer is a softmax or sigmoid, else softmax."""
    last = model.layers[-1]
    name = getattr(getattr(last, "activation", None), "__name__", type(last).__name__.lower())
    return "none" if name in ("softmax", "sigmoid") else "softmax"


def _loaded(path: Path, size: tuple[int, int], interpolation: str, channels: int) -> np.ndarray:
    """[H, W, C], 0 to 255, as `load_img` makes it."""
    keras = load()
    color = "grayscale" if channels == 1 else "rgb"
    picture = keras.utils.load_img(path, color_mode=color, target_size=size, interpolation=interpolation)
    return np.asarray(keras.utils.img_to_array(picture))


def _dataset(path: Path, size: tuple[int, int], channels: int) -> np.ndarray:
    """[H, W, C], 0 to 255, as `image_dataset_from_directory` makes it: bilinear without smoothing, in floats."""
    keras = load()
    tensorflow = tensorflow_graph.load()
    color = "grayscale" if channels == 1 else "rgb"
    pixels = keras.utils.img_to_array(keras.utils.load_img(path, color_mode=color))
    return np.asarray(tensorflow.image.resize(pixels, size, method="bilinear", antialias=False))


def _prepared(batch: np.ndarray, mode: str) -> np.ndarray:
    """[N, H, W, C] through Keras's own `preprocess_input` of that mode."""
    if mode == "raw":
        return batch
    from keras.applications import densenet, mobilenet, resnet

    family = {"tf": mobilenet, "caffe": resnet, "torch": densenet}[mode]
    return np.asarray(family.preprocess_input(batch.copy()))


def _predicted(model: Any, batch: np.ndarray, mode: str, activation: str) -> np.ndarray:
    return activated(np.asarray(model.predict(_prepared(batch, mode), verbose=0, batch_size=8)), activation)
