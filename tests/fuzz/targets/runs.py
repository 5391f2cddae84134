"""The files of a run, as training, reports and plots read them back: all of them but the tensors."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.commands.report_charts import read_grids
from pipeline.commands.report_page import describe_data, read_ending, render, summarise
from pipeline.commands.report_tables import newest_of_equal, summarise_quality, tabulate
from pipeline.config import parse_config
from pipeline.file_lock import FileLock
from pipeline.models import build_generator
from pipeline.monitor.animation import draw_animation
from pipeline.monitor.files import AlarmLines, JsonLines
from pipeline.monitor.own_metrics import read_own_metrics
from pipeline.monitor.recorder import Recorder
from pipeline.monitor.records import AlarmLine, EvaluationLine, points_of, read_alarms, read_lines, tags_of
from pipeline.quality.best import Best
from pipeline.run.checkpoint import Checkpoint, newest_usable, save_checkpoint
from pipeline.run.directory import RunDirectory
from pipeline.run.generator import read_generator
from pipeline.training.identity import check_identity, check_steps
from pipeline.training.resume import check_position, check_window
from pipeline.yaml_text import parse_yaml
from tests.fuzz.attempts import try_each
from tests.fuzz.engine import target
from tests.fuzz.targets.images import repair_png
from tests.trained import MANIFEST, SMALL

CONFIG_TEXT = """\
name: run
data: {shards: shards}
model: {name: dcgan, latent: 8, width: 4}
schedule: {steps: 4, global_batch: 4}
quality: {every: 2, keep_best: fid, samples: 128}
"""
CONFIG = parse_config(parse_yaml(CONFIG_TEXT).content, "config")
QUALITY = CONFIG.quality
IDENTITY = {
    **{f"model.{key}": value for key, value in SMALL.model_dump(mode="json").items()},
    "seed": 0,
    "images": [1, 8, 8],
    "data.manifest": MANIFEST,
}
BEST = {**Best.of(QUALITY).facts(), "value": 1.5, "step": 2, "former": [2]}
ALARMS = {
    "log_points": 2,
    "highest": {"wasserstein/estimate": 2.0},
    "in_a_row": {"collapse": 1},
    "told": [],
    "last": {},
}
STATE: dict[str, Any] = {
    "identity": IDENTITY,
    "counters": {"step": 4, "position": 96},
    "scaler": {},
    "window": {"names": ["critic/real", "critic/fake"], "count": 2},
    "recorder": {"smooth": 0.5, "smoothed": 2, "health": ALARMS},
    "best": BEST,
}
RECORD = {"step": 2, "wasserstein/estimate": 2.0, "speed/images_per_second": 1234.5}
QUALITY_RECORD = {"step": 2, "quality/fid_pixels": 3.5, "speed/step_seconds": 0.5}
ALARM = {"step": 2, "name": "collapse", "text": "The generator has collapsed."}
EVALUATION = {
    "step": 4,
    "weights": "ema",
    "samples": 100,
    "seed": 0,
    "features": "pixels",
    "real": 100,
    "manifest": MANIFEST,
    "metrics": {"fid": 3.5, "precision": 0.5},
    "time": "2026-01-02",
}
NOTE = {"reason": "all 4 steps are done", "exit_code": 0, "time": "2026-01-02T03:04:05+0000"}
ENVIRONMENT = {
    "python": "3.11",
    "setup": {"world_size": 2, "device_name": "CPU", "precision": "fp32"},
    "revision": "c0ffee",
    "packages": {"torch": "2.13"},
}
OWN = {
    "metrics": [{"tag": "quality/sharp", "name": "my.module:sharp", "title": "Sharpness", "better": "higher"}]
}


@functools.cache
def template() -> Path:
    """A run of 4 steps with checkpoints at steps 2 and 4."""
    torch.set_num_threads(1)
    run = Path(tempfile.mkdtemp()) / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "samples").mkdir()
    (run / "config.yaml").write_text(CONFIG_TEXT, encoding="utf-8")
    (run / "metrics.jsonl").write_bytes(lines(RECORD, {**RECORD, "step": 4}))
    torch.manual_seed(0)
    for step in (2, 4):
        network = build_generator(SMALL, 8, 1).state_dict()
        groups = {"generator": network, "ema": network, "window": {"sums": torch.ones(1, 2)}}
        state = {**STATE, "counters": {"step": step, "position": 24 * step}}
        save_checkpoint(run / "checkpoints", step, groups, state)
    read_generator(run).sample(1)  # so that the first input does not wait for what this imports
    return run


def copy_run(directory: Path) -> Path:
    """A copy of the run in the input's directory."""
    return Path(shutil.copytree(template(), directory / "run"))


def newest(run: Path) -> Checkpoint:
    """The run's newest checkpoint."""
    return Checkpoint(run / "checkpoints" / "step_00000004", 4)


def exchange(run: Path, name: str, content: bytes) -> Checkpoint:
    """Exchange a file of the newest checkpoint, and note its size and hash, so that it is taken for valid."""
    checkpoint = newest(run)
    (checkpoint.path / name).write_bytes(content)
    manifest = json.loads((checkpoint.path / "manifest.json").read_bytes())
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (checkpoint.path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return checkpoint


def lines(*records: Any) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def state_seeds() -> list[bytes]:
    former = {key: value for key, value in STATE.items() if key != "best"}
    former["recorder"] = {"smooth": 0.5, "smooth_weight": 0.25}
    return [json.dumps(state, indent=1).encode() for state in (STATE, former, {"identity": IDENTITY})]


def resume(checkpoint: Checkpoint) -> None:
    """What a run does with the plain values of a checkpoint, without the ranks."""
    facts, window = checkpoint.resumable_facts(), checkpoint.tensors("window")
    check_position(checkpoint, facts.counters, CONFIG.schedule)
    check_window(checkpoint, window, facts.window)
    recorder, best = Recorder(0.9, torch.device("cpu")), Best.of(QUALITY)
    recorder.window.restore(window, facts.window.model_dump(), 0, 1, torch.device("cpu"))
    recorder.window.add({"critic/real": torch.tensor(1.0), "critic/fake": torch.tensor(0.0)})
    recorder.window.means(lambda value: value)
    recorder.restore(facts.recorder.model_dump(exclude_none=True))
    recorder.smooth(1.0)
    recorder.alarms.check({"wasserstein/estimate": -1.0, "critic/real": 0.0})
    json.dumps(recorder.facts())
    saved = facts.best.model_dump() if facts.best else None
    if not best.restore(saved) and saved is not None:
        best.changes(saved)
    best.update(6, {"fid": 1.0})
    json.dumps(best.facts())


@target("state", state_seeds)
def resume_from_a_state(data: bytes, directory: Path) -> None:
    run = copy_run(directory)
    checkpoint = exchange(run, "state.json", data)
    try_each(
        lambda: newest_usable(run / "checkpoints"),
        lambda: check_identity(checkpoint, IDENTITY),
        lambda: check_steps(checkpoint, 8),
        lambda: resume(checkpoint),
        lambda: read_generator(run),
        lambda: read_generator(run, "best"),
        lambda: read_generator(checkpoint.path),
        lambda: describe_data(CONFIG, [checkpoint]),
    )


@target("checkpoint-manifest", lambda: [(newest(template()).path / "manifest.json").read_bytes()])
def choose_a_checkpoint(data: bytes, directory: Path) -> None:
    run = copy_run(directory)
    (newest(run).path / "manifest.json").write_bytes(data)
    try_each(lambda: read_generator(run), lambda: read_generator(newest(run).path))


@target(
    "records",
    lambda: [lines(RECORD, {**RECORD, "step": 4}), lines(ALARM, ALARM), lines(EVALUATION, EVALUATION)],
)
def read_records(data: bytes, directory: Path) -> None:
    """All lines of a run are summed up, and a resumed run goes on with those before its first step."""
    run = RunDirectory(directory)
    for path in (run.metrics, run.alarms, run.evaluations):
        path.write_bytes(data)
    records, alarms = read_lines(run.metrics), read_alarms(directory)
    for tag in tags_of(records):
        points_of(records, tag)
    quality = summarise_quality(records)
    summarise(records, alarms, [], CONFIG, None, quality)
    tabulate(newest_of_equal(read_lines(run.evaluations, EvaluationLine)))
    JsonLines(run.metrics, 3).close()
    AlarmLines(run.alarms, 3).close()
    assert all(record["step"] < 3 for record in read_lines(run.metrics))
    read_lines(run.alarms, AlarmLine)


@target("notes", lambda: [json.dumps(note, indent=1).encode() for note in (NOTE, ENVIRONMENT, OWN)])
def read_notes(data: bytes, directory: Path) -> None:
    run = RunDirectory(directory)
    for name in ("environment.json", "own_metrics.json", "lock", "FAILED"):
        (directory / name).write_bytes(data)
    environment, _ = run.read_environment()
    read_ending(run)
    read_own_metrics(directory)
    summarise([], [], [], CONFIG, environment, [])
    with FileLock(directory / "lock"):
        pass


SECTION = re.compile(rb"^=== ([A-Za-z_.]+)$\n?", re.MULTILINE)


def report_seeds() -> list[bytes]:
    """The files of a run one after the other, each below a line with its name."""
    render(template())  # so that the first input does not wait for fonts
    files = {
        "config.yaml": CONFIG_TEXT.encode(),
        "metrics.jsonl": lines(RECORD, {**RECORD, "step": 4}),
        "alarms.jsonl": lines(ALARM),
        "evaluations.jsonl": lines(EVALUATION),
        "environment.json": json.dumps(ENVIRONMENT).encode(),
        "own_metrics.json": json.dumps(OWN).encode(),
        "DONE": json.dumps(NOTE).encode(),
        "state.json": json.dumps(STATE).encode(),
    }
    other = {**files, "metrics.jsonl": lines(QUALITY_RECORD, {**QUALITY_RECORD, "step": 4})}
    return [
        b"".join(b"=== %s\n%s\n" % (name.encode(), content) for name, content in chosen.items())
        for chosen in (files, other)
    ]


@target("report", report_seeds)
def report_a_run(data: bytes, directory: Path) -> None:
    """The page contains no element of the files."""
    run = copy_run(directory)
    _, *parts = SECTION.split(data)
    for name, content in zip(parts[::2], parts[1::2], strict=True):
        if name == b"state.json":
            exchange(run, "state.json", content)
        elif b"/" not in name and name.strip(b".") and len(name) < 40:
            (run / name.decode()).write_bytes(content)
    page = render(run)
    assert "<injected" not in page
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202e]", page), "control characters on the page"


def grid_seeds() -> list[bytes]:
    pixels = np.arange(20 * 20 * 3, dtype=np.uint8).reshape(20, 20, 3)
    seeds = []
    for mode in ("RGB", "L", "P", "RGBA", "1", "I;16"):
        stream = io.BytesIO()
        Image.fromarray(pixels).convert("L" if mode == "I;16" else mode).convert(mode).save(stream, "PNG")
        seeds.append(stream.getvalue())
    return seeds


@target("grid", grid_seeds, repair_png)
def show_a_grid(data: bytes, directory: Path) -> None:
    run = RunDirectory(directory)
    run.samples.mkdir()
    (run.samples / "step_00000200.png").write_bytes(data)
    try_each(lambda: read_grids(run.samples), lambda: draw_animation(directory, directory / "training.gif"))
