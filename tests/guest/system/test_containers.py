# SPDX-License-Identifier: MIT
"""The ways into services and containers of docs/containers.md, with a threshold on the own cgroup."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.unit import NAME, log, systemctl

LIMIT = 200 << 20
PROGRAM = Path("/var/lib/memnotify-test.py")
# It is woken by its own memory, through the device or the socket.
TEXT = """
import mmap, os, socket, sys
from memnotify.client import Memnotify
def take():
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    return mmap.mmap(-1, 120 << 20, flags=flags)
if sys.argv[1:]:
    device = socket.socket(socket.AF_UNIX)
    device.connect(sys.argv[1])
    device.send(b"cgroup 50%\\nusd\\n")
    assert device.recv(4096).startswith(b"error ")
    held = take()
    words = device.recv(4096).split()
    print("woken", int(words[-1]) * mmap.PAGESIZE)
else:
    with Memnotify() as device:
        limit = device.subscribe(cgroup="50%").cgroup_limit
        held = take()
        (change,) = device.wait(60).changes
        assert change.name == "cgroup" and change.up
        print("woken", limit.bytes)
"""
PYTHON = ("/usr/bin/python3", str(PROGRAM))
SOCKET = "/run/memnotify/socket"
DOCUMENTED = Path(__file__).parents[3] / "docs/containers.md"
NSPAWN_ROOT = Path("/run/memnotify-test-root")


@pytest.fixture(autouse=True, scope="module")
def _served() -> Iterator[None]:
    """Serve the device and the socket as the package does."""
    PROGRAM.write_text(TEXT)
    systemctl("start", "memnotify.socket", NAME)
    yield
    systemctl("stop", "memnotify.socket", NAME)
    PROGRAM.unlink()
    assert "Traceback" not in log()


def documented(text: str) -> str:
    """Return what the page has of this, so that the page has what was tested."""
    assert text in re.sub(r" \\\\\n\s*", " ", DOCUMENTED.read_text()), text
    return text


def woken(*command: str, properties: tuple[str, ...] = ()) -> None:
    """Run a command in a service with a limit; fail unless its program was woken."""
    options = [f"--property={each}" for each in (f"MemoryMax={LIMIT}", *properties)]
    done = subprocess.run(
        ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", *options, *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout == f"woken {LIMIT}\n", done.stdout + done.stderr + log()


def settings(text: str) -> tuple[str, ...]:
    """Return the settings of a documented drop-in."""
    return tuple(documented(text).splitlines())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "DevicePolicy=closed\nDeviceAllow=/dev/memnotify rw",
        "PrivateDevices=yes\nBindPaths=/dev/memnotify\nDeviceAllow=/dev/memnotify rw",
    ],
)
def test_a_service(text: str) -> None:
    woken(*PYTHON, properties=settings(text))


def test_a_service_with_the_socket() -> None:
    """PrivateDevices= hides the device, not the socket."""
    woken(*PYTHON, SOCKET, properties=("PrivateDevices=yes",))


def test_bubblewrap() -> None:
    """With a pid namespace of its own as well: the daemon is outside of it and sees the process."""
    options = documented("--dev /dev --dev-bind /dev/memnotify /dev/memnotify").split()
    woken("bwrap", "--ro-bind", "/", "/", "--unshare-pid", "--proc", "/proc", *options, *PYTHON)


def test_bubblewrap_with_the_socket() -> None:
    options = documented(f"--bind {SOCKET} {SOCKET}").split()
    woken("bwrap", "--ro-bind", "/", "/", "--unshare-all", "--dev", "/dev", *options, *PYTHON, SOCKET)


def test_nspawn() -> None:
    """A container in a service with the limit."""
    NSPAWN_ROOT.mkdir()
    subprocess.run(["mount", "--bind", "/", str(NSPAWN_ROOT)], check=True)
    try:
        command = f"systemd-nspawn --quiet --register=no --keep-unit --pipe --directory={NSPAWN_ROOT}"
        options = documented("--bind=/dev/memnotify").split()
        properties = (*settings("DeviceAllow=/dev/memnotify rw"), "Delegate=yes")
        woken(*command.split(), *options, *PYTHON, properties=properties)
    finally:
        subprocess.run(["umount", "--lazy", str(NSPAWN_ROOT)], check=True)
        os.rmdir(NSPAWN_ROOT)
