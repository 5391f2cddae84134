"""Options as other tools spell them: what the messages name exists, and what exists is not hinted at."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.option_fields import fields
from pipeline.option_hints import HINTS, hint_for
from pipeline.options import Config
from tests.configs import SMALL, mistakes

OPTIONS = {".".join(path) for path, _ in fields(Config)}


def test_every_hint_names_an_option_that_exists_or_says_why_not() -> None:
    for hint in set(HINTS.values()):
        named = re.findall(r"\b[a-z_]+\.[a-z_0-9]+", hint.replace("metrics.jsonl", ""))
        first = hint.split(",")[0].split(":")[0].split(" ")[0]
        assert set(named) <= OPTIONS, hint
        assert named or first in OPTIONS or hint.startswith("not needed: "), hint


def test_no_hint_hides_an_option_of_ours() -> None:
    assert {name.rpartition(".")[2] for name in OPTIONS} & HINTS.keys() == set()


@pytest.mark.parametrize("name", ["batch-size", "--batch_size", "BATCH_SIZE", "--batch.size"])
def test_a_name_is_known_in_every_way_of_writing(name: str) -> None:
    assert hint_for(name) == "schedule.global_batch, the samples of an update over all processes"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("epochs", "here it is schedule.steps: a step is one generator update"),
        ("schedule.epochs", "here it is schedule.steps: a step is one generator update"),
        ("batch_size", "here it is schedule.global_batch, the samples of an update over all processes"),
        ("batch", "here it is schedule.global_batch"),
        ("aug", "here it is augment.kinds, as in augment.kinds=[colour,shift,cutout]"),
        ("r1_gamma", "here it is objective.r1"),
        ("wandb", "here it is not needed: TensorBoard files and metrics.jsonl are always written"),
        ("gpus", "here it is runtime.processes, or `wgan train CONFIG --processes N`"),
        ("lr", "did you mean critic_optimizer.lr or generator_optimizer.lr?"),
        ("n_critic", "here it is schedule.critic_updates"),
    ],
)
def test_an_override_as_other_tools_spell_it_is_named_as_here(tmp_path: Path, name: str, hint: str) -> None:
    (mistake,) = mistakes(tmp_path, SMALL, f"{name}=1")[1:]
    assert mistake.startswith(f"command line: {name}: unknown option; {hint}")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (
            ["--resume"],
            "--resume: here it is not needed: the same command resumes a run by itself, and so does `wgan",
        ),
        (["--epochs", "5"], "--epochs: here it is schedule.steps: "),
        (["--batch-size=8"], "--batch-size=8: here it is schedule.global_batch, "),
        (["--lr", "1"], "--lr: write critic_optimizer.lr=... and generator_optimizer.lr=..."),
        (["--seed", "1"], "--seed: write seed=..."),
        (["--gpus", "2"], "--gpus: here it is runtime.processes, "),
        (["--nosuch"], "options of a config are arguments like schedule.steps=500"),
    ],
)
def test_a_flag_as_other_tools_spell_it_is_named_as_here(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.train import main as train

    for command in (lambda: main(["train", "digits", *words]), lambda: train(["digits", *words])):
        with pytest.raises(SystemExit) as ended:
            command()
        assert ended.value.code == 2
        shown = capsys.readouterr().err
        assert f"error: unrecognized arguments: {' '.join(words)}\n  {hint}" in shown
