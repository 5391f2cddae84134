"""Stages that pass, fail, hang and crash: each has its verdict, the others go on, and no process is left."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pipeline.acceptance import report, stages
from pipeline.acceptance.outcome import Outcome, Verdict, have_passed
from pipeline.acceptance.runner import Acceptance
from pipeline.acceptance.stages import STAGES, Stage
from pipeline.cli import main

PLANTED = "tests.acceptance.planted"


def stage(name: str, seconds: float = 1, deadline: float = 60) -> Stage:
    return Stage(name, f"{PLANTED}:{name}", seconds, deadline)


def accept(place: Path, *stages: Stage, seconds: float = 200.0) -> dict[str, Outcome]:
    acceptance = Acceptance(stages, seconds, place, tell=print)
    acceptance.run()
    assert [outcome.stage for outcome in acceptance.outcomes] == [stage.name for stage in stages]
    return {outcome.stage: outcome for outcome in acceptance.outcomes}


def child_of_hanging_stage(place: Path) -> int | None:
    log = place / "hangs.log"
    found = re.search(r"child (\d+)\n", log.read_text()) if log.exists() else None
    return int(found[1]) if found else None


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_every_ending_of_a_stage_has_its_verdict_and_the_next_stages_run(tmp_path: Path) -> None:
    names = ("crashes", "raises", "fails", "refuses", "skips", "passes")
    found = accept(tmp_path, stage("hangs", deadline=3), *map(stage, names))
    assert {name: outcome.verdict for name, outcome in found.items()} == {
        **dict.fromkeys(("hangs", "crashes", "raises", "fails", "refuses"), Verdict.FAIL),
        "skips": Verdict.SKIPPED,
        "passes": Verdict.PASS,
    }
    child = child_of_hanging_stage(tmp_path)
    assert child is not None
    assert not is_running(child)
    log = tmp_path / "hangs.log"
    assert (
        found["hangs"].reason
        == f"it had not ended after 3 s, and takes about 1 s; last lines: child {child}; see {log}"
    )
    assert "it was ended by SIGSEGV; last lines: just before" in found["crashes"].reason
    assert "exit code 1" in found["raises"].reason
    assert "ValueError: a defect of the stage" in found["raises"].reason
    log = tmp_path / "fails.log"
    assert found["fails"].reason == f"1 is too much; 2 is too much; 3 is too much; and 1 more; see {log}"
    assert found["fails"].figures == {"answer": 41, "loss": "nan"}
    assert found["refuses"].reason.startswith("error (exit 2): A GPU is missing.; see ")
    assert found["skips"].reason == "it needs a GPU"
    assert (found["passes"].reason, found["passes"].figures) == ("all is well", {"answer": 42})


def test_stages_that_do_not_fit_into_the_time_are_skipped(tmp_path: Path) -> None:
    found = accept(
        tmp_path, stage("skips", seconds=1000), stage("hangs", 1, 1000), stage("passes", 3), seconds=2
    )
    assert {outcome.verdict for outcome in found.values()} == {Verdict.SKIPPED}
    assert found["skips"].reason == "it takes about 1000 s, and 2 s are left: give more --minutes"
    assert "it had not ended when the --minutes were over, so give more of them" in found["hangs"].reason
    assert found["passes"].reason == "it takes about 3 s, and 0 s are left: give more --minutes"
    assert [name for name, outcome in found.items() if outcome.is_cut] == ["hangs"]


def test_a_stage_that_has_had_several_times_its_seconds_fails_when_the_time_is_over(tmp_path: Path) -> None:
    found = accept(tmp_path, stage("hangs", 0.2, 1000), seconds=1)
    assert found["hangs"].verdict == Verdict.FAIL
    assert "it had not ended after 1 s" in found["hangs"].reason


def test_a_directory_that_cannot_be_written_is_refused_before_any_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["accept", "--out", str(tmp_path / "file")]) == 7
    shown = capsys.readouterr()
    assert "cannot be written" in shown.err
    assert shown.out == ""


def test_stages_that_need_more_gpus_than_there_are_are_skipped(tmp_path: Path) -> None:
    passes, hangs = stage("passes"), stage("hangs")
    found = accept(tmp_path, stage("finds_one_gpu"), replace(passes, gpus=1), replace(hangs, gpus=2))
    assert found["passes"].verdict == Verdict.PASS
    assert (found["hangs"].verdict, found["hangs"].seconds) == (Verdict.SKIPPED, 0.0)
    assert found["hangs"].reason == "it needs 2 GPUs, and torch finds 1"


def test_stages_that_need_a_gpu_are_skipped_if_nobody_knows_of_any(tmp_path: Path) -> None:
    found = accept(tmp_path, replace(stage("hangs"), gpus=1))
    assert found["hangs"].verdict == Verdict.SKIPPED
    assert found["hangs"].reason == "it needs 1 GPU, and preflight has not found out how many there are"


def test_the_table_and_the_file_say_what_was_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    acceptance = Acceptance([], 1.0, tmp_path, tell=print)
    acceptance.outcomes += [
        Outcome("preflight", Verdict.PASS, "1 GPU", 2.5, {"hardware": {"cores": 2}}),
        Outcome("resume", Verdict.FAIL, "a\nb differ", 3.0),
    ]
    report.conclude(acceptance)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["PASS", "preflight", "2.5", "1", "GPU"]
    assert lines[2].split() == ["FAIL", "resume", "3.0", r"a\nb", "differ"]
    assert lines[3] == "1 PASS, 1 FAIL"
    content = json.loads((tmp_path / "accept.json").read_text())
    assert content["passed"] is False
    assert content["counts"] == {"PASS": 1, "FAIL": 1, "SKIPPED": 0}
    assert content["hardware"] == {"cores": 2}
    assert content["versions"]["torch"]
    assert content["stages"][1]["verdict"] == "FAIL"


PROGRAM = """
import sys
from dataclasses import replace
from pathlib import Path
from pipeline import cli
from pipeline.acceptance import stages
from tests.acceptance.test_runner import stage
stages.STAGES = (replace(stage("passes"), name="preflight"), stage("hangs"), stage("skips"))
sys.argv = ["wgan", "accept", "--out", sys.argv[1]]
sys.exit(cli.main())
"""


def test_ctrl_c_ends_the_stage_with_its_processes_and_shows_the_table_so_far(tmp_path: Path) -> None:
    words = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    program = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while (child := child_of_hanging_stage(tmp_path)) is None:
            assert time.monotonic() < deadline
            assert program.poll() is None, program.communicate()
            time.sleep(0.05)
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=30)
    finally:
        program.kill()
        program.wait()
    assert program.returncode == 130
    assert not is_running(child)
    assert "1 PASS, 2 SKIPPED" in out
    assert "Stopped by SIGINT" in err
    content = json.loads((tmp_path / "accept.json").read_text())
    assert [found["verdict"] for found in content["stages"]] == ["PASS", "SKIPPED", "SKIPPED"]
    assert content["passed"] is False


def test_a_command_with_a_failed_stage_ends_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for planted, code in (("passes", 0), ("fails", 1)):
        monkeypatch.setattr(stages, "STAGES", (replace(stage(planted), name="preflight"),))
        assert main(["accept", "--out", str(tmp_path)]) == code


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([("preflight", "PASS", False), ("ranks", "SKIPPED", False)], True),
        ([("preflight", "PASS", False), ("ranks", "SKIPPED", True)], False),
        ([("preflight", "PASS", False), ("ranks", "FAIL", False)], False),
        ([("preflight", "SKIPPED", False), ("ranks", "PASS", False)], False),
        ([], False),
    ],
)
def test_a_machine_passes_if_its_preflight_does_and_nothing_failed_or_was_cut(
    outcomes: list[tuple[str, str, bool]], expected: bool
) -> None:
    found = [Outcome(name, Verdict(verdict), "", is_cut=cut) for name, verdict, cut in outcomes]
    assert have_passed(found) is expected


def test_a_directory_with_files_of_others_is_refused_and_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ranks.log").write_text("mine")
    assert main(["accept", "--out", str(tmp_path)]) == 2
    assert "is no directory of an earlier acceptance" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("ranks.log", "mine")]


@pytest.mark.slow
def test_the_first_stages_pass_here_and_those_for_more_gpus_are_skipped(tmp_path: Path) -> None:
    by_name = {stage.name: stage for stage in STAGES}
    found = accept(tmp_path, *(by_name[name] for name in ("preflight", "resume", "speed-8")))
    verdicts = {name: outcome.verdict for name, outcome in found.items()}
    assert verdicts == {"preflight": Verdict.PASS, "resume": Verdict.PASS, "speed-8": Verdict.SKIPPED}


def test_the_names_of_stages_differ_and_can_be_names_of_files() -> None:
    names = [stage.name for stage in STAGES]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in names)
    assert all(stage.seconds < stage.deadline for stage in STAGES)


def test_the_documentation_lists_every_stage() -> None:
    page = (Path(__file__).parents[2] / "docs" / "distributed.md").read_text(encoding="utf-8")
    rows = page.partition("| stage | what must hold |")[2].partition("\n\n")[0].splitlines()
    listed = [name for row in rows if row for name in re.findall(r"`([a-z0-9-]+)`", row.split("|")[1])]
    assert listed == [stage.name for stage in STAGES]
