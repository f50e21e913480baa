# SPDX-License-Identifier: MIT
"""A client of the daemon in the test's own process."""

from collections.abc import Iterator

import pytest
from support.fake_device import FakeDaemon

from memnotify.client import Memnotify


@pytest.fixture
def device(daemon: FakeDaemon) -> Iterator[Memnotify]:
    """Return a client, not yet subscribed."""
    with Memnotify("a path") as device:
        yield device


@pytest.fixture
def subscribed(device: Memnotify) -> Memnotify:
    """Return the client, subscribed to ``used 200`` at 100."""
    device.subscribe("used 200")
    return device
