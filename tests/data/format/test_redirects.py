"""Redirects of the servers behind s3://, gs:// and hf:// addresses lead nowhere but where a web server's may."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.data.format.downloads import Patience
from pipeline.data.format.hub import web_address
from pipeline.data.format.transport import Transport
from pipeline.errors import ConfigError, DataError
from pipeline.option_data import RemoteOptions
from tests.data.format.downloads import options
from tests.data.format.web_server import Server, body, redirect, serve

CONTENT = b"some bytes" * 100
ANSWER = body(CONTENT, ETag='"1"', Last_Modified="Mon, 30 Nov 2026 10:00:00 GMT", Content_Type="image/png")


@pytest.fixture(params=["s3", "gs", "hf"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("HF_TOKEN", "hf_S3cr3t")


def fetch(
    scheme: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **changes: object
) -> bytes:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
    settings = options(tmp_path, **{"deadline_seconds": 5.0, "stall_seconds": 2.0, **changes})  # type: ignore[arg-type]
    template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    url = f"{scheme}://{'datasets/me/' if scheme == 'hf' else ''}bucket/set"
    transport, patience = Transport(url, settings), Patience.of(f"{url}/x", settings)
    patience.repeat(lambda: transport.save("x", tmp_path / "file", len(CONTENT), patience))
    return (tmp_path / "file").read_bytes()


PATHS = {
    "s3": "/bucket/set/x",
    "gs": "/download/storage/v1/b/bucket/o/set%2Fx",
    "hf": "/datasets/me/bucket/resolve/main/set/x",
}


def test_a_redirect_on_the_same_host_is_followed(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve({PATHS[scheme]: redirect("/y"), "/y": ANSWER}) as server:
        assert fetch(scheme, server, tmp_path, monkeypatch) == CONTENT
        assert server.asked[-1] == "/y"


def test_a_redirect_to_another_host_is_followed_only_if_it_is_listed(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        serve({"/y": ANSWER}) as other,
        serve({PATHS[scheme]: redirect(f"http://localhost:{other.port}/y?token=S3cr3t")}) as server,
    ):
        with pytest.raises(
            DataError, match=r"redirects to another host, localhost\. If you trust it"
        ) as caught:
            fetch(scheme, server, tmp_path, monkeypatch)
        assert other.asked == []
        assert len(server.asked) == 1, "it is of no use to try again"
        assert "S3cr3t" not in str(caught.value)
        assert fetch(scheme, server, tmp_path, monkeypatch, redirect_hosts=["localhost"]) == CONTENT


@pytest.mark.parametrize(
    "target", ["http://169.254.169.254/latest/meta-data", "ftp://localhost/x", "file:///etc/passwd"]
)
def test_a_redirect_to_an_internal_address_or_another_kind_is_refused(
    target: str, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        serve({PATHS[scheme]: redirect(target)}) as server,
        pytest.raises(DataError, match="the server redirects to"),
    ):
        fetch(scheme, server, tmp_path, monkeypatch)


def test_the_token_of_the_hub_goes_to_the_hub_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        serve({"/y": ANSWER}) as other,
        serve({PATHS["hf"]: redirect("/z"), "/z": redirect(f"http://localhost:{other.port}/y")}) as server,
    ):
        assert fetch("hf", server, tmp_path, monkeypatch, redirect_hosts=["localhost"]) == CONTENT
        assert ["hf_S3cr3t" in head for head in (*server.heads, *other.heads)] == [True, True, False]


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("hf://datasets/me/set/a/x.tar", "datasets/me/set/resolve/main/a/x.tar"),
        ("hf://me/net@v1/x", "me/net/resolve/v1/x"),
        ("hf://datasets/me/set@refs/pr/1/x", "datasets/me/set/resolve/refs%2Fpr%2F1/x"),
        ("hf://datasets/me/set@refs%2Fpr%2F1/x", "datasets/me/set/resolve/refs%2Fpr%2F1/x"),
        ("hf://spaces/me/app/x", "spaces/me/app/resolve/main/x"),
    ],
)
def test_addresses_of_the_hub_name_a_file_of_its_web_server(url: str, address: str) -> None:
    assert web_address(url).url == f"https://huggingface.co/{address}"


@pytest.mark.parametrize("url", ["hf://datasets/mnist", "hf://buckets/me/x", "hf://x"])
def test_an_address_without_an_owner_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="does not name a directory of a repository"):
        Transport(url, RemoteOptions())
