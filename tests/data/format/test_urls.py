"""Which URLs are accepted, and what is missing to read them."""

from __future__ import annotations

import pytest

from pipeline.data.format.remote import check_url, is_url
from pipeline.data.format.transport import Transport
from pipeline.errors import ConfigError
from pipeline.option_data import RemoteOptions


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("pipe:curl http://x", "a kind of URL that is not supported"),
        ("file:///etc", "a kind of URL that is not supported"),
        ("ftp://host/x", "a kind of URL that is not supported"),
        ("https:host/x", "a kind of URL that is not supported"),
        ("https://user:secret@host/x", "contains a user name or a password"),
        ("s3://AKIAKEY:secret/secret@bucket/x", "contains a user name or a password"),
        ("hf://user:secret@datasets/a/b", "contains a user name or a password"),
        ("gs://secret@bucket/x", "contains a user name or a password"),
        ("https://host/x::file:///etc", "more than a host and a path, or special characters"),
        ("https://host/{000..999}", "more than a host and a path, or special characters"),
        ("https://host/x;id", "more than a host and a path, or special characters"),
        ("https://host/$(id)", "more than a host and a path, or special characters"),
        ("https://host/x y", "more than a host and a path, or special characters"),
        ("https://host/x?list=1", "more than a host and a path, or special characters"),
        ("https:///x", "more than a host and a path, or special characters"),
        ("s3://bucket/x|id", "more than a host and a path, or special characters"),
    ],
)
def test_only_plain_urls_of_supported_kinds_are_accepted(url: str, message: str) -> None:
    assert is_url(url)
    with pytest.raises(ConfigError, match=message) as caught:
        check_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("place", ["data/mnist", "/data/x:y", "./a", "C", "x"])
def test_paths_are_not_urls(place: str) -> None:
    assert not is_url(place)


def test_a_missing_library_is_named_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*names: object, **arguments: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.filesystem", missing)
    with pytest.raises(
        ConfigError, match=r"s3:// URLs need a library that is not installed .*'wgan-pipeline\[remote\]'"
    ):
        Transport("s3://bucket/x", RemoteOptions())
