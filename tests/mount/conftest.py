# SPDX-License-Identifier: MIT
"""What the tests of the FUSE file mount need of this machine."""

import os

import pytest
from support.require import unavailable


@pytest.fixture(scope="session", autouse=True)
def _can_mount() -> None:
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        unavailable("FUSE mounts need root and /dev/fuse: modprobe fuse, and run the tests as root")
