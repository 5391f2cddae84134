"""The study of asked classes: what it counts, and runs that it refuses."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pipeline.options import DcganOptions
from tests.trained import write_run

NAMES = [str(digit) for digit in range(10)]


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend("benchmarks/studies")
    monkeypatch.setattr(import_module("digit_classifier"), "EPOCHS", 2)
    return import_module("asked_classes")


def test_it_counts_the_samples_that_a_classifier_sees_as_asked(
    study: Any,
    digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = DcganOptions(latent=8, width=4, conditional=True)
    known, unknown = (
        write_run(tmp_path, model, 16, name=name, classes=classes)
        for name, classes in (("known", NAMES), ("unknown", ["a", "b"]))
    )
    words = ["--train", str(digits), "--test", str(digits), "--count", "40"]

    def run(place: Path) -> int:
        monkeypatch.setattr(sys, "argv", ["asked_classes", str(place), *words])
        code: int = study.main()
        return code

    assert run(known) == 0
    said = capsys.readouterr().out
    share = re.search(r"^([\d.]+)% of 40 samples of step 4 are seen as asked", said, re.MULTILINE)
    by_class = [float(found) for found in re.findall(r"^  \d  ([\d.]+)%$", said, re.MULTILINE)]
    assert share is not None
    # Four samples of each class.
    assert float(share[1]) == pytest.approx(sum(by_class) / 10)
    assert {found % 25 for found in by_class} == {0}
    real = re.search(r"^([\d.]+)% of the real images", said, re.MULTILINE)
    assert real is not None
    # Of ten classes, after two epochs.
    assert float(real[1]) > 20

    assert run(unknown) == 2
    assert "makes images of a, b, and" in capsys.readouterr().err
