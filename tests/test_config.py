"""Options from defaults, a YAML file and arguments: the resulting config, and messages for mistakes."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import MOST_BYTES, dump_config, load_config, parse_config
from pipeline.errors import ConfigError
from pipeline.option_help import describe_options
from pipeline.options import (
    AdamOptions,
    Config,
    DcganOptions,
    GradientPenaltyOptions,
    LeastSquaresOptions,
    WassersteinOptions,
)

CONFIGS = sorted((Path(__file__).parents[1] / "configs").rglob("*.yaml"))

SMALL = """\
name: small
data:
  shards: somewhere
schedule:
  steps: 10
"""

FULL = """\
name: full
seed: 3
precision: bf16
ema_decay: 0.99
critic_grad_clip: 1.5
data:
  shards: somewhere
  cache: none
  workers: 2
model:
  name: dcgan
  width: 32
  critic_norm: layer
objective:
  name: gradient_penalty
  weight: 5.0
critic_optimizer:
  name: adam
  lr: 1e-4
  beta1: 0.5
generator_optimizer:
  name: rmsprop
  lr: 5e-5
  decay: linear
schedule:
  steps: 100
  global_batch: 12
  bursts:
    first_steps: 5
checkpoint:
  every: 10
  keep_every: 50
runtime:
  processes: 3
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, text: str, *overrides: str) -> Config:
    return load_config(write(folder, text), overrides)


def mistakes(folder: Path, text: str, *overrides: str) -> list[str]:
    """The lines of the message: first the origin and the number, then one for each mistake."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text, *overrides)
    return [line.strip() for line in str(caught.value).splitlines()]


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


def test_all_mistakes_are_listed_at_once_with_line_and_remedy(tmp_path: Path) -> None:
    text = """\
sede: 3
global_batch: 8
data:
  cache: disk
  worker: 2
schedule:
  steps: many
critic_grad_clip: -1
model:
  width: 64
  max_width: 32
objective:
  name: wassertein
"""
    first, *rest = mistakes(tmp_path, text, "model.latent=0")
    assert first == f"{tmp_path / 'config.yaml'}: 11 mistakes"
    assert sorted(rest) == sorted(
        [
            "name: is required",
            "data.shards: is required",
            "line 1: sede: unknown option; did you mean seed?",
            "line 2: global_batch: unknown option; did you mean schedule.global_batch?",
            "line 4: data.cache: invalid value 'disk': expected one of 'auto', 'device', 'host', 'none'",
            "line 5: data.worker: unknown option; did you mean data.workers?",
            "line 7: schedule.steps: invalid value 'many': expected a whole number",
            "line 8: critic_grad_clip: invalid value -1: expected a value greater than 0.0",
            "line 13: objective.name: invalid value 'wassertein': expected one of 'wasserstein', 'gradient_penalty', "
            "'least_squares', 'cross_entropy', 'hinge'",
            "command line: model.latent: invalid value 0: expected a value of at least 1",
            "model.max_width: 32 is less than model.width 64. Raise it",
        ]
    )


def test_an_option_of_another_kind_of_section_is_reported_as_one(tmp_path: Path) -> None:
    _, mistake = mistakes(tmp_path, SMALL + "critic_optimizer: {name: adam, alpha: 0.9}\n")
    assert mistake == (
        "line 6: critic_optimizer.alpha: unknown option; another kind of critic_optimizer has it, "
        "see critic_optimizer.name"
    )


def test_known_options_are_listed_in_order_if_no_name_is_similar(tmp_path: Path) -> None:
    _, mistake = mistakes(tmp_path, SMALL + "checkpoint: {zzz: 1}\n")
    assert mistake == "line 6: checkpoint.zzz: unknown option; known here: every, keep_last, keep_every"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nname: b", "name is given twice, first on line 1 .*line 2"),
        ("data:\n  shards: a\n  shards: b", "data.shards is given twice, first on line 2 .*line 3"),
        ("data: &here {shards: a}\nmodel: *here", r"aliases \(\*name\) are not supported .*line 2"),
        ("name: !!python/name:os.system ''", "could not determine a constructor for the tag .*python/name"),
        ("name: !!python/object/apply:os.system [exit]", "could not determine a constructor for the tag"),
        ("- name\n- data", "contains a list, and a config is a mapping of options"),
        ("just words", "contains a str, and a config is a mapping"),
        ("name: [", "is not valid YAML"),
        ("name: \x00", "is not valid YAML"),
        ("--- {name: a}\n--- {name: b}", "expected a single document"),
        ("name: 2020-99-99", "is not valid YAML"),
        ("name: " + "[" * 5000, "is not valid YAML"),
        ("seed: " + "9" * 5000, "is not valid YAML"),
        ("? [a]\n: b", "is not valid YAML"),
    ],
)
def test_files_that_are_not_a_plain_mapping_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, text)


def test_an_empty_file_is_refused_with_the_required_options(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "# nothing\n")[1:] == [
        "name: is required",
        "data: is required",
        "schedule: is required",
    ]


def test_a_file_that_is_much_too_large_is_not_read(tmp_path: Path) -> None:
    text = SMALL + "#" * MOST_BYTES
    with pytest.raises(ConfigError, match=f"has {len(text):,} bytes, and a config has a few hundred"):
        load(tmp_path, text)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read as text"):
        load_config(tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match="is a directory, not a config"):
        load_config(tmp_path)


def test_a_missing_file_is_reported_with_the_most_similar_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"There is no config digit\.yaml\. Did you mean digits or "):
        load_config(Path("digit.yaml"))
    (tmp_path / "configs" / "reference").mkdir(parents=True)
    (tmp_path / "configs" / "digits.yaml").write_text("")
    (tmp_path / "configs" / "reference" / "paper.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"Did you mean configs/digits\.yaml\?"):
        load_config(Path("configs/digit.yaml"))
    with pytest.raises(ConfigError, match=r"Did you mean configs/reference/paper\.yaml\?"):
        load_config(Path("configs/paper.yaml"))


@pytest.mark.parametrize(
    ("text", "number"), [("5e-5", 5e-5), ("1E-3", 1e-3), ("2.5e-4", 2.5e-4), ("1e+0", 1.0), ("0.002", 0.002)]
)
def test_powers_of_ten_are_numbers(tmp_path: Path, text: str, number: float) -> None:
    assert load(tmp_path, SMALL + f"critic_optimizer: {{lr: {text}}}\n").critic_optimizer.lr == number
    assert load(tmp_path, SMALL, f"critic_optimizer.lr={text}").critic_optimizer.lr == number


@pytest.mark.parametrize("value", ["'5'", "true", "5.0", "5.5", "[5]", "null", "'five'"])
def test_values_are_not_converted_to_whole_numbers(tmp_path: Path, value: str) -> None:
    assert mistakes(tmp_path, SMALL, f"schedule.steps={value}")[1].startswith("command line: schedule.steps:")


@pytest.mark.parametrize("value", ["0", "-1", "1025", "2.0", "true", "many", "[1]"])
def test_the_number_of_threads_is_a_whole_number_from_1_to_1024(tmp_path: Path, value: str) -> None:
    (mistake,) = mistakes(tmp_path, SMALL, f"runtime.threads={value}")[1:]
    assert mistake.startswith("command line: runtime.threads: invalid value")


def test_torch_chooses_the_number_of_threads_by_default(tmp_path: Path) -> None:
    assert load(tmp_path, SMALL).runtime.threads is None
    assert load(tmp_path, SMALL, "runtime.threads=null").runtime.threads is None
    assert load(tmp_path, SMALL, "runtime.threads=1024").runtime.threads == 1024


@pytest.mark.parametrize("value", [".nan", ".inf", "1e999", "0", "-0.1"])
def test_a_learning_rate_is_a_finite_number_above_zero(tmp_path: Path, value: str) -> None:
    (mistake,) = mistakes(tmp_path, SMALL, f"generator_optimizer.lr={value}")[1:]
    assert mistake.startswith("command line: generator_optimizer.lr:")


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "", "a b", "-x", "a\n", "a\x00b"])
def test_a_path_is_refused_as_the_name_of_a_run(name: str) -> None:
    with pytest.raises(ConfigError, match=r"name: invalid value"):
        parse_config({"name": name, "data": {"shards": "x"}, "schedule": {"steps": 1}}, "here")


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
    assert "data.shards: is required" in mistakes(tmp_path, SMALL.replace("  shards: somewhere\n", ""))


@pytest.mark.parametrize(
    ("text", "override", "mistake"),
    [
        (
            "",
            "objective=wasserstein",
            "command line: objective: invalid value 'wasserstein': objective is a section; choose its kind with "
            "objective.name=wasserstein",
        ),
        (
            "monitor: 5\n",
            "seed=1",
            "line 6: monitor: invalid value 5: monitor is a section; set its options one by one, as in "
            "monitor.log_every=...",
        ),
        (
            "",
            "schedule.bursts=5",
            "command line: schedule.bursts: invalid value 5: schedule.bursts is a section; set its options one by "
            "one, as in schedule.bursts.first_steps=...",
        ),
        ("1: 1\n", "seed=1", "line 6: 1: 1 cannot be the name of an option; names are words, like seed"),
        (
            "monitor: {1: 2}\n",
            "seed=1",
            "line 6: monitor.1: 1 cannot be the name of an option; names are words, like seed",
        ),
    ],
)
def test_a_value_in_place_of_a_section_and_a_number_as_name_are_refused(
    tmp_path: Path, text: str, override: str, mistake: str
) -> None:
    assert mistakes(tmp_path, SMALL + text, override)[1:] == [mistake]


def test_an_argument_for_an_unknown_section_names_the_command_line(
    tmp_path: Path,
) -> None:
    (mistake,) = mistakes(tmp_path, SMALL, "a.b.c=3")[1:]
    assert mistake.startswith("command line: a: unknown option")


def test_naming_the_same_kind_again_drops_no_options(tmp_path: Path) -> None:
    clipped = SMALL + "objective: {name: wasserstein, clip: 0.02}\n"
    assert load(tmp_path, clipped, "objective.name=wasserstein").objective == WassersteinOptions(clip=0.02)


def test_a_section_without_a_name_has_the_default_kind(tmp_path: Path) -> None:
    assert load(tmp_path, SMALL + "objective: {clip: 0.5}\n").objective == WassersteinOptions(clip=0.5)


@pytest.mark.parametrize("text", ["steps", "=3", ""])
def test_an_argument_that_is_not_an_override_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"does not set an option\. Write section\.option=value"):
        load(tmp_path, SMALL, text)


@pytest.mark.parametrize(
    "value", ["[", "*a", "2020-99-99", "9" * 5000, "[" * 3000, "!!python/name:os.system", "\0"]
)
def test_an_argument_whose_value_is_not_yaml_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match="the value is not valid YAML"):
        load(tmp_path, SMALL, f"seed={value}")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["objective.name=gradient_penalty", "model.critic_norm=batch"],
            "model.critic_norm: batch norm does not work with objective.name: gradient_penalty",
        ),
        (["data.cache=host", "data.workers=2"], "so 2 workers would have no work"),
        (["precision=fp16", "runtime.device=cpu"], "precision: fp16 needs a GPU"),
        (["schedule.global_batch=10", "runtime.processes=4"], "10 is not a multiple of runtime.processes 4"),
        (
            ["quality.every=5", "quality.features=classifier"],
            "quality.features: classifier needs a trained classifier",
        ),
        (["quality.every=5", "quality.metrics=[fid, modes]"], "quality.metrics: modes needs a classifier"),
        (
            ["quality.metrics=[copied]", "quality.every=10"],
            "copied needs held-out images, and data.validation is 0",
        ),
        (
            ["quality.every=10", "quality.keep_best=kid"],
            "quality.keep_best: kid is not one of quality.metrics",
        ),
        (
            ["quality.samples=256", "quality.keep_best=fid"],
            "needs evaluations during training. Set quality.every",
        ),
        (
            [
                "data.validation=0.2",
                "quality.every=5",
                "quality.metrics=[copied]",
                "quality.keep_best=copied",
            ],
            "quality.keep_best: for copied neither higher nor lower is better",
        ),
        (["quality.every=5", "quality.patience=3"], "Name the metric in quality.keep_best"),
        (["checkpoint.every=10", "checkpoint.keep_every=15"], "15 is not a multiple of checkpoint.every 10"),
        (
            ["objective.name=wasserstein", "model.spectral_norm=true"],
            "model.spectral_norm: does not work",
        ),
        (
            ["objective.scope=convolutions", "model.name=mlp"],
            "convolutions clips nothing with model.name: mlp",
        ),
        (
            ["objective.name=least_squares", "objective.c=-1"],
            "Published values are pearson (-1, 1, 0) and binary (0, 1, 1)",
        ),
        (
            ["schedule.critic_rounds=alternating", "objective.name=gradient_penalty"],
            "alternating does not work with objective.name: gradient_penalty",
        ),
        (
            ["init_from.critic=x", "init_from.freeze_generator=2"],
            "init_from.freeze_generator: the frozen layers would keep",
        ),
        (
            ["schedule.reuse_fakes=true", "schedule.critic_batch=32"],
            "a critic update has 32 generated images",
        ),
        (["schedule.critic_batch=6", "runtime.processes=4"], "schedule.critic_batch: 6 is not a multiple of"),
    ],
)
def test_options_that_cannot_work_together_are_refused(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    (mistake,) = mistakes(tmp_path, SMALL, *overrides)[1:]
    assert message in mistake
    load(tmp_path, SMALL, overrides[0])


@pytest.mark.parametrize("codes", [(-1, 1, 0), (0, 1, 1)])
def test_both_published_codings_of_least_squares_are_allowed(tmp_path: Path, codes: tuple[int, ...]) -> None:
    overrides = [f"objective.{name}={code}" for name, code in zip("abc", codes, strict=True)]
    options = load(tmp_path, SMALL, "objective.name=least_squares", *overrides).objective
    assert isinstance(options, LeastSquaresOptions)
    assert (options.a, options.b, options.c) == codes


def test_classes_may_be_numbers_or_names(tmp_path: Path) -> None:
    assert load(tmp_path, SMALL, "data.classes=[7, cat]").data.classes == ["7", "cat"]
    assert (
        "an empty list is not allowed: name at least one" in mistakes(tmp_path, SMALL, "data.classes=[]")[1]
    )
    assert "expected a list, as in data.classes=[7]" in mistakes(tmp_path, SMALL, "data.classes=7")[1]
    assert (
        "command line: data.classes.0: invalid value True: expected text"
        in mistakes(tmp_path, SMALL, "data.classes=[true]")[1]
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
        "one of dcgan, mlp, resnet, wgan_mnist, wgan_dcgan, gan_bce",
    ]
    lines = described("critic_optimizer.lr")
    assert [line.split()[:3] for line in lines] == [
        ["default", "5.0e-05", "(rmsprop)"],
        ["default", "0.0001", "(adam)"],
    ]
    assert described("critic_optimizer.decay")[0].split()[:3] == ["default", "constant", "linear:"]
    assert described("schedule.steps")[0].startswith("required")


def run_train(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pipeline.train in a process that ends with `code`, which may use `sys` and the exit code `result`."""
    program = f"import sys\nfrom pipeline.train import main\nresult = main(sys.argv[1:])\n{code}\n"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False, timeout=60
    )


PRINT_WHETHER_TORCH = "print('torch' in sys.modules)\nsys.exit(result)"


def test_a_wrong_config_exits_with_2_before_torch_is_imported(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL.replace("steps", "step"))
    done = run_train(PRINT_WHETHER_TORCH, str(path))
    assert (done.returncode, done.stdout) == (2, "False\n")
    assert f"error (exit 2): {path}: 2 mistakes" in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_shards_exit_with_3_before_torch_is_imported(tmp_path: Path) -> None:
    done = run_train(
        PRINT_WHETHER_TORCH,
        str(write(tmp_path, SMALL)),
        f"data.shards={tmp_path}/none",
        f"run_root={tmp_path}",
    )
    assert (done.returncode, done.stdout) == (3, "False\n")
    assert f"error (exit 3): The shard directory {tmp_path}/none does not exist." in done.stderr


def test_a_mutated_file_is_read_or_refused_with_a_config_error(tmp_path: Path) -> None:
    dice = random.Random(0)
    alphabet = ":-[]{}&*!#|>'\"%@`?,=~ \n\t0e.+<\x00\x85ü"
    for _ in range(200):
        text = list(FULL)
        for _ in range(dice.randint(1, 4)):
            place = dice.randrange(len(text))
            match dice.randrange(4):
                case 0:
                    text[place] = dice.choice(alphabet)
                case 1:
                    text.insert(place, dice.choice(alphabet))
                case 2:
                    del text[place : place + dice.randint(1, 20)]
                case 3:
                    other = dice.randrange(len(text))
                    text[place:place] = text[other : other + dice.randint(1, 30)]
        _load_or_refuse(tmp_path, "".join(text))


@pytest.mark.slow
def test_mutated_values_are_read_or_refused_with_a_config_error(tmp_path: Path) -> None:
    dice = random.Random(1)
    values: list[Any] = [
        None,
        True,
        -1,
        0,
        10**30,
        1.5,
        float("nan"),
        "",
        "x",
        [],
        [1, [2]],
        {},
        {"name": {}},
    ]
    for _ in range(200):
        content = yaml.safe_load(dump_config(load(tmp_path, FULL)))
        for _ in range(dice.randint(1, 3)):
            section = dice.choice(
                [content, *[value for value in content.values() if isinstance(value, dict)]]
            )
            key = dice.choice([*section, "nmae", 3, "name", "every"])
            if dice.random() < 0.3:
                section.pop(key, None)
            else:
                section[key] = dice.choice(values)
        _load_or_refuse(tmp_path, yaml.safe_dump(content))


def test_mutated_arguments_are_read_or_refused_with_a_config_error(tmp_path: Path) -> None:
    dice = random.Random(2)
    keys = [
        "name",
        "seed",
        "data",
        "data.shards",
        "model.name",
        "objective.name",
        "a.b.c",
        ".",
        "data.",
        "seed.x",
    ]
    values = [
        "",
        "1",
        "-1",
        "{}",
        "[]",
        "null",
        "{name: 1}",
        "gradient_penalty",
        "&a",
        "!!set {}",
        "!x",
        "'",
        "1\n2",
    ]
    for _ in range(200):
        count = dice.randint(1, 3)
        _load_or_refuse(tmp_path, FULL, *(f"{dice.choice(keys)}={dice.choice(values)}" for _ in range(count)))


def _load_or_refuse(folder: Path, text: str, *overrides: str) -> None:
    try:
        load(folder, text, *overrides)
    except ConfigError:
        pass
    except Exception as error:
        pytest.fail(f"{error!r} for {overrides} on\n{text}")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_config_loads_and_starts_with_its_command(path: Path) -> None:
    load_config(path)
    comment = [line for line in path.read_text().split("\n\n")[0].splitlines() if line.startswith("#")]
    assert path.read_text().startswith("#")
    assert any("command" in line for line in comment)


def test_there_are_shipped_configs() -> None:
    assert CONFIGS
