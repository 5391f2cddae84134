"""Files from web servers that lead elsewhere, send too much, or never end."""

from __future__ import annotations

import gzip
import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.data.format import web
from pipeline.data.format.downloads import Patience
from pipeline.data.format.transport import Transport
from pipeline.data.format.web import Trip, kind_of
from pipeline.errors import DataError
from tests.data.format.downloads import options
from tests.data.format.web_server import Connection, Server, body, redirect, serve

CONTENT = b"some bytes" * 100


def fetch(server: Server, tmp_path: Path, path: str = "x", **changes: object) -> bytes:
    """Download the file as `RemoteFiles` does, in several attempts."""
    settings = options(tmp_path, **{"deadline_seconds": 2.0, "stall_seconds": 0.5, **changes})  # type: ignore[arg-type]
    transport, patience = Transport(server.url, settings), Patience.of(f"{server.url}/{path}", settings)
    target = tmp_path / "file"
    patience.repeat(lambda: transport.save(path, target, len(CONTENT), patience))
    return target.read_bytes()


def drip_body(connection: Connection) -> None:
    connection.head(Content_Length=len(CONTENT))
    connection.drip(CONTENT, 0.05)


def drip_head(connection: Connection) -> None:
    connection.drip(b"HTTP/1.1 200 OK\r\n" + b"X-Header: of no use\r\n" * 1000, 0.05)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (drip_body, r"only \d+ bytes? arrived in|\d+ bytes? had arrived by then"),
        (drip_head, "nothing had arrived by then"),
        (lambda connection: connection.server.is_ending.wait(60), "Timeout on reading|nothing had"),
    ],
)
def test_a_transfer_that_never_ends_is_given_up_at_the_deadline(
    answer: Callable[[Connection], None], reason: str, tmp_path: Path
) -> None:
    began = time.monotonic()
    with (
        serve({"/x": answer}) as server,
        pytest.raises(DataError, match=rf"within 2 s, in \d attempts?; the last error: ({reason})"),
    ):
        fetch(server, tmp_path)
    assert time.monotonic() - began < 10


def endless(connection: Connection) -> None:
    connection.head(Transfer_Encoding="chunked")
    while not connection.server.is_ending.is_set():
        connection.send(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")


def announced(connection: Connection) -> None:
    connection.head(Content_Length=10**12)
    while not connection.server.is_ending.is_set():
        connection.send(b"x" * 0x10000)


@pytest.mark.parametrize("answer", [endless, announced])
def test_a_body_that_is_longer_than_expected_is_cut_off(
    answer: Callable[[Connection], None], tmp_path: Path
) -> None:
    with (
        serve({"/x": answer}) as server,
        pytest.raises(DataError, match="the file is larger than 1,000 bytes"),
    ):
        fetch(server, tmp_path, deadline_seconds=0.2)
    assert server.sent["/x"] < 30e6, "what the buffers of the connection hold"


def test_a_compressed_body_is_not_unpacked(tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(1 << 20))
    with (
        serve({"/x": body(bomb, Content_Encoding="gzip")}) as server,
        pytest.raises(DataError, match=r"the server compresses the file \(Content-Encoding: gzip\)"),
    ):
        fetch(server, tmp_path)
    assert not (tmp_path / "file").exists()


def test_redirects_on_the_same_host_are_followed(tmp_path: Path) -> None:
    with serve({"/x": redirect("/y?signature=a%2Fb%20c"), "/y": body(CONTENT)}) as server:
        assert fetch(server, tmp_path) == CONTENT
        assert server.asked == ["/x", "/y?signature=a%2Fb%20c"]


def test_redirects_to_another_host_are_followed_if_it_is_listed(tmp_path: Path) -> None:
    with (
        serve({"/y": body(CONTENT)}) as other,
        serve({"/x": redirect(f"http://localhost:{other.port}/y")}) as server,
    ):
        with pytest.raises(
            DataError,
            match=r"x: the server redirects to another host, localhost\. If you trust it, add it to data",
        ):
            fetch(server, tmp_path)
        assert other.asked == []
        assert fetch(server, tmp_path, redirect_hosts=["localhost"]) == CONTENT


def test_redirects_that_never_end_are_refused(tmp_path: Path) -> None:
    with (
        serve({"/x": redirect("/x")}) as server,
        pytest.raises(DataError, match="the server redirects more than 5 times"),
    ):
        fetch(server, tmp_path)
    assert len(server.asked) == 6


@pytest.mark.parametrize("host", ["127.0.0.2", "[::ffff:127.0.0.2]"])
def test_a_public_server_cannot_lead_to_this_machine(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address of the first server counts as public here."""
    monkeypatch.setattr(web, "kind_of", lambda found: "public" if found == "127.0.0.1" else kind_of(found))
    with (
        serve({"/y": body(CONTENT)}) as inner,
        serve({"/x": redirect(f"http://{host}:{inner.port}/y")}) as server,
    ):
        with pytest.raises(DataError, match="the server redirects to another host"):
            fetch(server, tmp_path)
        with pytest.raises(DataError, match="which is at the loopback address"):
            fetch(server, tmp_path, redirect_hosts=[host.strip("[]")])
        assert inner.asked == []


@pytest.mark.parametrize(
    ("start", "location", "leads_to"),
    [
        ("http://a.org/set/x", "y", "http://a.org/set/y"),
        ("http://a.org/x", "https://A.org./x", "https://A.org./x"),
        ("https://a.org/x", "//a.org:8443/y", "https://a.org:8443/y"),
        ("https://a.org/x", "https://eu.cdn.org/y?token=1", "https://eu.cdn.org/y?token=1"),
        ("https://a.org/x", "https://user:word@cdn.org/y", "https://cdn.org/y"),
        ("https://a.org/x", "http://a.org/x", "from https to http"),
        ("https://a.org/x", "https://b.org/x", r"another host, b\.org"),
        ("https://a.org/x", "https://notcdn.org/x", r"another host, notcdn\.org"),
        ("https://a.org/x", "https://a.org.b.org/x", "another host"),
        ("https://a.org/x", "https://a.org@b.org/x", r"another host, b\.org"),
        ("http://a.org/x", "file:///etc/passwd", "is no web address"),
        ("http://a.org/x", "gopher://a.org/x", "is no web address"),
        ("http://a.org/x", "http://b.org/\x1b]0;x\x07", "another host"),
    ],
)
def test_redirects_stay_on_https_and_on_known_hosts(start: str, location: str, leads_to: str) -> None:
    trip = Trip(start, ["cdn.org"])
    if leads_to.startswith("http"):
        assert trip.follow(start, location) == leads_to
        return
    with pytest.raises(DataError, match=leads_to) as refused:
        trip.follow(start, location)
    assert "\x1b" not in str(refused.value)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("127.0.0.1", "loopback"),
        ("0.0.0.0", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("64:ff9b::7f00:1", "loopback"),
        ("169.254.169.254", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("2002:a9fe:a9fe::1", "link-local"),
        ("10.1.2.3", "private"),
        ("192.168.0.1", "private"),
        ("100.64.0.1", "private"),
        ("fd00::1", "private"),
        ("224.0.0.1", "private"),
        ("8.8.8.8", "public"),
        ("2606:4700::1111", "public"),
    ],
)
def test_every_form_of_an_address_is_known(address: str, kind: str) -> None:
    assert kind_of(address) == kind


def test_a_first_failure_is_said_at_once_and_without_secrets(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def answer(connection: Connection) -> None:
        if len(connection.server.asked) < 4:
            connection.head("503 see http://u:geheim@x/?token=geheim", Content_Length=0)
        else:
            body(CONTENT)(connection)

    with serve({"/x": answer}) as server:
        assert fetch(server, tmp_path, deadline_seconds=20) == CONTENT
    (told,) = capfd.readouterr().err.splitlines()
    assert told.startswith(
        f"warning: {server.url}/x could not be downloaded: the server answered 503 see http://x/"
    )
    assert "The next attempt is in 0." in told
    assert "geheim" not in told


def test_nothing_says_the_query_of_a_redirect(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with (
        serve({"/x": redirect("http://127.0.0.1:9/y?X-Amz-Signature=geheim")}) as server,
        pytest.raises(DataError, match="Cannot connect") as refused,
    ):
        fetch(server, tmp_path, deadline_seconds=0.3)
    assert "geheim" not in f"{refused.value} {capfd.readouterr()}"


@pytest.mark.parametrize("name", ["aiohttp.client", "botocore.auth", "fsspec.http"])
def test_the_logs_of_libraries_lose_their_secrets(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger(name)
    Transport("http://127.0.0.1", options(tmp_path))
    try:
        raise ValueError("https://x/y?sig=geheim")
    except ValueError:
        logger.exception(
            "GET %s with %s\x1b[2J", "https://u:geheim@x/y?sig=geheim", "Authorization: Bearer geheim"
        )
    assert "geheim" not in caplog.text
    assert "\x1b" not in caplog.text
    assert "GET https://x/y" in caplog.text
