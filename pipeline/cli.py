"""The `wgan` command. What needs torch is imported when it is called for, so that --help is quick."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

from pipeline.commands import shards as shards_command
from pipeline.errors import ConfigError, PipelineError

if TYPE_CHECKING:
    from pipeline.options import RuntimeOptions

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

OVERRIDES = "section.option=value"
TRAIN_EXAMPLES = """\
examples:
  wgan train configs/digits.yaml
  wgan train configs/digits.yaml name=digits-2 schedule.steps=2000 objective.clip=0.03
  wgan train configs/mnist.yaml --processes 2

The same command continues a run that was stopped. On several machines, or under a scheduler, launch
`accelerate launch -m pipeline.train CONFIG` instead: see launch/. All options of a config:
  python -m pipeline.train --help
"""
SAMPLE_EXAMPLES = """\
examples:
  wgan sample runs/digits                              a grid of 64 images, from the moving average
  wgan sample runs/digits --count 1000 --files         one PNG each
  wgan sample runs/digits --no-ema --checkpoint 800 --seed 7 --out grid.png
  wgan sample runs/digits --seeds 0-63,100             of each seed the first image
  wgan sample digits.safetensors --truncation 0.7 --npz --count 5000

An .npz holds uint8 `images` (count, height, width, channels) and float32 `latents` (count, latent).
"""
INTERPOLATE_EXAMPLES = """\
examples:
  wgan interpolate runs/digits                         a strip: from each of 8 latents to the next
  wgan interpolate runs/digits --seeds 3,14,15 --positions 12 --out strip.png
  wgan interpolate runs/digits --animation loop.gif    the same way as a film without a seam, too
  wgan interpolate runs/digits --animation loop.mp4 --seconds 20      needs the extra `video`

The way goes along great circles, and from the last latent back to the first.
"""
EXPORT_EXAMPLES = """\
examples:
  wgan export runs/digits --format safetensors --out digits.safetensors
  wgan export runs/digits --format onnx --out digits.onnx             needs the extra `onnx`
  wgan export runs/digits --format program --out digits.pt2

safetensors  weights and a card that says how to build the network: for `wgan sample` and
             pipeline.load_generator(FILE). Reading it never runs code.
onnx         `latents` (batch, latent) to `images` in [-1, 1], for onnxruntime and others.
program      the same for torch.export.load, without this package. torch unpickles parts of such a
             file, which can run code: load only those that you trust. No command here reads one.

The last two are run beside PyTorch before they get their name: no pixel may differ by over 1e-4.
Beside each file its card is written as FILE.json.
"""
PLOT_EXAMPLES = """\
examples:
  wgan plot runs/digits                                curves.png and training.gif in the run's directory
  wgan plot runs/digits --out pictures                 the same in another one
  wgan plot runs/digits runs/digits-2                  both runs' curves over one another: comparison.png

A run can be drawn while it trains, and after it was stopped.
"""

EVALUATE_EXAMPLES = """\
examples:
  wgan evaluate runs/digits                                          by pixels: needs no weights
  wgan evaluate runs/mnist --features classifier --classifier data/mnist.classifier.safetensors \\
      --metrics fid precision recall modes class_distance --checkpoint 200 3000
  wgan evaluate runs/cifar10 --features inception --metrics fid kid --samples 50000 --processes 8
  wgan evaluate runs/digits --neighbours                             a picture of what it may have copied

fid, kid            distances between the distributions of features; smaller is better
precision, recall   the share of samples among the real images, and of real images among the samples
density, coverage   the same, less swayed by single odd images
copied              the share of samples nearer to a training image than 99% of held-out ones: 0.01 is natural
swd                 sliced Wasserstein distance of patches at several sizes; smaller is better
modes               classes that occur; class_distance: how far their shares are from the real ones

Figures compare only where samples, features and the set are the same; each is kept with all of these.
"""
FEATURES_EXAMPLES = """\
examples:
  wgan features train data/mnist                       data/mnist.classifier.safetensors
  wgan features train data/photos --epochs 30 --out photos.safetensors
"""
REPORT_EXAMPLES = """\
examples:
  wgan report runs/digits                              report.html in the run's directory
  wgan report runs/digits --out digits.html

The page holds its pictures in itself: it can be mailed, and opens in any browser without a network.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parsed = _parse(words)
    parsed.words = words
    try:
        code: int = parsed.func(parsed)
        return code
    except PipelineError as error:
        print(f"error (exit {error.exit_code}): {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parse(words: Sequence[str]) -> argparse.Namespace:
    """The arguments. Options of a config may stand after flags too, where argparse leaves them over."""
    parser = _parser()
    parsed, rest = parser.parse_known_args(words)
    are_overrides = hasattr(parsed, "overrides") and all("=" in word and word[0] != "-" for word in rest)
    if rest and not are_overrides:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        parsed.overrides += rest
    return parsed


def _train(parsed: argparse.Namespace) -> int:
    if parsed.processes is not None:
        _check_processes(parsed.processes)
    from pipeline.config import load_config

    config = load_config(parsed.config, parsed.overrides)
    processes = parsed.processes or _default_processes(config.runtime)
    words = [str(parsed.config), *parsed.overrides]
    if processes > 1:
        _become_launcher(processes, "pipeline.train", words)
    from pipeline import train

    return train.main(words)


def _default_processes(options: RuntimeOptions) -> int:
    """As many as the config asks for; else one for each GPU that is to be used, or one."""
    if options.processes is not None:
        return options.processes
    if options.device == "cpu":
        return 1
    import torch

    return max(torch.cuda.device_count(), 1)


def _check_processes(processes: int) -> None:
    if processes < 1:
        raise ConfigError(f"--processes {processes}: at least one process is needed.")


def _become_launcher(processes: int, module: str, words: Sequence[str]) -> NoReturn:
    """Turn this process into `accelerate launch`, with every flag that a user's own defaults could change."""
    environment = dict(os.environ)
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += ["--num_processes", str(processes), "--num_machines", "1", "--main_process_port", "0"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "-m", module, *words]
    sys.stdout.flush()
    os.execve(sys.executable, command, environment)


def _sample(parsed: argparse.Namespace) -> int:
    from pipeline.commands.sample import sample

    return sample(parsed)


def _interpolate(parsed: argparse.Namespace) -> int:
    from pipeline.commands.interpolate import interpolate

    return interpolate(parsed)


def _export(parsed: argparse.Namespace) -> int:
    from pipeline.commands.export import export

    return export(parsed)


def _plot(parsed: argparse.Namespace) -> int:
    from pipeline.commands.plot import plot

    return plot(parsed)


def _report(parsed: argparse.Namespace) -> int:
    from pipeline.commands.report import report

    return report(parsed)


def _evaluate(parsed: argparse.Namespace) -> int:
    if parsed.processes is not None:
        _check_processes(parsed.processes)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # A rank that waits for another one hears no KeyboardInterrupt until that one answers.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from pipeline.commands.evaluate import evaluate

    return evaluate(parsed)


def _train_features(parsed: argparse.Namespace) -> int:
    from pipeline.commands.features import train_features

    return train_features(parsed)


def _doctor(parsed: argparse.Namespace) -> int:
    from pipeline.commands.doctor import doctor

    return doctor(parsed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wgan", description="Train Wasserstein GANs on sharded images, on one machine or many."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    shards_command.add_parser(commands)
    for add in (
        _add_train,
        _add_sample,
        _add_interpolate,
        _add_export,
        _add_plot,
        _add_report,
        _add_evaluate,
        _add_features,
        _add_doctor,
    ):
        add(commands)
    return parser


def _command(commands: Commands, name: str, summary: str, examples: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name, help=summary, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def _add_train(commands: Commands) -> None:
    train = _command(commands, "train", "train on this machine", TRAIN_EXAMPLES)
    train.add_argument("config", type=Path, metavar="CONFIG")
    train.add_argument("overrides", nargs="*", metavar=OVERRIDES)
    train.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="ranks to start (default: runtime.processes, else one for each GPU)",
    )
    train.set_defaults(func=_train)


def _add_sample(commands: Commands) -> None:
    sample = _command(commands, "sample", "draw images from a run", SAMPLE_EXAMPLES)
    _add_generator(sample)
    sample.add_argument("--count", type=int, help="images to draw (default 64)")
    sample.add_argument("--seed", type=int, help="of the latents (default 0)")
    sample.add_argument("--seeds", metavar="LIST", help="one image for each, such as 0-63,100")
    _add_truncation(sample)
    kinds = sample.add_mutually_exclusive_group()
    kinds.add_argument("--files", action="store_true", help="one PNG for each image instead of a grid")
    kinds.add_argument(
        "--npz", action="store_true", help="one .npz with images and latents instead of a grid"
    )
    sample.add_argument(
        "--out",
        type=Path,
        help="a .png, an .npz or a directory of files (default: in RUN/samples, or beside an exported file)",
    )
    sample.set_defaults(func=_sample)


def _add_interpolate(commands: Commands) -> None:
    interpolate = _command(commands, "interpolate", "draw the way between latents", INTERPOLATE_EXAMPLES)
    _add_generator(interpolate)
    interpolate.add_argument(
        "--seeds", default="0-7", metavar="LIST", help="of the latents to pass, such as 0-3,10 (default 0-7)"
    )
    _add_truncation(interpolate)
    interpolate.add_argument(
        "--positions", type=int, default=9, help="images of a row, with both its ends (default 9)"
    )
    interpolate.add_argument(
        "--out", type=Path, help="the strip, a PNG (default: in RUN/samples, or beside an exported file)"
    )
    interpolate.add_argument("--animation", type=Path, metavar="FILE", help="a film too: .gif or .mp4")
    interpolate.add_argument("--seconds", type=float, help="of the film (default: 1 for each latent)")
    interpolate.set_defaults(func=_interpolate)


def _add_export(commands: Commands) -> None:
    export = _command(commands, "export", "write a run's generator as one file", EXPORT_EXAMPLES)
    _add_generator(export)
    export.add_argument("--format", choices=("safetensors", "onnx", "program"), required=True)
    export.add_argument("--out", type=Path, required=True, metavar="FILE")
    export.set_defaults(func=_export)


def _add_plot(commands: Commands) -> None:
    plot = _command(
        commands,
        "plot",
        "draw a run's curves and its samples as an animation, or the curves of several runs",
        PLOT_EXAMPLES,
    )
    plot.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="a run's directory, such as runs/digits"
    )
    plot.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where to write (default: RUN; of several runs, the current directory)",
    )
    plot.set_defaults(func=_plot)


def _add_report(commands: Commands) -> None:
    report = _command(commands, "report", "write a run as one HTML page", REPORT_EXAMPLES)
    report.add_argument("run", type=Path, metavar="RUN", help="a run's directory, such as runs/digits")
    report.add_argument("--out", type=Path, metavar="FILE", help="an .html (default: report.html in RUN)")
    report.set_defaults(func=_report)


def _add_doctor(commands: Commands) -> None:
    doctor = commands.add_parser("doctor", help="show versions, devices and what a config would use")
    doctor.add_argument("config", type=Path, metavar="CONFIG", nargs="?")
    doctor.add_argument("overrides", nargs="*", metavar=OVERRIDES)
    doctor.set_defaults(func=_doctor)


def _add_evaluate(commands: Commands) -> None:
    evaluate = _command(commands, "evaluate", "judge the samples of a run", EVALUATE_EXAMPLES)
    evaluate.add_argument("run", type=Path, metavar="RUN", help="a run's directory, such as runs/digits")
    evaluate.add_argument(
        "--checkpoint", nargs="+", metavar="STEP", help="of which steps; best, or all (default: the newest)"
    )
    evaluate.add_argument(
        "--shards",
        metavar="DIRECTORY_OR_URL",
        help="the training images, where they are not where the run's config.yaml says",
    )
    evaluate.add_argument("--metrics", nargs="+", metavar="METRIC", help="default: the run's quality.metrics")
    evaluate.add_argument(
        "--features", choices=("pixels", "classifier", "inception"), help="default: the run's"
    )
    evaluate.add_argument("--classifier", metavar="FILE", help="made by `wgan features train`")
    evaluate.add_argument(
        "--inception", metavar="FILE", help="the network's weights, where there is no network"
    )
    evaluate.add_argument("--samples", type=int, help="images to draw (default: the run's quality.samples)")
    evaluate.add_argument("--seed", type=int, default=0, help="of the samples (default 0)")
    evaluate.add_argument(
        "--ema",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="judge the moving average of the generator's weights, or the last weights",
    )
    evaluate.add_argument(
        "--neighbours",
        action="store_true",
        help="draw samples beside the training images nearest to them: a generator should not repeat these",
    )
    evaluate.add_argument("--processes", type=int, metavar="N", help="ranks to share the work (default: one)")
    evaluate.set_defaults(func=_evaluate)


def _add_features(commands: Commands) -> None:
    features = _command(commands, "features", "train a classifier that judges samples", FEATURES_EXAMPLES)
    actions = features.add_subparsers(title="actions", required=True, metavar="ACTION")
    train = _command(actions, "train", "train it on labelled shards", FEATURES_EXAMPLES)
    train.add_argument(
        "shards", type=Path, metavar="SHARDS", help="made by `wgan shards make` from a labelled source"
    )
    train.add_argument("--out", type=Path, metavar="FILE", help="default: SHARDS.classifier.safetensors")
    train.add_argument("--epochs", type=int, default=10, help="default 10")
    train.add_argument("--images", type=int, default=100_000, help="the most to train on (default 100,000)")
    train.add_argument("--seed", type=int, default=0, help="default 0")
    train.set_defaults(func=_train_features)


def _add_generator(parser: argparse.ArgumentParser) -> None:
    """Which generator a command takes."""
    parser.add_argument(
        "run",
        type=Path,
        metavar="RUN",
        help="a run's directory, such as runs/digits, a checkpoint in it, or an exported .safetensors file",
    )
    parser.add_argument(
        "--ema",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="take the moving average of the generator's weights, or the last weights",
    )
    parser.add_argument(
        "--checkpoint",
        type=_checkpoint,
        metavar="STEP",
        help="of a run; best for the one that quality.keep_best keeps (default: the newest)",
    )


def _checkpoint(text: str) -> int | Literal["best"]:
    if text == "best":
        return "best"
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a step nor the word best")
    return int(text)


def _add_truncation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--truncation",
        type=float,
        metavar="T",
        help="redraw a latent's numbers until they are within [-T, T]: fewer odd images, less variety",
    )


if __name__ == "__main__":
    sys.exit(main())
