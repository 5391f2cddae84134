"""The report as a browser shows it: without the network, and with nothing in it that runs but its own script."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from pipeline.cli import main

pytestmark = pytest.mark.slow

SCRIPT = "<script>document.title = 'taken over'</script><img src=x onerror=\"document.title = 'taken over'\">"


class Watched:
    """A page, with what it asked for and what it complained of."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("requestfailed", lambda request: self.complaints.append(f"failed: {request.url[:80]}"))
        page.on("request", lambda request: self.requests.append(request.url[:80]))

    def open(self, path: Path) -> Page:
        self.page.goto(path.as_uri())
        return self.page


@pytest.fixture
def watched(browser: Browser) -> Iterator[Watched]:
    context = browser.new_context()
    yield Watched(context.new_page())
    context.close()


@pytest.fixture(scope="module")
def page_of_run(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "report.html"
    assert main(["report", str(trained), "--out", str(out)]) == 0
    return out


def test_the_report_asks_for_nothing_and_complains_of_nothing(watched: Watched, page_of_run: Path) -> None:
    page = watched.open(page_of_run)
    expect(page.get_by_role("heading", name="run", exact=True)).to_be_visible()
    expect(page.locator("#curves svg").first).to_be_visible()
    assert watched.complaints == []
    assert [url for url in watched.requests if not url.startswith("data:")] == [page_of_run.as_uri()]


def test_the_slider_goes_through_the_grids(watched: Watched, page_of_run: Path) -> None:
    page = watched.open(page_of_run)
    slider, picture, step = page.get_by_role("slider"), page.locator(".stage img"), page.locator("output")
    expect(step).to_have_text("step 20")
    last = picture.get_attribute("src")
    slider.focus()
    slider.press("ArrowLeft")
    expect(step).not_to_have_text("step 20")
    assert picture.get_attribute("src") != last
    slider.press("End")
    expect(step).to_have_text("step 20")
    assert picture.get_attribute("src") == last
    assert picture.evaluate("image => image.naturalWidth") > 0


def test_play_goes_from_the_first_grid_to_the_last_and_ends(watched: Watched, page_of_run: Path) -> None:
    watched.page.clock.install()
    page = watched.open(page_of_run)
    play, slider = page.locator(".play"), page.get_by_role("slider")
    last = slider.get_attribute("max")
    assert last is not None
    play.click()
    expect(slider).to_have_value("0")
    expect(play).to_have_text("Pause")
    page.clock.run_for(500 * int(last))
    expect(slider).to_have_value(last)
    expect(play).to_have_text("Play")


def test_a_thumbnail_shows_its_grid(watched: Watched, page_of_run: Path) -> None:
    page = watched.open(page_of_run)
    page.locator(".thumbs button", has_text="step 10").click()
    expect(page.locator("output")).to_have_text("step 10")
    expect(page.locator(".thumbs [aria-pressed=true]")).to_have_text("step 10")


def test_without_scripts_all_grids_are_shown(browser: Browser, page_of_run: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_of_run.as_uri())
    expect(page.locator(".thumbs img").first).to_be_visible()
    expect(page.get_by_role("slider")).to_be_hidden()
    context.close()


@pytest.mark.parametrize("width", [360, 1280])
def test_no_part_of_the_page_is_wider_than_the_screen(
    watched: Watched, page_of_run: Path, width: int
) -> None:
    watched.page.set_viewport_size({"width": width, "height": 800})
    page = watched.open(page_of_run)
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_dark_and_light_are_as_the_reader_prefers(watched: Watched, page_of_run: Path) -> None:
    page = watched.open(page_of_run)

    def lightness(selector: str, quantity: str) -> float:
        colour = page.locator(selector).first.evaluate(f"node => getComputedStyle(node).{quantity}")
        channels = colour.removeprefix("rgb(").removesuffix(")").split(",")
        return sum(map(float, channels)) / (3 * 255)

    for scheme, is_dark in (("light", False), ("dark", True)):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        paper, ink = lightness("body", "backgroundColor"), lightness("body", "color")
        assert (paper < ink) == is_dark
        assert lightness("#curves svg text", "fill") == ink


def test_nothing_in_a_run_becomes_a_script(watched: Watched, trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "a<img src=x onerror=alert(1)>"
    shutil.copytree(trained, run)
    (run / "DONE").write_text(json.dumps({"reason": SCRIPT, "exit_code": 0, "time": SCRIPT}))
    (run / "config.yaml").write_text((run / "config.yaml").read_text() + f"# {SCRIPT}\n")
    (run / "environment.json").write_text(json.dumps({SCRIPT: SCRIPT, "revision": "0" * 40}))
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 20, f"quality/{SCRIPT}": 1.0}) + "\n")
    (run / "alarms.jsonl").write_text(json.dumps({"step": 20, "name": SCRIPT, "text": SCRIPT}) + "\n")
    evaluation = {"step": 20, "weights": SCRIPT, "features": SCRIPT, "metrics": {SCRIPT: 1.0}, "time": SCRIPT}
    (run / "evaluations.jsonl").write_text(json.dumps(evaluation) + "\n")
    assert main(["report", str(run), "--out", str(tmp_path / "report.html")]) == 0
    page = watched.open(tmp_path / "report.html")
    for place in (".status", "#config", "#environment", "#quality", "#alarms", "#evaluations", "#curves"):
        expect(page.locator(place)).to_contain_text("<script>document.title")
    expect(page.locator("h1")).to_have_text(run.name)
    expect(page).to_have_title(f"{run.name}: DONE")
    assert page.locator("script").count() == 1
    assert watched.complaints == []
    assert [url for url in watched.requests if not url.startswith(("file:", "data:"))] == []
