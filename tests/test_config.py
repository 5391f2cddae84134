"""Options from defaults, a YAML file and arguments, and the resulting config."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import dump_config, load_config
from pipeline.option_help import describe_options
from pipeline.option_objective import GradientPenaltyOptions, WassersteinOptions
from pipeline.options import AdamOptions, BurstOptions, DcganOptions, RmspropOptions
from tests.configs import FULL, SMALL, load, mistakes

CONFIGS = sorted((Path(__file__).parents[1] / "configs").rglob("*.yaml"))


def test_arguments_override_the_file_and_the_file_overrides_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, SMALL + "  global_batch: 8\n", "schedule.steps=20", "seed=4")
    assert config.schedule.critic_updates == 5
    assert config.schedule.global_batch == 8
    assert config.schedule.steps == 20
    assert (config.seed, config.name) == (4, "small")


def test_the_last_of_two_arguments_counts(tmp_path: Path) -> None:
    assert load(tmp_path, SMALL, "seed=1", "seed=2").seed == 2


def test_arguments_may_set_options_of_a_section_that_the_file_lacks(tmp_path: Path) -> None:
    assert load(tmp_path, SMALL, "monitor.grid=3", "schedule.bursts.every=7").monitor.grid == 3
    assert load(tmp_path, SMALL, "schedule.bursts.every=7").schedule.bursts.every == 7  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "number"), [("5e-5", 5e-5), ("1E-3", 1e-3), ("2.5e-4", 2.5e-4), ("1e+0", 1.0), ("0.002", 0.002)]
)
def test_powers_of_ten_are_numbers(tmp_path: Path, text: str, number: float) -> None:
    assert load(tmp_path, SMALL + f"critic_optimizer: {{lr: {text}}}\n").critic_optimizer.lr == number
    assert load(tmp_path, SMALL, f"critic_optimizer.lr={text}").critic_optimizer.lr == number


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", "0: expected a value of at least 1"),
        ("257", "257: expected a value of at most 256"),
        ("2.0", "2.0: expected a whole number"),
        ("true", "True: expected a whole number"),
        ("many", "'many': expected a whole number"),
        ("[1]", "[1]: expected a whole number"),
    ],
)
def test_the_number_of_threads_is_a_whole_number_or_adapts(tmp_path: Path, value: str, expected: str) -> None:
    (mistake,) = mistakes(tmp_path, SMALL, f"runtime.threads={value}")[1:]
    assert mistake == f"command line: runtime.threads: invalid value {expected} or 'adapt'"
    assert load(tmp_path, SMALL, "runtime.threads=adapt").runtime.threads == "adapt"


def test_an_option_of_two_kinds_has_one_mistake(tmp_path: Path) -> None:
    (mistake,) = mistakes(tmp_path, SMALL, "runtime.cuda_graph=7")[1:]
    assert mistake == "command line: runtime.cuda_graph: invalid value 7: expected true or false or 'auto'"


def test_torch_chooses_the_number_of_threads_by_default(tmp_path: Path) -> None:
    assert load(tmp_path, SMALL).runtime.threads is None
    assert load(tmp_path, SMALL, "runtime.threads=null").runtime.threads is None
    assert load(tmp_path, SMALL, "runtime.threads=256").runtime.threads == 256


def test_a_section_as_an_argument_sets_only_the_options_in_it(tmp_path: Path) -> None:
    text = SMALL + "  bursts: {first_steps: 3, every: 7}\ncritic_optimizer: {lr: 0.5}\n"
    config = load(
        tmp_path, text, "schedule={bursts: {every: 9}, global_batch: 8}", "critic_optimizer={alpha: 0.9}"
    )
    assert config.schedule.bursts == BurstOptions(first_steps=3, every=9)
    assert (config.schedule.steps, config.schedule.global_batch) == (10, 8)
    assert config.critic_optimizer == RmspropOptions(lr=0.5, alpha=0.9)


def test_of_sections_and_options_as_arguments_the_last_counts(tmp_path: Path) -> None:
    overrides = [
        "schedule.bursts={every: 1, first_steps: 2}",
        "schedule.bursts.every=2",
        "schedule.bursts={every: 3}",
    ]
    assert load(tmp_path, SMALL, *overrides).schedule.bursts == BurstOptions(first_steps=2, every=3)


def test_an_empty_section_as_an_argument_is_there_and_changes_nothing(tmp_path: Path) -> None:
    assert load(tmp_path, SMALL, "schedule.bursts={}").schedule.bursts == BurstOptions()
    kept = load(tmp_path, SMALL + "  bursts: {every: 7}\n", "schedule.bursts={}")
    assert kept.schedule.bursts == BurstOptions(every=7)
    assert load(tmp_path, SMALL + "  bursts: {every: 7}\n", "schedule.bursts=null").schedule.bursts is None


def test_another_kind_drops_the_options_of_the_former_kind(tmp_path: Path) -> None:
    clipped = SMALL + "objective: {name: wasserstein, clip: 0.02}\n"
    assert load(tmp_path, clipped).objective == WassersteinOptions(clip=0.02)
    config = load(tmp_path, clipped, "objective.name=gradient_penalty")
    assert config.objective == GradientPenaltyOptions(name="gradient_penalty")
    config = load(tmp_path, clipped, "objective.name=gradient_penalty", "objective.weight=2.5")
    assert config.objective == GradientPenaltyOptions(name="gradient_penalty", weight=2.5)


@pytest.mark.parametrize(
    "overrides",
    [
        ["critic_optimizer.lr=0.1", "critic_optimizer.name=adam"],
        ["critic_optimizer.name=adam", "critic_optimizer.lr=0.1"],
        ["critic_optimizer.lr=0.1", "critic_optimizer={name: adam}"],
    ],
)
def test_a_kind_and_its_options_may_be_given_in_any_order(tmp_path: Path, overrides: list[str]) -> None:
    assert load(tmp_path, SMALL, *overrides).critic_optimizer == AdamOptions(name="adam", lr=0.1)


def test_the_last_of_two_kinds_in_the_arguments_counts(tmp_path: Path) -> None:
    overrides = ["objective.name=gradient_penalty", "objective.name=wasserstein"]
    config = load(tmp_path, SMALL + "objective: {clip: 0.5}\n", *overrides)
    assert config.objective == WassersteinOptions(clip=0.5)


def test_naming_the_default_kind_keeps_options_of_a_file_without_one(tmp_path: Path) -> None:
    text = SMALL + "critic_optimizer: {lr: 0.5}\nmodel: {width: 4}\n"
    config = load(tmp_path, text, "critic_optimizer.name=rmsprop", "model.name=dcgan")
    assert config.critic_optimizer.lr == 0.5
    assert config.model == DcganOptions(width=4)


def test_an_empty_section_is_a_section_without_options(tmp_path: Path) -> None:
    assert load(tmp_path, SMALL + "monitor:\nobjective:\n") == load(tmp_path, SMALL)
    assert "data.shards: is required, or data.mix" in mistakes(
        tmp_path, SMALL.replace("  shards: somewhere\n", "")
    )


def test_naming_the_same_kind_again_drops_no_options(tmp_path: Path) -> None:
    clipped = SMALL + "objective: {name: wasserstein, clip: 0.02}\n"
    assert load(tmp_path, clipped, "objective.name=wasserstein").objective == WassersteinOptions(clip=0.02)


def test_a_section_without_a_name_has_the_default_kind(tmp_path: Path) -> None:
    assert load(tmp_path, SMALL + "objective: {clip: 0.5}\n").objective == WassersteinOptions(clip=0.5)


def test_classes_may_be_numbers_or_names(tmp_path: Path) -> None:
    assert load(tmp_path, SMALL, "data.classes=[7, cat]").data.classes == ["7", "cat"]
    assert (
        "an empty list is not allowed: name at least one" in mistakes(tmp_path, SMALL, "data.classes=[]")[1]
    )
    assert "expected a list, as in data.classes=[7]" in mistakes(tmp_path, SMALL, "data.classes=7")[1]
    assert (
        "command line: data.classes.0: invalid value [1]: expected text"
        in mistakes(tmp_path, SMALL, "data.classes=[[1]]")[1]
    )


def test_resolved_options_are_equal_when_they_are_read_again(tmp_path: Path) -> None:
    config = load(tmp_path, FULL)
    assert config.critic_optimizer == AdamOptions(name="adam", lr=1e-4, beta1=0.5)
    assert load(tmp_path, dump_config(config)) == config
    assert load(tmp_path, dump_config(load(tmp_path, SMALL))) == load(tmp_path, SMALL)


def described(name: str) -> list[str]:
    """The lines of --help about an option, without its name."""
    lines = [line.split(None, 1) for line in describe_options().splitlines()]
    return [rest for first, rest in lines if first == name]


def test_help_names_the_kinds_of_a_section_and_of_an_option() -> None:
    (line,) = described("model.name")
    assert line.split(None, 2) == [
        "default",
        "dcgan",
        "one of dcgan, mlp, resnet, r3gan, wgan_mnist, wgan_dcgan, gan_bce",
    ]
    lines = described("critic_optimizer.lr")
    assert [line.split()[:3] for line in lines] == [
        ["default", "5.0e-05", "(rmsprop)"],
        ["default", "0.0001", "(adam)"],
    ]
    assert described("critic_optimizer.decay")[0].split()[:3] == ["default", "constant", "the"]
    assert described("schedule.steps")[0].startswith("required")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_config_loads_and_starts_with_its_command(path: Path) -> None:
    load_config(path)
    comment = [line for line in path.read_text().split("\n\n")[0].splitlines() if line.startswith("#")]
    assert path.read_text().startswith("#")
    assert any("command" in line for line in comment)


def test_there_are_shipped_configs() -> None:
    assert CONFIGS


@pytest.mark.parametrize(
    ("options", "mistake"),
    [
        ("{target: 0.8}", "augment.kinds: is empty, so nothing is augmented"),
        ("{kinds: [flip], adapt_images: 9}", "augment.adapt_images: is about a probability that adapts"),
        ("{kinds: [flip, shift, flip]}", "augment.kinds: flip is named twice"),
        ("{kinds: [blur]}", "augment.kinds.0: invalid value 'blur': expected one of 'flip', 'rotate'"),
    ],
)
def test_augmentation_that_would_do_nothing_is_a_mistake(tmp_path: Path, options: str, mistake: str) -> None:
    (found,) = mistakes(tmp_path, SMALL, f"augment={options}")[1:]
    assert mistake in found


@pytest.mark.parametrize(
    ("options", "mistake"),
    [
        ({"objective.r_every": "4"}, "objective.r_every: is about R1 and R2, and this run has neither"),
        ({"objective.r1": "1", "model.critic_norm": "batch"}, "batch norm does not work with objective.r1"),
        (
            {"objective.name": "relativistic", "schedule.critic_rounds": "alternating"},
            "alternating does not work with objective.name: relativistic",
        ),
        (
            {"objective.name": "relativistic", "schedule.critic_batch": "8"},
            "schedule.critic_batch: 8 does not work with objective.name: relativistic",
        ),
    ],
)
def test_contradictions_about_penalties_and_pairs(
    tmp_path: Path, options: dict[str, str], mistake: str
) -> None:
    found = mistakes(tmp_path, SMALL, *(f"{name}={value}" for name, value in options.items()))
    assert any(mistake in line for line in found[1:])
