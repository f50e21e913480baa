# SPDX-License-Identifier: MIT
"""A served device and a process that takes memory, for tests of what clients see."""

import os
from collections.abc import Callable, Iterator

import pytest
from support.daemon import QUICK, TRANSPORT, Daemon
from support.memory import Hog
from support.require import unavailable


@pytest.fixture(scope="session", autouse=True)
def _can_serve() -> None:
    if TRANSPORT == "fuse" and not os.access("/dev/fuse", os.R_OK | os.W_OK):
        unavailable("/dev/fuse cannot be opened: modprobe fuse, and run the tests as root")
    if os.geteuid() != 0:
        unavailable("the device is served in /dev: run the tests as root")


@pytest.fixture(scope="module")
def daemon(_can_serve: None) -> Iterator[Daemon]:
    """Return a daemon that samples often, shared by a module's tests."""
    with Daemon(*QUICK) as daemon:
        yield daemon


@pytest.fixture
def path(daemon: Daemon) -> str:
    """Return where the device is."""
    return daemon.path


@pytest.fixture
def opened(path: str) -> Iterator[Callable[..., int]]:
    """Return a function that opens the device; what it has opened is closed at the end."""
    fds = []

    def open_device(flags: int = os.O_RDWR) -> int:
        fds.append(os.open(path, flags | os.O_CLOEXEC))
        return fds[-1]

    yield open_device
    for fd in fds:
        os.close(fd)


@pytest.fixture(scope="session")
def hog() -> Iterator[Hog]:
    """Return the process that takes memory."""
    with Hog() as hog:
        yield hog


@pytest.fixture(autouse=True)
def _nothing_held(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "hog" in request.fixturenames:
        request.getfixturevalue("hog").hold(0)
