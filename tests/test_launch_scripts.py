"""The files in launch/. Those that can run on one machine are run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

ROOT = Path(__file__).parent.parent
LAUNCH = ROOT / "launch"

FAKE_SCHEDULER = """\
#!/usr/bin/env bash
# Stands in for Slurm on a machine without it: {name}
{body}
"""


@pytest.mark.parametrize("script", sorted(path.name for path in LAUNCH.glob("*.s*")))
def test_scripts_are_valid_bash(script: str) -> None:
    subprocess.run(["bash", "-n", str(LAUNCH / script)], check=True)


@pytest.mark.parametrize("name", sorted(path.name for path in (LAUNCH / "accelerate").iterdir()))
def test_accelerate_configs_start_with_their_command_and_can_be_read(name: str) -> None:
    path = LAUNCH / "accelerate" / name
    text = path.read_text()
    assert text.startswith("# ")
    assert name in text or "multi_node.sh" in text
    assert load_config_from_file(str(path)).num_processes >= 1


def test_no_file_in_launch_chooses_a_precision_for_the_config() -> None:
    for path in (LAUNCH / "accelerate").iterdir():
        assert load_config_from_file(str(path)).mixed_precision == "no", path.name
    for path in LAUNCH.glob("*.s*"):
        assert "--mixed_precision" not in path.read_text(), path.name


def test_multi_node_script_prints_its_usage_if_called_wrongly() -> None:
    result = subprocess.run(
        ["bash", str(LAUNCH / "multi_node.sh")], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "MACHINES MACHINE_RANK FIRST_MACHINE CONFIG" in result.stderr


@pytest.mark.slow
def test_slurm_script_trains_and_requeues_a_run_that_was_stopped(config: str, tmp_path: Path) -> None:
    """With stand-ins for Slurm's commands: the script's own logic, not Slurm's."""
    tools = tmp_path / "bin"
    tools.mkdir()
    _write_tool(
        tools,
        "scontrol",
        f'if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" > {tmp_path}/requeued; fi',
    )
    # srun gets its own flags first, then the command.
    _write_tool(tools, "srun", 'shift\nSLURM_NODEID=0 exec "$@"')
    environment = {
        **_environment(),
        "PATH": f"{tools}:{_environment()['PATH']}",
        "PROCESSES_PER_MACHINE": "1",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "this",
        "SLURM_JOB_NUM_NODES": "1",
    }
    command = ["bash", str(LAUNCH / "slurm.sbatch"), config, "schedule.steps=4"]
    result = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "run" / "DONE").read_text())["exit_code"] == 0
    assert not (tmp_path / "requeued").exists()

    # A job that was stopped: srun fails, and the run says why.
    (tmp_path / "run" / "DONE").unlink()
    _write_tool(tools, "srun", f"touch {tmp_path}/run/PREEMPTED\nexit 1")
    result = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "requeued").read_text() == f"requeue {environment['SLURM_JOB_ID']}\n"

    # A job that failed does not take the note of an earlier stop for its own.
    _write_tool(tools, "srun", "exit 1")
    result = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1


def _write_tool(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(FAKE_SCHEDULER.format(name=name, body=body))
    path.chmod(0o755)


def _environment() -> dict[str, str]:
    """This process's, with the tests' own Python first on the path."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
