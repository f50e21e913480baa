# SPDX-License-Identifier: MIT
"""The guest has what the other tests need."""

import os
import stat
import subprocess
from pathlib import Path


def test_cuse_is_there() -> None:
    """The module loads, and its node has the number that the kernel's miscdevice.h gives it."""
    subprocess.run(["modprobe", "cuse"], check=True)
    node = Path("/dev/cuse").stat()
    assert stat.S_ISCHR(node.st_mode)
    assert (os.major(node.st_rdev), os.minor(node.st_rdev)) == (10, 203)


def test_pressure_is_measured() -> None:
    """The kernel has PSI, and it is on."""
    assert Path("/proc/pressure/memory").read_text().startswith("some avg10=")


def test_two_processors_run() -> None:
    """The daemon and its clients run on different processors."""
    assert os.sched_getaffinity(0) == {0, 1}
