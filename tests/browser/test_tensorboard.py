"""TensorBoard as a person sees it: the real server on a real run, in a browser that reaches nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.ranks import free_port, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where `tensorboard --logdir RUN` answers."""
    port = free_port()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(trained), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--load_fast", "false"]
    log = tmp_path_factory.mktemp("tensorboard") / "log"
    with log.open("wb") as file:
        server = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "TMPDIR": str(log.parent)}
        )
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert server.poll() is None, log.read_text()
        try:
            # The list of tags is empty until the event files are read.
            with urlopen(f"{url}/data/plugin/images/tags", timeout=5) as reply:
                return b"samples/ema" in reply.read()
        except (URLError, TimeoutError):
            return False

    try:
        wait_until(answers)
        yield url
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """A page whose requests to anywhere but the server are refused, and fail the test."""
    refused: list[str] = []

    def refuse(route: Route) -> None:
        refused.append(route.request.url)
        route.abort()

    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    page.route(lambda url: not url.startswith((address, "data:", "blob:")), refuse)
    yield page
    context.close()
    assert refused == []


def test_custom_scalars_put_related_curves_into_one_chart(page: Page, address: str) -> None:
    page.goto(f"{address}/#custom_scalars")
    for category in ("wasserstein", "speed", "health"):
        expect(page.locator("tf-category-paginated-view", has_text=category).first).to_be_visible()
    chart = page.locator("tf-custom-scalar-multi-line-chart-card", has_text="scores of real and generated")
    expect(chart).to_contain_text("Matches (2)")
    expect(chart.locator("vz-line-chart2")).to_be_visible()
    for tag in ("critic/real", "critic/fake"):
        expect(chart).to_contain_text(tag)


def test_images_show_generated_beside_real_ones(page: Page, address: str) -> None:
    page.goto(f"{address}/#images")
    for tag in ("samples/ema", "samples/real"):
        picture = page.locator("tf-image-loader", has_text=tag).locator("img")
        expect(picture).to_be_visible()
        assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 2 * 34 + 2


def test_text_shows_config_and_environment(page: Page, address: str) -> None:
    page.goto(f"{address}/#text")
    for tag, content in (("run/config", "critic_updates: 2"), ("run/environment", '"world_size": 1')):
        loader = page.locator("tf-text-loader", has_text=f"tag: {tag}")
        expect(loader).to_be_visible()
        expect(loader).to_contain_text(content)
