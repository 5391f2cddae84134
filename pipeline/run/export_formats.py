"""Writers of a trained generator as one file: for this package, for ONNX runtimes, or for torch alone."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from pipeline.durable import replacing
from pipeline.errors import ConfigError
from pipeline.run.generator import Card, TrainedGenerator, write_card, write_exported
from pipeline.run.latents import latent_batches

TOLERANCE = 1e-4
"""The largest difference allowed between images of an exported network and of PyTorch, which are in [-1, 1]."""
COMPARED_BATCHES = (1, 7)
MOST_BYTES = 2_000_000_000
"""The largest size of weights in an ONNX file: it is a protocol buffer, and these end at 2 GiB."""
ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")

Run = Callable[..., Tensor]
"""An exported network: latents (batch, latent), and labels (batch,) if it has classes, to images."""


def write_onnx(generator: TrainedGenerator, target: Path) -> None:
    """Write an ONNX model, `latents` float32 (batch, latent) to `images`, with the card in its metadata.

    If the generator has classes, `labels` int64 (batch,) is its second input: places in the card's `classes`.
    The model is compared with PyTorch on batches of 1 and 7 before it is written. Raises ConfigError if it is too
    large or its images differ by more than 1e-4, StorageError if it cannot be written.
    """
    import onnx

    size = sum(tensor.nbytes for tensor in generator.state_dict().values())
    if size > MOST_BYTES:
        raise ConfigError(
            f"The generator's weights take {size:,} bytes, and an ONNX file holds at most {MOST_BYTES:,}. Choose "
            "--format safetensors or program."
        )
    inputs, dynamic = _example(generator)
    with _quiet():
        exported = torch.onnx.export(
            generator.network,
            inputs,
            dynamo=True,
            dynamic_shapes=dynamic,
            input_names=list(generator.card.inputs),
            output_names=["images"],
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    onnx.helper.set_model_props(
        model, {"format": generator.card.format, "card": generator.card.model_dump_json()}
    )
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    check_same_images(generator, _run_onnx(content, generator.card.inputs), "The ONNX model in onnxruntime")
    _write(content, generator.card, target)


def write_program(generator: TrainedGenerator, target: Path) -> None:
    """Write a torch.export program, latents float32 (batch, latent) to images, with the card as card.json.

    If the generator has classes, labels int64 (batch,) follow the latents: places in the card's `classes`.
    The program is read back and compared with the network before it is written. torch.export.load reads it; that
    unpickles, so a file from a stranger can run code. Raises ConfigError if its images differ, StorageError.
    """
    inputs, dynamic = _example(generator)
    content = io.BytesIO()
    with _quiet():
        program = torch.export.export(generator.network, inputs, dynamic_shapes=dynamic)
        torch.export.save(program, content, extra_files={"card.json": generator.card.model_dump_json()})
        content.seek(0)
        # Safe to unpickle: these bytes were made two lines above.
        restored: ExportedProgram = torch.export.load(content)
    check_same_images(generator, restored.module(), "The program read back")
    _write(content.getvalue(), generator.card, target)


WRITERS: dict[str, Callable[[TrainedGenerator, Path], None]] = {
    "safetensors": write_exported,
    "onnx": write_onnx,
    "program": write_program,
}


@torch.no_grad()
def check_same_images(generator: TrainedGenerator, run: Run, what: str) -> None:
    """Raise ConfigError if any pixel that `run` makes differs from the generator's by more than 1e-4."""
    for count in COMPARED_BATCHES:
        inputs: list[Tensor] = [*latent_batches(generator.latent, count, seed=count)]
        if generator.classes:
            inputs.append(torch.arange(count) % len(generator.classes))
        expected, found = generator(*inputs), run(*inputs)
        if found.shape != expected.shape:
            raise ConfigError(
                f"{what} makes images of shape {tuple(found.shape)}, not {tuple(expected.shape)}. {REMEDY}"
            )
        difference = (found - expected).abs().max().item()
        # Written this way so that NaN does not pass.
        if not difference <= TOLERANCE:
            raise ConfigError(
                f"{what} makes other images: the largest difference is {difference:.3g} in a batch of {count}, and "
                f"{TOLERANCE:g} is allowed. {REMEDY}"
            )


REMEDY = "Nothing was written. Try other versions of torch and onnxruntime, or --format safetensors, which is exact."


def _example(generator: TrainedGenerator) -> tuple[tuple[Tensor, ...], tuple[dict[int, Dim], ...]]:
    """Inputs for the trace, and the declaration that any number of them is allowed."""
    # Two latents: torch would take a batch of 1 for a constant.
    latents, batch = torch.zeros(2, generator.latent), Dim("batch")
    inputs = (latents, torch.zeros(2, dtype=torch.int64)) if generator.classes else (latents,)
    return inputs, tuple({0: batch} for _ in inputs)


def _run_onnx(content: bytes, names: Sequence[str]) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> Tensor:
        given = {name: values.numpy() for name, values in zip(names, inputs, strict=True)}
        (images,) = session.run(["images"], given)
        return torch.from_numpy(images)

    return run


def _write(content: bytes, card: Card, target: Path) -> None:
    with replacing(target) as file:
        file.write(content)
    write_card(card, target)


def check_onnx_packages() -> None:
    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"--format onnx needs {', '.join(missing)}, which is not installed. Install it with "
            "`pip install 'wgan-pipeline[onnx]'`, or choose --format safetensors."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings of torch's exporters: the comparison afterwards decides."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
