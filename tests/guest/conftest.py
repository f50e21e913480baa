# SPDX-License-Identifier: MIT
"""Fixtures of the tests that boot a guest."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from guest import kernel, vm
from guest import root as root_directory
from support.require import unavailable

# Tests that run inside a guest are collected there only: test_in_guest.py and test_system.py boot it.
collect_ignore = [] if os.environ.get(vm.IN_GUEST) == "1" else ["inside", "system"]


@pytest.fixture(scope="session")
def guest() -> Callable[..., vm.GuestResult]:
    """Return vm.run if this host can run guests; skip the test if it cannot."""
    try:
        kernel.kernel()
    except kernel.GuestUnavailable as missing:
        unavailable(str(missing))
    return vm.run


@pytest.fixture(scope="session")
def debian(guest: Callable[..., vm.GuestResult]) -> Path:
    """Return the root directory of a Debian with systemd, for vm.run's `system`."""
    try:
        return root_directory.debian()
    except kernel.GuestUnavailable as missing:
        unavailable(str(missing))


@pytest.fixture
def root() -> None:
    """Skip the test unless it runs as root."""
    if os.geteuid() != 0:
        unavailable("only root may mount: run the tests as root")
