"""Messages for mistakes in a config: files, names, values and arguments."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import load_config, parse_config
from pipeline.errors import ConfigError
from pipeline.yaml_text import MOST_BYTES
from tests.configs import SMALL, load, mistakes, write


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
            "data.shards: is required, or data.mix",
            "line 1: sede: unknown option; did you mean seed?",
            "line 2: global_batch: unknown option; did you mean schedule.global_batch?",
            "line 4: data.cache: invalid value 'disk': expected one of 'auto', 'device', 'host', 'none'",
            "line 5: data.worker: unknown option; did you mean data.workers?",
            "line 7: schedule.steps: invalid value 'many': expected a whole number",
            "line 8: critic_grad_clip: invalid value -1: expected a value of at least 1e-30",
            "line 13: objective.name: invalid value 'wassertein': expected one of 'wasserstein', 'gradient_penalty', "
            "'least_squares', 'cross_entropy', 'hinge', 'relativistic'",
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
        ("name: !!python/name:os.system ''", "tags such as !!python/name:os.system are not supported"),
        ("name: !!python/object/apply:os.system [exit]", "tags such as !!python/object/apply:os.system are"),
        ("- name\n- data", "contains a list, and a config is a mapping of options"),
        ("just words", "contains a str, and a config is a mapping"),
        ("name: [", "is not valid YAML"),
        ("name: \x00", "is not valid YAML"),
        ("--- {name: a}\n--- {name: b}", "expected a single document"),
        ("name: " + "[" * 5000, "is not valid YAML"),
        ("seed: " + "9" * 5000, "is not valid YAML"),
        ("? [a]\n: b", "is not valid YAML"),
        *[
            (f"seed: !!{tag} {value}", rf"tags such as !!{tag} are not supported.*\(line 1, column 7\)")
            for tag, value in [
                ("int", "a"),
                ("bool", "x"),
                ("timestamp", "x"),
                ("binary", "é"),
                ("set", "[a]"),
            ]
        ],
        ("seed: ! 1", "tags such as ! are not supported"),
        ("? !!null\n: 1", "tags such as !!null are not supported"),
        ("seed: " + "9" * 101, "a number has 101 digits"),
        ("data: {classes: [" + "1.5, " * 12_000 + "]}", "there are more than 5,000 keys and values"),
        ("a: {" * 17 + "}" * 17, "values are nested on more than 16 levels"),
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
    with pytest.raises(ConfigError, match=f"has more than the {MOST_BYTES:,} bytes"):
        load(tmp_path, text)


def test_a_long_wrong_value_gives_a_short_message(tmp_path: Path) -> None:
    text = SMALL + f"  shuffle: {'x' * 40_000}\n{'k' * 900}: 1\n"
    classes = "  classes: [" + "[], " * 4000 + "]\n"
    found = mistakes(tmp_path, text.replace("schedule:", classes + "schedule:"))
    assert len(found) == 22
    assert found[-1] == "and 3,982 more"
    assert max(map(len, found)) < 400
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, SMALL, f"data.classes={'a' * 60_000}")
    assert len(str(caught.value)) < 600
    with pytest.raises(ConfigError, match=r"does not set an option\. Write section\.option=value"):
        load(tmp_path, SMALL, "a." * 5000 + "b=1")


def test_what_is_no_file_is_refused_as_a_config_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigError, match="cannot be read as text: it is a named pipe, not a file"):
        load_config(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigError, match="it is a device, not a file"):
        load_config(Path("/dev/zero"))


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read as text"):
        load_config(tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match=r"is a directory, not a config\. Did you mean .*/config\.yaml\?"):
        load_config(tmp_path)


def test_a_moved_run_with_a_name_that_no_run_can_have_is_refused(tmp_path: Path) -> None:
    (tmp_path / "my run" / "checkpoints").mkdir(parents=True)
    write(tmp_path / "my run", SMALL)
    with pytest.raises(
        ConfigError, match="name of the directory: name: invalid value 'my run': expected text that"
    ):
        load_config(tmp_path / "my run")
    assert load_config(tmp_path / "my run", ["name=b"]).run_root == str(tmp_path)


def test_a_plugin_that_a_run_directory_names_needs_trust(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    path = write(tmp_path, SMALL + "model: {name: 'no_such_package.parts:Net'}\n")
    with pytest.raises(ConfigError, match="set WGAN_PLUGINS=no_such_package in the environment"):
        load_config(tmp_path)
    with pytest.raises(ConfigError, match=r"the module no_such_package\.parts .* cannot be imported"):
        load_config(path)


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


@pytest.mark.parametrize("value", ["'5'", "true", "5.0", "5.5", "[5]", "null", "'five'"])
def test_values_are_not_converted_to_whole_numbers(tmp_path: Path, value: str) -> None:
    assert mistakes(tmp_path, SMALL, f"schedule.steps={value}")[1].startswith("command line: schedule.steps:")


@pytest.mark.parametrize("value", [".nan", ".inf", "1e999", "0", "-0.1"])
def test_a_learning_rate_is_a_finite_number_above_zero(tmp_path: Path, value: str) -> None:
    (mistake,) = mistakes(tmp_path, SMALL, f"generator_optimizer.lr={value}")[1:]
    assert mistake.startswith("command line: generator_optimizer.lr:")


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "", "a b", "-x", "a\n", "a\x00b"])
def test_a_path_is_refused_as_the_name_of_a_run(name: str) -> None:
    with pytest.raises(ConfigError, match=r"name: invalid value"):
        parse_config({"name": name, "data": {"shards": "x"}, "schedule": {"steps": 1}}, "here")


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


def test_a_number_as_name_in_a_section_as_an_argument_names_the_command_line(tmp_path: Path) -> None:
    assert mistakes(tmp_path, SMALL + "monitor: {grid: 3}\n", "monitor={1: 2}")[1:] == [
        "command line: monitor.1: 1 cannot be the name of an option; names are words, like seed"
    ]


def test_an_argument_for_an_unknown_section_names_the_command_line(
    tmp_path: Path,
) -> None:
    (mistake,) = mistakes(tmp_path, SMALL, "a.b.c=3")[1:]
    assert mistake.startswith("command line: a: unknown option")


@pytest.mark.parametrize("text", ["steps", "=3", ""])
def test_an_argument_that_is_not_an_override_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"does not set an option\. Write section\.option=value"):
        load(tmp_path, SMALL, text)


@pytest.mark.parametrize("value", ["[", "*a", "9" * 5000, "[" * 3000, "!!python/name:os.system", "\0"])
def test_an_argument_whose_value_is_not_yaml_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match="the value is not valid YAML"):
        load(tmp_path, SMALL, f"seed={value}")


@pytest.mark.parametrize(("text", "name"), [("data.\udcff=1", "data"), ("\udcff=1", "options")])
def test_the_name_of_an_option_that_is_no_text_is_refused(tmp_path: Path, text: str, name: str) -> None:
    found = mistakes(tmp_path, SMALL, text)[1:]
    assert any(re.search(rf"{name}: invalid value .*udcff.*: expected text in UTF-8", line) for line in found)


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
