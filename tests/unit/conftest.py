# SPDX-License-Identifier: MIT
"""A daemon in the test's own process, for the library and for the commands that use it."""

from collections.abc import Iterator

import pytest
from support.fake_device import FakeDaemon


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    """Return a daemon that serves every path in this process, and whose memory the test moves."""
    daemon = FakeDaemon()
    monkeypatch.setattr("memnotify.client._device.DeviceFile", daemon.open)
    yield daemon
    daemon.close()
