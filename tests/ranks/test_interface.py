"""Which network interface the ranks use."""

from __future__ import annotations

import os
import socket
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from pipeline.ranks import interface
from pipeline.ranks.interface import choose_interface, interface_to
from pipeline.ranks.variables import Place

CABLE = {"lo": "127.0.0.1", "eth0": "10.0.0.5"}


def machine(monkeypatch: pytest.MonkeyPatch, addresses: dict[str, str], source: str | None) -> None:
    """A machine with these interfaces, which sends from `source` to any other address."""
    found = {name: [SimpleNamespace(family=socket.AF_INET, address=text)] for name, text in addresses.items()}
    states = {name: SimpleNamespace(isup=name != "down") for name in addresses}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: found)
    monkeypatch.setattr(psutil, "net_if_stats", lambda: states)
    known = None if source is None else interface._address(source)
    monkeypatch.setattr(interface, "_source_of", lambda address: known)


@pytest.mark.parametrize(
    ("addresses", "source", "is_only_machine", "expected"),
    [
        (CABLE, "10.0.0.5", False, "eth0"),
        (CABLE, "10.0.0.5", True, "eth0"),
        (CABLE, "127.0.0.1", True, "lo"),
        # The first machine, if its own name stands for a loopback address.
        (CABLE, "127.0.0.1", False, "eth0"),
        ({**CABLE, "down": "10.0.1.5"}, "127.0.0.1", False, "eth0"),
        ({**CABLE, "ib0": "10.0.1.5"}, "127.0.0.1", False, None),
        ({**CABLE, "ib0": "10.0.1.5"}, "10.0.1.5", False, "ib0"),
        (CABLE, None, False, None),
    ],
)
def test_the_interface_is_the_one_that_leads_to_the_first_machine(
    addresses: dict[str, str],
    source: str | None,
    is_only_machine: bool,
    expected: str | None,
    monkeypatch: Any,
) -> None:
    machine(monkeypatch, addresses, source)
    assert interface_to("node-a", is_only_machine) == expected


def test_an_interface_that_the_user_names_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, CABLE, "10.0.0.5")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    choose_interface(Place(1, 2, 0, 1))
    assert os.environ["GLOO_SOCKET_IFNAME"] == "ib0"
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    choose_interface(Place(0, 1, 0, 1))
    assert "GLOO_SOCKET_IFNAME" not in os.environ
    choose_interface(Place(1, 2, 0, 1))
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth0"
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")


def test_this_machines_own_addresses_have_an_interface() -> None:
    assert interface_to("127.0.0.1", is_only_machine=True) in psutil.net_if_addrs()
    assert interface_to("no.such.host.invalid", is_only_machine=False) is None
