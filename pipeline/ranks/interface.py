"""The network interface over which the ranks of several machines exchange messages."""

from __future__ import annotations

import ipaddress
import os
import socket

import psutil

from pipeline.ranks.variables import Place

NAME = "GLOO_SOCKET_IFNAME"
ANY_PORT = 9
"""A route is asked for; nothing is sent."""


def choose_interface(place: Place) -> None:
    """Let gloo use the interface that leads to the first machine, unless the user has named one.

    By itself it takes the address that the host's name stands for. On Debian that is a loopback address, at which no
    other machine finds this one.
    """
    if place.world_size == 1 or NAME in os.environ:
        return
    is_only_machine = place.local_world_size == place.world_size
    if (name := interface_to(os.environ.get("MASTER_ADDR", "localhost"), is_only_machine)) is not None:
        os.environ[NAME] = name


def interface_to(address: str, is_only_machine: bool) -> str | None:
    """The interface of the route to this address.

    For the first machine itself that can be the loopback interface, where its own name stands for a loopback address:
    if there are other machines, it is then the only other interface. None if none or several come into question, or
    the address is not known.
    """
    source = _source_of(address)
    if source is None:
        return None
    if source.is_loopback and not is_only_machine:
        others = [
            name for name, addresses in _interfaces().items() if not any(a.is_loopback for a in addresses)
        ]
        return others[0] if len(others) == 1 else None
    return next((name for name, addresses in _interfaces().items() if source in addresses), None)


Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _source_of(address: str) -> Address | None:
    """The address from which this machine would send to `address`; None if there is no way."""
    try:
        found = socket.getaddrinfo(address, ANY_PORT, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return None
    for family, kind, protocol, _, target in found:
        try:
            with socket.socket(family, kind, protocol) as asking:
                asking.connect(target)
                return _address(asking.getsockname()[0])
        except OSError:
            continue
    return None


def _interfaces() -> dict[str, list[Address]]:
    """The interfaces that are up, and their addresses."""
    states = psutil.net_if_stats()
    return {
        name: [_address(a.address) for a in addresses if a.family in (socket.AF_INET, socket.AF_INET6)]
        for name, addresses in psutil.net_if_addrs().items()
        if name in states and states[name].isup and any(a.family == socket.AF_INET for a in addresses)
    }


def _address(text: str) -> Address:
    # Link-local addresses carry the name of their interface.
    return ipaddress.ip_address(text.partition("%")[0])
