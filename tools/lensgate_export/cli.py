"""The command line: one subcommand a way in, and `quantize`, `compare` and `check` for what is there.

Exit codes: 0 done, 1 it failed or is not good enough, 2 the command was not worded right.
"""

from __future__ import annotations

import argparse
import functools
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lensgate_export.failures import Failure, Misuse


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; messages go to standard error, tables to standard output."""
    # One thread unless asked otherwise: figures are then the same from run to run, and a laptop stays usable.
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(name, "1")
    # So that what is half written goes also when somebody ends the command.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = _parser()
    args = parser.parse_args(arguments)
    try:
        args.run(args)
    except Misuse as error:
        print(f"lensgate_export: {error}", file=sys.stderr)
        return 2
    except Failure as error:
        print(f"lensgate_export: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lensgate_export", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _keras(commands)
    _torch(commands)
    _timm(commands)
    _savedmodel(commands)
    _tflite(commands)
    _quantize(commands)
    _compare(commands)
    _check(commands)
    return parser


def _command(commands: Any, name: str, help: str, run: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help)
    parser.set_defaults(run=run)
    return parser


def _exporting(parser: argparse.ArgumentParser) -> None:
    """What every way in has in common."""
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="STORE/MODEL/VERSION", help="the version's folder; must not be there")
    add("--labels", type=Path, required=True, metavar="FILE", help="one label a line, in output order")
    add("--classes", type=_positive, metavar="N", help="how many there are; checked against the labels")
    add("--samples", type=Path, required=True, metavar="DIR",
        help="pictures to compare on: DIR/LABEL/*.jpg, or DIR/LABEL_*.png; without labels no golden pictures")  # fmt: skip
    add("--golden", type=_count, default=3, metavar="N", help="golden pictures to keep, from the samples [3]")
    add("--golden-min-confidence", type=_share, default=0.5, metavar="P", help="how sure they must be [0.5]")
    _judging(parser, 0.002)


def _judging(parser: argparse.ArgumentParser, tolerance: float) -> None:
    add = parser.add_argument
    add("--tolerance", type=_share, default=tolerance, metavar="D",
        help=f"the most by which a confidence may differ [{tolerance:g}]")  # fmt: skip
    add("--limit", type=_positive, default=200, metavar="N", help="the most samples that are looked at [200]")
    add("--gateway", type=Path, metavar="FILE", help="the gateway's binary [LENSGATE_GATEWAY, else target/*/lensgate, else the PATH's]")
    add("--no-parity", action="store_true", help="do not ask the gateway")
    add("--seed", type=int, default=1, help="of everything random [1]")


def _sized(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=_positive, nargs=2, metavar=("H", "W"), help="of the model's input, in pixels")


def _keras(commands: Any) -> None:
    from lensgate_export import from_keras, manifest

    parser = _command(commands, "keras", "From Keras: an application with a new head, or a saved model.", _run_keras)
    add = parser.add_argument
    add("--architecture", choices=sorted(from_keras.ARCHITECTURES), metavar="NAME",
        help=f"one of {', '.join(sorted(from_keras.ARCHITECTURES))}")  # fmt: skip
    add("--weights", required=True, metavar="none|FILE",
        help="none: random; FILE.weights.h5: of build_model; FILE.keras or FILE.h5: a whole model")  # fmt: skip
    add("--mode", choices=from_keras.MODES, help="how the model wants its pixels [the architecture's]")
    add("--interpolation", choices=manifest.FILTERS, default="nearest", help="load_img's in training [nearest]")
    add("--trained-on", choices=("load-img", "image-dataset"), default="load-img",
        help="what made the tensors in training; image-dataset means bilinear")  # fmt: skip
    add("--activation", choices=manifest.ACTIVATIONS, help="behind the model [none where it ends in one, else softmax]")
    add("--dropout", type=_share, default=0.2, help="before the head; changes nothing that is served [0.2]")
    _sized(parser)
    _exporting(parser)


def _run_keras(args: argparse.Namespace) -> None:
    from lensgate_export import from_keras, ship

    plan = ship.Plan.of(args)
    ship.ship(plan, args, functools.partial(from_keras.export, plan, args))


def _torch(commands: Any) -> None:
    parser = _command(commands, "torch", "From torchvision: a classifier with its published transform.", _run_torch)
    parser.add_argument("--transform", metavar="WEIGHTS",
        help="whose published transform it was trained with, e.g. IMAGENET1K_V1 [DEFAULT's]")  # fmt: skip
    _torch_like(parser)


def _timm(commands: Any) -> None:
    _torch_like(_command(commands, "timm", "From timm: a classifier with its evaluation transform.", _run_timm))


def _torch_like(parser: argparse.ArgumentParser) -> None:
    from lensgate_export import manifest

    add = parser.add_argument
    add("--architecture", required=True, metavar="NAME", help="its name in the library, e.g. mobilenet_v3_small")
    add("--weights", required=True, metavar="none|FILE", help="none: random; a state dict: .pth, .pt or .safetensors")
    add("--activation", choices=manifest.ACTIVATIONS, default="softmax", help="behind the model [softmax]")
    _sized(parser)
    _exporting(parser)


def _run_torch(args: argparse.Namespace) -> None:
    from lensgate_export import from_torch, ship

    plan = ship.Plan.of(args)
    ship.ship(plan, args, functools.partial(from_torch.export_torchvision, plan, args))


def _run_timm(args: argparse.Namespace) -> None:
    from lensgate_export import from_torch, ship

    plan = ship.Plan.of(args)
    ship.ship(plan, args, functools.partial(from_torch.export_timm, plan, args))


def _savedmodel(commands: Any) -> None:
    parser = _command(commands, "savedmodel", "From a SavedModel of TensorFlow's.", _run_savedmodel)
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="DIR", help="the SavedModel's folder")
    add("--signature", default="serving_default", metavar="NAME", help="what is called [serving_default]")
    add("--output", metavar="NAME", help="which of the signature's outputs, where it has several")
    _sized(parser)
    _file_like(parser)


def _tflite(commands: Any) -> None:
    parser = _command(commands, "tflite", "From a TFLite file; a quantised one stays quantised.", _run_tflite)
    parser.add_argument("--model", type=Path, required=True, metavar="FILE", help="the .tflite file")
    _file_like(parser)


def _file_like(parser: argparse.ArgumentParser) -> None:
    from lensgate_export import manifest, pixels

    parser.add_argument("--activation", choices=manifest.ACTIVATIONS,
        help="behind the model [none where it ends in one, else softmax]")  # fmt: skip
    pixels.add_options(parser)
    _exporting(parser)


def _run_savedmodel(args: argparse.Namespace) -> None:
    from lensgate_export import from_tensorflow, ship

    plan = ship.Plan.of(args)
    ship.ship(plan, args, functools.partial(from_tensorflow.export_savedmodel, plan, args))


def _run_tflite(args: argparse.Namespace) -> None:
    from lensgate_export import from_tensorflow, ship

    plan = ship.Plan.of(args)
    ship.ship(plan, args, functools.partial(from_tensorflow.export_tflite, plan, args))


def _quantize(commands: Any) -> None:
    parser = _command(commands, "quantize", "A float version to int8, by a calibration set.", _run_quantize)
    add = parser.add_argument
    add("version", type=Path, metavar="VERSION", help="the float version's folder")
    add("--out", type=Path, required=True, metavar="STORE/MODEL/VERSION", help="the int8 version's; must not be there")
    add("--calibration", type=Path, required=True, metavar="DIR", help="pictures as it will be sent; some hundred")
    add("--calibration-limit", type=_positive, default=500, metavar="N", help="the most that are used [500]")
    add("--samples", type=Path, required=True, metavar="DIR", help="other pictures, to compare on")
    add("--method", choices=("minmax", "entropy", "percentile"), default="minmax", help="of calibration [minmax]")
    add("--exclude", nargs="+", default=[], metavar="NODE|TYPE", help="what stays float")
    add("--min-agreement", type=_share, default=0.98, metavar="P", help="not written below it [0.98]")
    add("--max-accuracy-drop", type=_share, metavar="P", help="not written above it")
    add("--force", action="store_true", help="written all the same")
    _judging(parser, 0.002)


def _run_quantize(args: argparse.Namespace) -> None:
    from lensgate_export.quantize import quantize

    quantize(args)


def _compare(commands: Any) -> None:
    parser = _command(commands, "compare", "Two versions' size, speed and accuracy side by side.", _run_compare)
    add = parser.add_argument
    add("first", type=Path, metavar="VERSION")
    add("second", type=Path, metavar="VERSION")
    add("--samples", type=Path, required=True, metavar="DIR", help="DIR/LABEL/*.jpg, or DIR/LABEL_*.png")
    add("--limit", type=_positive, default=200, metavar="N", help="the most samples that are looked at [200]")
    add("--min-agreement", type=_share, default=0.0, metavar="P", help="exit code 1 below it")


def _run_compare(args: argparse.Namespace) -> None:
    from lensgate_export import comparison, manifest
    from lensgate_export.reference import demand_version
    from lensgate_export.samples import found

    demand_version(args.first)
    labels = manifest.read_labels(args.first, manifest.read(args.first))
    if labels is None:
        raise Failure(f"{args.first} has no labels")
    pair = comparison.compared(args.first, args.second, found(args.samples, labels, args.limit), labels)
    print(pair.shown())
    if pair.agreement < args.min_agreement:
        raise Failure(f"they agree on {pair.agreement:.2%}, less than {args.min_agreement:.2%}")


def _check(commands: Any) -> None:
    parser = _command(commands, "check", "The gateway's answers against the framework's, once more.", _run_check)
    parser.add_argument("version", type=Path, metavar="VERSION")
    parser.add_argument("--samples", type=Path, required=True, metavar="DIR", help="the pictures of the export")
    _judging(parser, 0.002)


def _run_check(args: argparse.Namespace) -> None:
    from lensgate_export.check import check

    check(args)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return number
