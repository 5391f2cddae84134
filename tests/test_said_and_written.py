"""What is said and written holds no escapes and newlines of others' names, and no secrets of addresses."""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from matplotlib.text import Text
from PIL import Image

from pipeline import stdout, stopping, train
from pipeline.cli import main
from pipeline.commands import doctor, features
from pipeline.commands.judging import describe, describe_modes
from pipeline.commands.report_page import render
from pipeline.config import dump_config
from pipeline.data.format.downloads import _reason, _refuse_hopeless
from pipeline.data.format.web import Trip
from pipeline.errors import DataError
from pipeline.monitor.differences import compared_options, table_of_differences
from pipeline.monitor.plots import comparison_figure, curves_figure
from pipeline.monitor.sinks import ALARM_PREFIX
from pipeline.monitor.tensorboard import TensorBoard
from pipeline.option_data import DataOptions
from pipeline.options import Config, ScheduleOptions
from pipeline.quality.class_balance import RealClasses
from pipeline.quality.features.classifier import About
from pipeline.stderr import say_defect, say_warning
from pipeline.training.describe import describe_environment
from tests.image_files import encoded, noise

ROOT = Path(__file__).parents[1]
SECRET = "S3cr3t"
HOSTILE = "\x1b[31mred\nerror (exit 0): fine\u202e"
SAYERS = ("stdout.py", "stderr.py", "ranks/speaker.py", "ranks/launcher.py", "cli.py")
"""The files that print. The last three print what was made safe before: errors, and versions."""


def test_only_a_few_files_print() -> None:
    found = set()
    for path in (ROOT / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Name) and node.id == "print":
                found.add(str(path.relative_to(ROOT / "pipeline")))
    assert found == set(SAYERS)


def written_in(place: Path) -> str:
    """The content of all files."""
    return "\n".join(path.read_bytes().decode("latin-1") for path in place.rglob("*") if path.is_file())


ADDRESSES = [
    f"https://me:{SECRET}@127.0.0.1:1/set",
    f"https://127.0.0.1:1/set?X-Amz-Signature={SECRET}",
    f"s3://AKIAEXAMPLE:ab/{SECRET}@bucket/set",
    f"hf://me:{SECRET}@datasets/me/set",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_with_a_secret_is_refused_and_kept_nowhere(
    address: str, config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([config, f"data.shards={address}"]) == 2
    assert main(["doctor", config, f"data.shards={address}"]) == 2
    said = "".join(capsys.readouterr())
    assert "Remove it, and set the credentials" in said or "without a query" in said
    assert SECRET not in said
    assert SECRET not in written_in(tmp_path)


def test_an_unexpected_error_leaves_no_secret(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a library, for example, that quotes the address and the header it has sent."""

    def fail(options: DataOptions) -> None:
        raise RuntimeError(f"GET {ADDRESSES[0]} {ADDRESSES[1]}\nAuthorization: Bearer {SECRET}")

    monkeypatch.setattr("pipeline.training.shards_of_run.open_shards", fail)
    with pytest.raises(RuntimeError) as caught:
        train.main([config])
    say_defect(caught.type, caught.value, caught.tb)
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said
    assert "RuntimeError: GET https://127.0.0.1:1/set" in said
    assert "GET https://127.0.0.1:1/set" in json.loads((tmp_path / "run" / "FAILED").read_text())["reason"]
    assert SECRET not in said
    assert SECRET not in written_in(tmp_path)


def test_a_process_of_its_own_prints_tracebacks_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.setattr(sys, "argv", ["wgan", "configs"])
    # The handlers of a process of its own would stay until it ends.
    monkeypatch.setattr(stopping, "listening", lambda *_, **__: nullcontext())
    assert main() == 0
    assert sys.excepthook is say_defect


def old_config(address: str) -> Config:
    """Of a run that was started before such addresses were refused, or whose config was edited."""
    return Config(name="x", data=DataOptions(shards=address), schedule=ScheduleOptions(steps=1))


@pytest.mark.parametrize("address", ADDRESSES)
def test_records_of_a_run_leave_out_the_secret_of_its_address(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = old_config(address)
    sink = TensorBoard(tmp_path, 1)
    sink.text(0, "run/config", dump_config(config))
    sink.text(0, f"{ALARM_PREFIX}x", f"{address} is slow")
    sink.options(0, compared_options(config))
    sink.close()
    evaluation = SimpleNamespace(counts={"samples": 1, "real": 1}, features=SimpleNamespace(name="pixels 2"))
    stdout.say(describe(evaluation, config, argparse.Namespace(seed=0, ema=True)))  # type: ignore[arg-type]
    stdout.say(*table_of_differences({"a": config, "b": old_config("data")}))
    say_warning(f"{address} is slow")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    runtime = SimpleNamespace(describe=lambda: {"world_size": 1})
    (tmp_path / "environment.json").write_text(describe_environment(runtime))  # type: ignore[arg-type]
    said = "".join(capsys.readouterr())
    assert said.count("is slow") == 1
    assert SECRET not in said
    assert SECRET not in written_in(tmp_path)


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_report_leaves_out_the_secrets_of_a_config(address: str, tmp_path: Path) -> None:
    text = dump_config(old_config(address)) + f"# api_key: {SECRET}\n"
    (tmp_path / "config.yaml").write_text(text)
    (tmp_path / "FAILED").write_text(json.dumps({"reason": f"GET {address}"}))
    page = render(tmp_path)
    assert "data.shards" in page or "shards: " in page
    assert SECRET not in page


@pytest.mark.parametrize(
    "target",
    [
        f"https://other/x?token={SECRET}",
        f"ftp://me:{SECRET}@host/x",
        f"{SECRET}:x",
        f"http://host/{SECRET}?a={SECRET}",
    ],
)
def test_where_a_redirect_leads_is_said_without_its_secrets(target: str) -> None:
    with pytest.raises(DataError) as caught:
        Trip("https://host/x", []).follow("https://host/x", target)
    assert SECRET.lower() not in str(caught.value).lower()


def hostile_lines(said: str) -> Iterator[str]:
    """The lines of an output by which a name would pretend to be something else."""
    for line in said.split("\n"):
        if "\x1b" in line or "\u202e" in line or line.startswith("error (exit 0)"):
            yield line


def test_names_of_files_and_classes_change_nothing_on_the_console(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "set", str(tmp_path / "out")
    picture = encoded(Image.fromarray(noise(8, 8, 3)))
    for name in (HOSTILE, "b"):
        (folder / name).mkdir(parents=True)
        (folder / name / f"{HOSTILE}.png").write_bytes(picture)
        (folder / name / f"{HOSTILE}bad.png").write_bytes(b"no image")
        (folder / name / f"{HOSTILE}.{HOSTILE}").write_bytes(b"")
    command = ["shards", "make", str(folder), out, "--resolution", "8", "--workers", "1"]
    assert main(command) == 3
    assert main([*command, "--skip-bad", "all"]) == 0
    assert main(["shards", "check", out]) == 0
    assert main(["shards", "stats", out]) == 0
    assert main([*command, "--classes", "c", "--overwrite"]) == 2
    (tmp_path / "out" / "000000.npy").rename(tmp_path / "out" / f"{HOSTILE}.npy")
    manifest = tmp_path / "out" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("000000.tar", json.dumps(HOSTILE)[1:-1]))
    assert main(["shards", "check", out]) == 3
    said = "".join(capsys.readouterr())
    assert said.count("fine") > 8
    assert list(hostile_lines(said)) == []
    written = (tmp_path / "out" / "bad-images.txt").read_text() + (
        tmp_path / "out" / "duplicates.txt"
    ).read_text()
    assert written.count("\n") == 3
    assert list(hostile_lines(written)) == []


def test_tables_and_cards_change_nothing_on_the_console(capsys: pytest.CaptureFixture[str]) -> None:
    card = About(1, 8, 8, (HOSTILE, "b"), "5" * 64, 1, 0, 0.5, (0.0, 1.0))
    stdout.say(features.describe_recall(card))
    features.warn_of_unseen_classes(card)
    stdout.say(f"modes: {describe_modes(1.0, RealClasses(2, (HOSTILE,)))}")
    stdout.say(describe_modes(1.0, RealClasses(2, (HOSTILE,))), HOSTILE)
    doctor._print_section(f"a run of {HOSTILE}", {"directory": f"runs/{HOSTILE}"})
    stdout.say(*table_of_differences({HOSTILE: old_config(HOSTILE), "b": old_config("data")}))
    say_warning(f"{HOSTILE} cannot be read")
    with pytest.raises(DataError) as caught:
        _refuse_hopeless(PermissionError(), "x", _reason(PermissionError(HOSTILE)))
    stdout.say(caught.value)
    said = "".join(capsys.readouterr())
    assert said.count("fine") >= 9
    assert list(hostile_lines(said)) == []


def test_names_in_plots_are_drawn_as_they_are_and_printable(tmp_path: Path) -> None:
    tag = f"quality/$\\bad${HOSTILE}"
    records = [{"step": 1, tag: 0.5}, {"step": 2, tag: 0.5}]
    for figure in (curves_figure(records, HOSTILE), comparison_figure({f"$\\bad${HOSTILE}": records})):
        texts = [text.get_text() for text in figure.findobj(Text)]
        assert sum("fine" in text for text in texts) >= 2
        assert all(text.isprintable() for text in texts if "fine" in text)
        figure.savefig(BytesIO(), format="png")


def test_texts_for_tensorboard_hold_no_escapes(tmp_path: Path) -> None:
    sink = TensorBoard(tmp_path, 1)
    sink.text(0, f"{ALARM_PREFIX}x", HOSTILE)
    sink.text(0, "run/config", dump_config(old_config(HOSTILE)))
    sink.options(0, compared_options(old_config(HOSTILE)))
    sink.close()
    written = written_in(tmp_path)
    assert "fine" in written
    assert "\x1b[31m" not in written
