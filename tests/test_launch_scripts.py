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


SMI = {
    "none": None,
    "one GPU in parts": "echo 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\n"
    'for part in 0 1 2; do echo "  MIG 1g.10gb     Device  $part: (UUID: MIG-$part)"; done',
    "a driver that does not answer": "echo 'NVIDIA-SMI has failed because ...' >&2\nexit 9",
}
"""What `nvidia-smi` does on machines of several kinds"""


@pytest.mark.slow
@pytest.mark.parametrize("smi", SMI, ids=list(SMI))
def test_multi_node_script_asks_torch_for_gpus_and_not_other_tools(smi: str, tmp_path: Path) -> None:
    tools = {"nvidia-smi": SMI[smi], "rocm-smi": "echo 'GPU[0] : GPU ID: 0x740f'"}
    words, variables = _launched(tmp_path, {name: body for name, body in tools.items() if body is not None})
    assert words[words.index("--num_processes") + 1] == "2"
    assert "ACCELERATE_USE_CPU=1" in variables


@pytest.mark.parametrize(
    ("gpus", "chosen", "processes"), [(4, None, 12), (1, None, 3), (0, None, 3), (4, "2", 6), (0, "5", 15)]
)
def test_multi_node_script_starts_a_rank_for_each_gpu_of_each_machine(
    gpus: int, chosen: str | None, processes: int, tmp_path: Path
) -> None:
    words, variables = _launched(tmp_path, {"python": f"echo {gpus}"}, machines=3, chosen=chosen)
    assert words[words.index("--num_machines") + 1] == "3"
    assert words[words.index("--num_processes") + 1] == str(processes)
    assert ("ACCELERATE_USE_CPU=1" in variables) == (gpus == 0)
    assert words[words.index("-m") :] == ["-m", "pipeline.train", "a.yaml", "schedule.steps=4"]


def test_multi_node_script_ends_if_torch_cannot_say_how_many_gpus_there_are(tmp_path: Path) -> None:
    result = _run_multi_node(tmp_path, {"python": "echo 'No module named torch' >&2\nexit 1"}, 2, None)
    assert result.returncode == 1
    assert "No module named torch" in result.stderr
    assert not (tmp_path / "launched").exists()


def _launched(
    folder: Path, tools: dict[str, str], machines: int = 2, chosen: str | None = None
) -> tuple[list[str], list[str]]:
    """The words with which the script starts Accelerate, which is not run, and the variables that it then sees."""
    result = _run_multi_node(folder, tools, machines, chosen)
    assert result.returncode == 0, result.stderr
    words, _, variables = (folder / "launched").read_text().partition("\n\n")
    return words.split("\n"), variables.split("\n")


def _run_multi_node(
    folder: Path, tools: dict[str, str], machines: int, chosen: str | None
) -> subprocess.CompletedProcess[str]:
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    launched = f"printf '%s\\n' \"$@\" '' > {folder}/launched\nenv >> {folder}/launched"
    for name, body in {"accelerate": launched, **tools}.items():
        _write_tool(bin_folder, name, body)
    removed = ("ACCELERATE_USE_CPU", "PROCESSES_PER_MACHINE")
    environment = {name: value for name, value in _environment().items() if name not in removed}
    # A GPU of this machine must not take part.
    environment |= {"PATH": f"{bin_folder}:{environment['PATH']}", "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"PROCESSES_PER_MACHINE": chosen} if chosen else {}
    command = [
        "bash",
        str(LAUNCH / "multi_node.sh"),
        str(machines),
        "0",
        "node-a",
        "a.yaml",
        "schedule.steps=4",
    ]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_srun_of_several_tasks_without_ranks_is_refused_by_each(config: str, tmp_path: Path) -> None:
    """They would train the same run side by side. The stand-in starts a task as srun does."""
    tools = tmp_path / "bin"
    tools.mkdir()
    variables = "SLURM_NTASKS=2 SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=$task SLURM_LOCALID=$task"
    _write_tool(tools, "srun", f'for task in 0 1; do {variables} "$@"; echo "ended with $?"; done')
    hidden = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    environment = {name: value for name, value in _environment().items() if name not in hidden}
    environment["PATH"] = f"{tools}:{environment['PATH']}"
    command = ["srun", sys.executable, "-m", "pipeline.cli", "train", config]
    result = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.stdout.split("\n") == ["ended with 2", "ended with 2", ""]
    assert result.stderr.count("Slurm runs this command 2 times (SLURM_STEP_NUM_TASKS)") == 2
    assert "RANK=$SLURM_PROCID" in result.stderr
    assert not (tmp_path / "run").exists()


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
