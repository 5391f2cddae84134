"""What a process takes from RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE, and what it refuses."""

from __future__ import annotations

import pytest

from pipeline.cli import main
from pipeline.errors import ConfigError
from pipeline.ranks.variables import ALONE, Place, read_place, refuse_several_launchers


def variables(text: str) -> dict[str, str]:
    return dict(word.split("=") for word in text.split())


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ("", ALONE),
        ("RANK=3 WORLD_SIZE=8 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2", Place(3, 8, 1, 2)),
        ("RANK=3 WORLD_SIZE=8 LOCAL_RANK=3", Place(3, 8, 3, None)),
        ("RANK=0 WORLD_SIZE=1", Place(0, 1, 0, None)),
        # Clusters set these for processes that are no ranks.
        ("LOCAL_RANK=0", ALONE),
        ("WORLD_SIZE=1 LOCAL_RANK=0 LOCAL_WORLD_SIZE=1", ALONE),
        ("RANK= WORLD_SIZE=", ALONE),
        ("SLURM_NTASKS=1 SLURM_PROCID=0", ALONE),
        ("SLURM_NTASKS=2 RANK=1 WORLD_SIZE=2 LOCAL_RANK=0", Place(1, 2, 0, None)),
        ("SLURM_STEP_NUM_TASKS=1 SLURM_NTASKS=4", ALONE),
    ],
)
def test_a_process_takes_its_place_from_the_launcher(environment: str, expected: Place) -> None:
    assert read_place(variables(environment)) == expected


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ("WORLD_SIZE=4", "WORLD_SIZE is 4 in the environment, but RANK is not set"),
        ("LOCAL_RANK=1", "LOCAL_RANK is 1 in the environment, but neither RANK nor WORLD_SIZE is set"),
        ("RANK=3", "RANK is 3 in the environment, but WORLD_SIZE is not set"),
        ("LOCAL_WORLD_SIZE=2", "LOCAL_WORLD_SIZE is 2 .* but neither RANK nor WORLD_SIZE is set"),
        ("RANK=4 WORLD_SIZE=4 LOCAL_RANK=0", "RANK is 4 and WORLD_SIZE is 4, but ranks count from 0"),
        ("RANK=0 WORLD_SIZE=0", "RANK is 0 and WORLD_SIZE is 0"),
        ("RANK=1 WORLD_SIZE=4", r"LOCAL_RANK, .* is not set, .*LOCAL_RANK=\$SLURM_LOCALID"),
        ("RANK=1 WORLD_SIZE=4 LOCAL_RANK=2 LOCAL_WORLD_SIZE=2", "LOCAL_RANK is 2 and LOCAL_WORLD_SIZE is 2"),
        ("RANK=1 WORLD_SIZE=4 LOCAL_RANK=7", "LOCAL_RANK is 7 and WORLD_SIZE is 4"),
        ("RANK=one WORLD_SIZE=4", "RANK is 'one', but it must be a whole number"),
        ("RANK=-1 WORLD_SIZE=4", "RANK is '-1', but it must be a whole number"),
        ("SLURM_NTASKS=2 SLURM_PROCID=1", r"Slurm runs this command 2 times \(SLURM_NTASKS\), and no RANK"),
        ("SLURM_STEP_NUM_TASKS=3 SLURM_NTASKS=1", r"3 times \(SLURM_STEP_NUM_TASKS\)"),
    ],
)
def test_variables_that_contradict_each_other_are_named(environment: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_place(variables(environment))


def test_ranks_are_started_in_a_job_of_several_tasks_but_not_by_each_of_them() -> None:
    refuse_several_launchers(variables("SLURM_NTASKS=8"))
    with pytest.raises(ConfigError, match="each would train the same run"):
        refuse_several_launchers(variables("SLURM_NTASKS=8 SLURM_STEP_NUM_TASKS=8"))


@pytest.mark.parametrize("variable", ["WORLD_SIZE=4", "LOCAL_RANK=1", "RANK=3", "SLURM_NTASKS=2"])
def test_a_run_is_refused_before_anything_is_written(
    variable: str, config: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    name, value = variable.split("=")
    monkeypatch.setenv(name, value)
    assert main(["train", config]) == 2
    (told,) = capfd.readouterr().err.splitlines()
    assert told.startswith("error (exit 2): ")
    assert name in told
