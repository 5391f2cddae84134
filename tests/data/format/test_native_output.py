"""What libraries in C print is hidden or caught, and nothing else is."""

from __future__ import annotations

import os
import sys
import threading

import cv2
import numpy as np
import pytest

from pipeline.data.format.native_output import caught_native_output, hidden_native_output
from tests.image_files import png_with_pixels

CUT = np.frombuffer(png_with_pixels(8, bytes(30)), np.uint8)
COMPLAINT = "libpng error: Not enough image data\n"


def complain() -> None:
    cv2.imdecode(CUT, cv2.IMREAD_GRAYSCALE)


def test_only_libraries_in_c_are_hidden(capfd: pytest.CaptureFixture[str]) -> None:
    with hidden_native_output():
        complain()
        os.write(2, b"a crash\n")
        print("python", file=sys.stderr)
    assert capfd.readouterr().err == "a crash\npython\n"
    complain()
    assert capfd.readouterr().err == COMPLAINT


def test_output_stays_hidden_until_the_last_thread_is_done(capfd: pytest.CaptureFixture[str]) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def hide() -> None:
        with hidden_native_output():
            inside.set()
            go_on.wait(10)

    other = threading.Thread(target=hide)
    other.start()
    inside.wait(10)
    with hidden_native_output():
        pass
    complain()
    go_on.set()
    other.join()
    assert capfd.readouterr().err == ""
    complain()
    assert capfd.readouterr().err == COMPLAINT


def test_what_is_printed_can_be_caught_also_where_it_is_hidden(capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        with hidden_native_output(), caught_native_output() as printed:
            assert printed() == ""
            complain()
            assert printed() == COMPLAINT
    with caught_native_output() as printed:
        for _ in range(100):
            complain()
        assert len(printed()) == 1000, "no more than a message needs"
    assert capfd.readouterr().err == ""
