# SPDX-License-Identifier: MIT
"""Fixtures of the tests in a guest."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount an ext4: the guest's own files lie in tmpfs, whose page cache counts as shared memory."""
    image, disk = tmp_path / "image", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(400 * MIB)
    subprocess.run(["modprobe", "--all", "loop", "ext4"], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-E", "nodiscard", str(image)], check=True)
    disk.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(disk)], check=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)
