"""Runs for tests of what comes after training: trained on digits in a second, or written without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.config import dump_config
from pipeline.models import build_generator
from pipeline.models.sides import Resolution
from pipeline.option_data import DataOptions
from pipeline.option_types import sides_of
from pipeline.options import Config, DcganOptions, ModelOptions, ScheduleOptions
from pipeline.run.checkpoint import save_checkpoint
from tests.conftest import CONFIG
from tests.ranks import Ranks

SMALL = DcganOptions(latent=8, width=4)
MANIFEST = "5" * 64


def lively(network: nn.Module) -> nn.Module:
    """The network with other weights and statistics in every layer, so that its images are neither grey nor alike."""
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.dim() > 1:
            nn.init.kaiming_normal_(tensor)
        elif tensor.is_floating_point():
            tensor.add_(torch.randn_like(tensor), alpha=0.2)
    return network.eval()


def write_run(
    root: Path,
    model: ModelOptions = SMALL,
    resolution: Resolution = 8,
    channels: int = 1,
    name: str = "run",
    classes: Sequence[str] = (),
) -> Path:
    """A run of 4 steps with checkpoints at steps 2 and 4, in which the moving average differs from the generator.

    `classes` are those of a model that is conditional.
    """
    config = Config(
        name=name,
        run_root=str(root),
        data=DataOptions(shards="shards"),
        model=model,
        schedule=ScheduleOptions(steps=4),
    )
    run = root / name
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text(dump_config(config))
    identity = {f"model.{key}": value for key, value in model.model_dump(mode="json").items()}
    identity |= {"seed": 0, "images": [channels, *sides_of(resolution)], "data.manifest": MANIFEST}
    identity |= {"classes": list(classes)} if classes else {}
    torch.manual_seed(0)
    for step in (2, 4):
        groups: dict[str, dict[str, Tensor]] = {
            group: lively(build_generator(model, resolution, channels, len(classes))).state_dict()
            for group in ("generator", "ema")
        }
        save_checkpoint(run / "checkpoints", step, groups, {"identity": identity})
    return run


def train(root: Path, shards: Path, options: Sequence[str]) -> Path:
    """The directory of a run with the tests' config, trained by one process in `root`."""
    config = root / "config.yaml"
    config.write_text(CONFIG.format(root=root, shards=shards))
    ranks = Ranks(root)
    try:
        ranks.run(1, [str(config), *options])
    finally:
        ranks.end()
    return root / "run"


def newest(run: Path) -> Path:
    return run / "checkpoints" / "step_00000004"
