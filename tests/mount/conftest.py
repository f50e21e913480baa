# SPDX-License-Identifier: MIT
"""What the tests of the FUSE file mount need of this machine."""

import os
import resource
from collections.abc import Iterator

import pytest
from support.require import unavailable


@pytest.fixture(scope="session", autouse=True)
def _can_mount() -> None:
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        unavailable("FUSE mounts need root and /dev/fuse: modprobe fuse, and run the tests as root")


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process have 15,000 files open, and what else it needs."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 15_200
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(needed, before[0]), max(needed, before[1])))
    except (OSError, ValueError):
        unavailable(f"RLIMIT_NOFILE cannot be raised to {needed}: run the tests as root")
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
