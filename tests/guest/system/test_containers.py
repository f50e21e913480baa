# SPDX-License-Identifier: MIT
"""The ways into services and containers of docs/containers.md, with a threshold on the own cgroup."""

import mmap
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.unit import NAME, log, systemctl

LIMIT = 200 << 20
PROGRAM = Path("/var/lib/memnotify-test.py")
# It is woken by its own memory, through the device or the socket.
TEXT = """
import mmap, os, socket, subprocess, sys, time
from memnotify.client import Memnotify
def take():
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    return mmap.mmap(-1, 120 << 20, flags=flags)
def start(threshold):
    client = subprocess.Popen(["/usr/local/bin/mn_test", threshold], stdout=subprocess.PIPE, text=True)
    while open(f"/proc/{client.pid}/syscall").read().split()[0] not in ("7", "271", "73"):  # poll(2)
        time.sleep(0.01)
    return client
def told(client):
    words = client.communicate()[0].split("--> ")[1].replace("'", " ").split()
    assert client.returncode == 0
    return words
way = sys.argv[1]
if way == "socket":
    device = socket.socket(socket.AF_UNIX)
    device.connect(sys.argv[2])
    device.send(b"cgroup 50%\\nusd\\n")
    assert device.recv(4096).startswith(b"error ")
    held = take()
    words = device.recv(4096).split()
    print("woken", int(words[-1]) * mmap.PAGESIZE)
elif way == "library":
    with Memnotify() as device:
        limit = device.subscribe(cgroup="50%").cgroup_limit
        held = take()
        (change,) = device.wait(60).changes
        assert change.name == "cgroup" and change.up
        print("woken", limit.bytes)
elif way == "C":
    client = start("cgroup 50%")
    held = take()
    print("woken", int(told(client)[-1]) * mmap.PAGESIZE)
else:
    # The host takes memory; this group is idle.
    with Memnotify() as device, Memnotify() as own:
        limit = own.subscribe(cgroup="50%").cgroup_limit
        used = device.read().used + (80 << 20) // mmap.PAGESIZE
        device.subscribe(f"used {used}")
        client, idle = start(f"used {used}"), start("cgroup 50%")
        print("waiting", flush=True)
        (change,) = device.wait(60).changes
        assert change.name == "used" and change.up
        assert "cgroup" not in told(client)
        assert own.wait(0) is None and idle.poll() is None
        idle.kill()
        print("woken", limit.bytes)
"""
PYTHON = ("/usr/bin/python3", str(PROGRAM))
WAYS = ("library", "C", "host")
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
    """Run a command in a service with a limit; fail unless its program was woken.

    If it waits for that, take memory here, outside of its group.
    """
    options = [f"--property={each}" for each in (f"MemoryMax={LIMIT}", *properties)]
    run = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", *options, *command]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(run, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        if lines == ["waiting\n"]:
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
            with mmap.mmap(-1, LIMIT, flags=flags):
                lines = process.stdout.readlines()
        lines += process.stdout.readlines()
        errors.seek(0)
        assert lines == [f"woken {LIMIT}\n"], "".join(lines) + errors.read() + log()


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
    woken(*PYTHON, "library", properties=settings(text))


def test_a_service_with_the_socket() -> None:
    """PrivateDevices= hides the device, not the socket."""
    woken(*PYTHON, "socket", SOCKET, properties=("PrivateDevices=yes",))


@pytest.mark.parametrize("way", WAYS)
def test_bubblewrap(way: str) -> None:
    """With a pid namespace of its own as well: the daemon is outside of it and sees the process."""
    options = documented("--dev /dev --dev-bind /dev/memnotify /dev/memnotify").split()
    woken("bwrap", "--ro-bind", "/", "/", "--unshare-pid", "--proc", "/proc", *options, *PYTHON, way)


def test_bubblewrap_with_the_socket() -> None:
    options = documented(f"--bind {SOCKET} {SOCKET}").split()
    command = "bwrap --ro-bind / / --unshare-all --dev /dev"
    woken(*command.split(), *options, *PYTHON, "socket", SOCKET)


@pytest.mark.parametrize("way", WAYS)
def test_nspawn(way: str) -> None:
    """A container in a service with the limit."""
    NSPAWN_ROOT.mkdir()
    subprocess.run(["mount", "--bind", "/", str(NSPAWN_ROOT)], check=True)
    try:
        command = f"systemd-nspawn --quiet --register=no --keep-unit --pipe --directory={NSPAWN_ROOT}"
        options = documented("--bind=/dev/memnotify").split()
        properties = (*settings("DeviceAllow=/dev/memnotify rw"), "Delegate=yes")
        woken(*command.split(), *options, *PYTHON, way, properties=properties)
    finally:
        subprocess.run(["umount", "--lazy", str(NSPAWN_ROOT)], check=True)
        os.rmdir(NSPAWN_ROOT)
