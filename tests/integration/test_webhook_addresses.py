"""No request of a webhook's goes to an address that is not of the internet, by whatever way it is led there."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from receiver import receiving
from runstream.webhooks.addresses import is_public
from runstream.webhooks.sender import Answer, Sender

PATIENCE = 5
PUBLIC = ("203.0.114.7", "8.8.8.8", "2606:4700::1111", "2a00:1450:4001::1", "192.0.1.1", "172.32.0.1", "223.255.255.1")
NOT_PUBLIC = (
    *("127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
    *("169.254.169.254", "169.254.0.1", "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
    *("192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1"),
    *("240.0.0.1", "255.255.255.255"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "ff0e::1"),
    *("::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "100::1", "5f00::1"),
    *("2001::1", "2001:db8::1", "2002:7f00:1::1", "3fff::1"),
)


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_private_addresses_and_those_that_stand_for_one_are_not(address: str) -> None:
    assert not is_public(address)


async def sent(url: str, **given: Any) -> Answer:
    sender = Sender(**{"timeout": PATIENCE, "private": False, "lookups": 2, **given})
    try:
        return await sender.post(url, {}, b"{}")
    finally:
        await sender.aclose()


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "017700000001", "0.0.0.0", "0"),
        *("[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::]", "LOCALHOST", "127.0.0.1.", "①②⑦.0.0.1"),
    ],
)
async def test_no_way_of_writing_it_leads_to_this_machine(host: str) -> None:
    async with receiving() as receiver:
        answer = await sent(f"http://{host}:{receiver.port}/")
    assert receiver.received == []
    assert (answer.status, answer.error in {"address_not_allowed", "name_not_resolved"}) == (None, True), answer


async def test_a_name_is_looked_at_as_it_is_connected_to() -> None:
    """A name server that gives another answer each time, and one that gives several at once."""
    asked = []

    def lookup(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        asked.append(host)
        addresses = {1: ["127.0.0.1"], 2: ["127.0.0.1", "10.0.0.1", "127.0.0.2"]}[len(asked)]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    async with receiving() as receiver:
        for times in (1, 2):
            answer = await sent(f"http://receiver.example:{receiver.port}/", lookup=lookup)
            assert (answer.error, len(asked)) == ("address_not_allowed", times)
        asked.clear()
        answer = await sent(f"http://receiver.example:{receiver.port}/", lookup=lookup, private=True)
        assert (answer.status, len(asked), len(receiver.received)) == (204, 1, 1)


async def test_no_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        answer = await sent(f"http://127.0.0.1:{proxy.port}/")
        assert answer.error == "address_not_allowed"
    assert proxy.received == []
