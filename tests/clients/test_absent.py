# SPDX-License-Identifier: MIT
"""The messages of programs if the device is not served."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _absent() -> None:
    if os.path.lexists("/dev/memnotify"):
        pytest.fail("/dev/memnotify is there although no test serves it: stop that daemon")


def test_mn_test(program: list[str]) -> None:
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 255
    assert "cannot open device /dev/memnotify" in done.stdout


@pytest.mark.parametrize("command", [["read"], ["wait", "used 5"]])
def test_the_command(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "memnotify", *command], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "/dev/memnotify: No such file or directory; start 'memnotify serve'" in done.stderr


def test_wait_does_not_write_to_another_file(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("precious data")
    command = [sys.executable, "-m", "memnotify", "wait", "used 5", "--path", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "this is no line of a memnotify device" in done.stderr
    assert path.read_text() == "precious data"
