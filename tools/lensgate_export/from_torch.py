"""From torchvision and timm: an architecture with its own evaluation transform, and weights from a file.

Called by `cli`. torch is imported inside. Nothing is ever downloaded: weights are random or a file's.
"""

from __future__ import annotations

import argparse
import logging
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lensgate_export.failures import Failure, Misuse
from lensgate_export.manifest import IMAGENET_MEAN, IMAGENET_STD, Table
from lensgate_export.reference import activated
from lensgate_export.ship import Exported, Plan

# Both of the gateway's backends execute what is written in it.
_OPSET = 18
_BATCH = 8


def load() -> Any:
    """torch on one thread, or as many as OMP_NUM_THREADS says."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    for name in ("torch", "torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        import torch
    except (ImportError, ValueError, OSError) as error:
        raise Failure(f"torch is not there ({error}): start with tools/models.sh, which fetches it") from error
    return torch


def export_torchvision(plan: Plan, args: argparse.Namespace, onnx: Path) -> Exported:
    """Writes a torchvision classifier's graph to `onnx`."""
    torch = load()
    import torchvision

    torch.manual_seed(args.seed)
    known = torchvision.models.list_models(module=torchvision.models)
    if args.architecture not in known:
        raise Misuse(f"torchvision has no classifier {args.architecture}; it has {', '.join(known)}")
    model = torchvision.models.get_model(args.architecture, weights=None, num_classes=len(plan.labels))
    choices = torchvision.models.get_model_weights(args.architecture)
    if args.transform is not None and args.transform not in choices.__members__:
        raise Misuse(f"{args.architecture} has no weights {args.transform}; it has {', '.join(choices.__members__)}")
    published = (choices[args.transform] if args.transform else choices.DEFAULT).transforms()
    if args.size:
        side = _square(args.size)
        published.crop_size, published.resize_size = [side], [(side * 16 + 7) // 14]
    crop, resize = published.crop_size[0], published.resize_size[0]
    table = _table(published.mean, published.std, published.interpolation.value)
    if resize != (crop * 16 + 7) // 14:
        table["resize_to"] = resize
    name = f"torchvision {torchvision.__version__.split('+')[0]} on torch {_version(torch)}"
    return _exported(plan, args, onnx, model, published, (crop, crop), table, name)


def export_timm(plan: Plan, args: argparse.Namespace, onnx: Path) -> Exported:
    """Writes a timm classifier's graph to `onnx`."""
    torch = load()
    import timm
    import timm.data

    torch.manual_seed(args.seed)
    if not timm.is_model(args.architecture.split(".")[0]):
        close = ", ".join(timm.list_models(f"*{args.architecture.split('_')[0]}*")[:20]) or "timm.list_models() tells"
        raise Misuse(f"timm has no model {args.architecture}; near it: {close}")
    side = {"img_size": _square(args.size)} if args.size else {}
    try:
        model = timm.create_model(args.architecture, pretrained=False, num_classes=len(plan.labels), **side)
    except TypeError:
        # Convolutional networks take any size and know no such argument; transformers do.
        model = timm.create_model(args.architecture, pretrained=False, num_classes=len(plan.labels))
    asked = {"input_size": (3, _square(args.size), _square(args.size))} if args.size else {}
    config = timm.data.resolve_data_config(asked, model=model)
    _, height, width = config["input_size"]
    table = _table(config["mean"], config["std"], config["interpolation"])
    # As timm's evaluation transform computes it.
    scaled = (math.floor(height / config["crop_pct"]), math.floor(width / config["crop_pct"]))
    if config["crop_mode"] == "squash":
        table |= {"resize": "stretch", "resize_to": list(scaled)}
    elif config["crop_mode"] == "center" and height == width:
        if scaled[0] != (height * 16 + 7) // 14:
            table["resize_to"] = scaled[0]
    else:
        raise Failure(f"timm's crop mode {config['crop_mode']} at {height}x{width} has no counterpart in the manifest")
    transform = timm.data.create_transform(**config, is_training=False)
    name = f"timm {timm.__version__} on torch {_version(torch)}"
    return _exported(plan, args, onnx, model, transform, (height, width), table, name)


def _exported(
    plan: Plan,
    args: argparse.Namespace,
    onnx: Path,
    model: Any,
    transform: Callable[[Image.Image], Any],
    size: tuple[int, int],
    table: Table,
    framework: str,
) -> Exported:
    torch = load()

    def tensors(pictures: Sequence[Path]) -> Any:
        """[N, C, H, W] as the framework's own transform makes them."""
        prepared = []
        for path in pictures:
            with Image.open(path) as file:
                prepared.append(transform(file.convert("RGB")))
        return torch.stack(prepared)

    if args.weights == "none":
        spread(model, tensors(plan.pictures[:32]), args.seed)
    else:
        _read(model, Path(args.weights))
    model.eval()

    def answers(pictures: Sequence[Path]) -> np.ndarray:
        with torch.inference_mode():
            rows = [model(tensors(pictures[i : i + _BATCH])).numpy() for i in range(0, len(pictures), _BATCH)]
        return activated(np.concatenate(rows), args.activation)

    _write(model, onnx, size)
    return Exported(framework, {"input": table, "output": {"activation": args.activation}}, answers)


def _write(model: Any, onnx: Path, size: tuple[int, int]) -> None:
    torch = load()
    example = torch.zeros(2, 3, *size)
    try:
        torch.onnx.export(
            model, (example,), str(onnx), dynamo=True, opset_version=_OPSET, external_data=False, verbose=False,
            input_names=["input"], output_names=["logits"], dynamic_shapes=({0: torch.export.Dim("batch")},),
        )  # fmt: skip
    except Exception as error:  # the exporter has errors of many kinds, some with the whole program in their text
        first = str(error).strip().split("\n")[0]
        raise Failure(f"torch cannot export this model as ONNX: {first}") from error


def _read(model: Any, path: Path) -> None:
    """Loads a state dict: safetensors, or torch's own format without running any code that is in it."""
    torch = load()
    if not path.is_file():
        raise Failure(f"the weights {path} are not there")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and safetensors each have their own
        raise Failure(f"the weights {path} cannot be read: {str(error).strip().splitlines()[0]}") from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise Failure(f"{path} holds no state dict; save it with torch.save(model.state_dict(), ...)")
    state = {name.removeprefix("module."): value for name, value in state.items()}
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise Failure(f"{path} does not fit the architecture and the number of labels: {_short(error)}") from error


def spread(model: Any, batch: Any, seed: int) -> None:
    """Makes a random network say different things of different pictures, as `from_keras.spread` does.

    `batch` [N, C, H, W] is prepared. The last linear layer, or a 1x1 convolution, is taken as the head.
    """
    torch = load()
    momenta = {module: module.momentum for module in model.modules() if hasattr(module, "running_mean")}
    for module in momenta:
        module.momentum = 1.0
    with torch.no_grad():
        if momenta:
            model.train()
            model(batch)
        model.eval()
        heads = [m for m in model.modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))]
        head = heads[-1]
        generator = torch.Generator().manual_seed(seed)
        head.weight.copy_(torch.randn(head.weight.shape, generator=generator))
        if head.bias is not None:
            head.bias.zero_()
        logits = model(batch)
        # Behind a head that is squashed (as squeezenet's) the shift is not exact, and need not be.
        deviation = logits.std(dim=0) + 1e-12
        head.weight.mul_((2 / deviation).reshape(-1, *[1] * (head.weight.dim() - 1)))
        if head.bias is not None:
            head.bias.copy_(-2 * logits.mean(dim=0) / deviation)
    for module, momentum in momenta.items():
        module.momentum = momentum


def _table(mean: Sequence[float], std: Sequence[float], interpolation: str) -> Table:
    table: Table = {"preset": "torchvision"}
    if interpolation not in ("bilinear", "bicubic", "nearest", "lanczos"):
        raise Failure(f"the interpolation {interpolation} has no counterpart in the manifest")
    if interpolation != "bilinear":
        table["filter"] = interpolation
    if tuple(mean) != IMAGENET_MEAN or tuple(std) != IMAGENET_STD:
        table |= {"mean": [float(m) for m in mean], "std": [float(s) for s in std]}
    return table


def _square(size: Sequence[int]) -> int:
    if size[0] != size[1]:
        raise Misuse(f"--size {size[0]} {size[1]}: these architectures are fed with squares")
    return size[0]


def _version(torch: Any) -> str:
    return str(torch.__version__).split("+")[0]


def _short(error: Exception) -> str:
    """The first few of the layers that do not fit."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    return " ".join(lines[:4])[:500]
