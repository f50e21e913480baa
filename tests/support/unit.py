# SPDX-License-Identifier: MIT
"""memnotify.service under the systemd that is process 1, for tests in a guest with a root of its own."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = "memnotify.service"
DEVICE = "dev-memnotify.device"
NODE = "/dev/memnotify"
CLIENT = "/usr/local/bin/mn_test"
"""The posted program, or the project's own that says the same."""


def systemctl(*arguments: str) -> str:
    """Run systemctl, which must succeed, and return what it prints."""
    done = _run("systemctl", *arguments)
    assert done.returncode == 0, f"systemctl {arguments}: {done.stdout}{done.stderr}{log()}"
    return done.stdout


def show(name: str, unit: str = NAME) -> str:
    """Return a property of a unit."""
    return _run("systemctl", "show", f"--property={name}", "--value", unit).stdout.strip()


def state(unit: str = NAME) -> str:
    """Return whether a unit is active, activating, failed and so on."""
    return show("ActiveState", unit)


def main_pid() -> int:
    """Return the daemon's process, 0 if there is none."""
    return int(show("MainPID"))


def log(*arguments: str) -> str:
    """Return the log of the daemon, and of systemd about it, since its last start.

    ``arguments`` are further ones for journalctl.
    """
    start = show("InvocationID")
    _run("journalctl", "--sync")
    of_both = (f"_SYSTEMD_INVOCATION_ID={start}", "+", f"INVOCATION_ID={start}")
    return _run("journalctl", "--quiet", "--output=cat", *arguments, *of_both).stdout


@contextmanager
def drop_in(text: str, unit: str = NAME) -> Iterator[None]:
    """Give a unit other settings during the block; systemd has read them."""
    path = Path(f"/run/systemd/system/{unit}.d/test.conf")
    try:
        with file(path, text):
            systemctl("daemon-reload")
            yield
    finally:
        systemctl("daemon-reload")


@contextmanager
def file(path: Path, text: str) -> Iterator[None]:
    """Create a file for the time of the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    try:
        yield
    finally:
        path.unlink()


def client(*, groups: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
    """Run the C program as an ordinary user, in further groups if given."""
    return subprocess.run(
        [CLIENT],
        user="nobody",
        group="nogroup",
        extra_groups=groups,
        capture_output=True,
        text=True,
        check=False,
    )


def serves() -> bool:
    """Return True if an ordinary user can open the device."""
    done = client()
    assert done.returncode in {0, 255}, done
    return done.returncode == 0


def mode() -> int:
    """Return the permissions of the node, 0 where there is none."""
    try:
        return os.stat(NODE).st_mode & 0o7777
    except FileNotFoundError:
        return 0


def _run(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False)
