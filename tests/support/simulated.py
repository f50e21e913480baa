# SPDX-License-Identifier: MIT
"""The behaviour of each kind of memnotify.testing.SimulatedDevice, with half of its memory used."""

import asyncio
import select
from collections.abc import Callable
from typing import Literal

import pytest
from support.daemon import TRANSPORT

from memnotify.client import Crossed, Memnotify, ThresholdError
from memnotify.testing import SimulatedDevice

KIND: Literal["fuse", "cuse"] = "cuse" if TRANSPORT == "cuse" else "fuse"
"""What serves the tests in tests/clients."""

TOTAL = "10000000K"
"""The memory of the pages' examples, of which half is used."""
Check = Callable[[SimulatedDevice], None]


def _changes(client: Memnotify) -> list[tuple[str, bool]]:
    """Return the changes of an event that is pending already."""
    event = client.wait(0)
    assert isinstance(event, Crossed)
    return [(change.name, change.up) for change in event.changes]


def reads(device: SimulatedDevice) -> None:
    """Read the figures that were set; the others have not changed."""
    with Memnotify(device.path) as client:
        device.set(used="25%", active=7)
        assert client.read().used.percent == 25
        device.set(total=1000)
        assert tuple(client.read()[name] for name in ("total", "used", "active")) == (1000, 250, 7)


def crosses_both_ways(device: SimulatedDevice) -> None:
    """Find the event when set returns, and none without a crossing."""
    with Memnotify(device.path) as client:
        client.subscribe(used="80%", active="30%")
        device.set(used="79%")
        assert client.wait(0) is None
        device.set(used="95%")
        assert _changes(client) == [("used", True)]
        assert client.wait(0) is None
        device.set(used="30%", active="40%")
        assert _changes(client) == [("used", False), ("active", True)]


def stays_pending(device: SimulatedDevice) -> None:
    """Find one event for up and down again; the descriptor is ready until it is taken."""
    with Memnotify(device.path) as client:
        client.subscribe(used="80%")
        poller = select.poll()
        poller.register(client, select.POLLIN)
        assert not poller.poll(0)
        device.set(used="95%")
        device.set(used="50%")
        assert poller.poll(0)
        assert poller.poll(0)
        assert _changes(client) == []
        assert not poller.poll(0)


def tells_every_client(device: SimulatedDevice) -> None:
    """Notify each client of its own thresholds."""
    clients = [Memnotify(device.path) for _ in range(20)]
    for number, client in enumerate(clients):
        client.subscribe(used=f"{60 + number}%")
    device.set(used="70%")
    assert [client.wait(0) is not None for client in clients] == [number <= 10 for number in range(20)]
    for client in clients:
        client.close()


def refuses(device: SimulatedDevice) -> None:
    """Refuse a write that is not understood; the thresholds stay."""
    with Memnotify(device.path) as client:
        client.subscribe(used="80%")
        with pytest.raises(ThresholdError):
            client.subscribe("use 5%")
        device.set(used="90%")
        assert _changes(client) == [("used", True)]


def follows_total(device: SimulatedDevice) -> None:
    """Cross a threshold in percent by a change of total."""
    with Memnotify(device.path) as client:
        device.set(used=1000, total=2000, active=0)
        client.subscribe(used="80%")
        device.set(total=1100)
        assert _changes(client) == [("used", True)]


def has_a_cgroup(device: SimulatedDevice) -> None:
    """Cross thresholds on the cgroup by its use and by its limit; a percentage follows the limit."""
    with Memnotify(device.path) as client:
        device.set(total=100_000, used="50%", active=0, cgroup_limit=1000, cgroup="50%")
        client.subscribe(cgroup="80%", used="90%")
        device.set(cgroup="79%")
        assert client.wait(0) is None
        device.set(cgroup="95%")
        assert _changes(client) == [("cgroup", True)]
        figures = client.read()
        assert (figures.cgroup, figures.cgroup_limit, figures.used) == (950, 1000, 50_000)
        device.set(cgroup_limit=4000, cgroup=950)
        assert _changes(client) == [("cgroup", False)]
        device.set(used="95%")
        assert _changes(client) == [("used", True)]


def works_in_asyncio(device: SimulatedDevice) -> None:
    """Get the event by an ``async for``."""

    async def first() -> object:
        with Memnotify(device.path) as client:
            client.subscribe(used="80%")
            device.set(used="90%")
            async for event in client:
                return event
        return None

    assert isinstance(asyncio.run(first()), Crossed)


CHECKS = [
    reads,
    crosses_both_ways,
    stays_pending,
    tells_every_client,
    refuses,
    follows_total,
    has_a_cgroup,
    works_in_asyncio,
]
"""Each takes a device with half of its memory used."""
