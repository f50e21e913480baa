# SPDX-License-Identifier: MIT
"""A suspend of the machine while clients wait, as far as the kernel's freezer (pm_test)."""

import errno
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.bus import Bus
from support.daemon import PROGRAM, Daemon
from support.doctor import findings
from support.program import Program

from memnotify.cli.doctor.checks import WARNING

REPOSITORY = Path(__file__).parents[3]
EXAMPLES = REPOSITORY / "examples"
POLICY = REPOSITORY / "dbus/org.freedesktop.LowMemoryMonitor.conf"
POWER = Path("/sys/power")
NEVER = "used 100%"
SOCKET = "/run/memnotify-suspend"
# More than one: the freezer's signal reaches the daemon before its client, or after.
ATTEMPTS = 5
POLL = """
import select, sys
poller, device = select.poll(), open("/dev/memnotify", "r+b", buffering=0)
device.write(sys.argv[1].encode())
poller.register(device, select.POLLIN)
print("watching", flush=True)
poller.poll()
"""
SELECT = POLL.replace("poller.poll()", "select.select([device], [], [])")
EPOLL = POLL.replace("select.poll()", "select.epoll()")
LIBRARY = """
import sys
from memnotify.client import Memnotify
with Memnotify("/dev/memnotify") as device:
    device.subscribe(sys.argv[1])
    print("watching", flush=True)
    device.wait()
"""
SOCKET_CLIENT = f"""
import select, socket, sys
client, poller = socket.socket(socket.AF_UNIX), select.poll()
client.connect("{SOCKET}")
client.send(sys.argv[1].encode() + b"\\n")
poller.register(client, select.POLLIN)
print("watching", flush=True)
poller.poll()
"""


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """Return a daemon at the examples' path, with a socket; suspends end with the freezer's work."""
    (POWER / "pm_test").write_text("freezer")
    (POWER / "pm_freeze_timeout").write_text("2000")
    # The time for which everything stays frozen.
    Path("/sys/module/suspend/parameters/pm_test_delay").write_text("0")
    with Daemon("--socket", SOCKET, name="memnotify") as daemon:
        yield daemon
    (POWER / "pm_test").write_text("none")


def suspends() -> bool:
    """Try to suspend; return False if a task refuses to freeze."""
    subprocess.run(["dmesg", "--clear"], check=True)
    try:
        (POWER / "state").write_text("freeze")
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
    said = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
    assert "Freezing user space processes" in said, said
    return "refusing to freeze" not in said


def python(source: str) -> tuple[str, ...]:
    """Return the command of a Python program that waits for a threshold."""
    return (sys.executable, "-c", source, NEVER)


@pytest.mark.parametrize("source", [EPOLL, LIBRARY, SOCKET_CLIENT], ids=["epoll", "library", "socket"])
def test_a_waiting_client_does_not_stop_a_suspend(daemon: Daemon, source: str) -> None:
    with Program(*python(source)) as program:
        program.hear("watching")
        program.settle()
        assert all(suspends() for _ in range(ATTEMPTS))
        assert not program.ended


def test_the_commands_do_not_stop_a_suspend(daemon: Daemon, tmp_path: Path) -> None:
    """These are all that wait for the device."""
    commands = (
        ("wait", NEVER),
        ("run", "--when", NEVER, "true"),
        ("watch", "--plain", "--interval", "3600"),
        ("lowmem-bus", "--critical", NEVER),
    )
    with ExitStack() as stack:
        bus = Bus(tmp_path / "bus", POLICY)
        stack.enter_context(bus.program)
        programs = [
            stack.enter_context(Program(*PROGRAM, *command, environment=bus.environment))
            for command in commands
        ]
        programs[-1].hear("ready: ")
        for program in programs:
            program.settle()
        assert all(suspends() for _ in range(ATTEMPTS))
        assert not any(program.ended for program in programs)


@pytest.mark.parametrize("name", ["wait", "epoll"])
def test_the_examples_do_not_stop_a_suspend(daemon: Daemon, tmp_path: Path, name: str) -> None:
    subprocess.run(["gcc", "-o", str(tmp_path / name), str(EXAMPLES / f"{name}.c")], check=True)
    with Program(str(tmp_path / name), NEVER) as program:
        program.hear("watching")
        program.settle()
        assert all(suspends() for _ in range(ATTEMPTS))
        assert not program.ended


@pytest.mark.parametrize("source", [POLL, SELECT], ids=["poll", "select"])
def test_a_client_in_poll_stops_a_suspend(daemon: Daemon, source: str) -> None:
    """The documented limit (memnotify(4), CAVEATS), of which doctor warns."""
    with Program(*python(source)) as program:
        program.hear("watching")
        assert not all(suspends() for _ in range(ATTEMPTS))
        assert not program.ended
        _, checks = findings("--timeout", "60", name="memnotify")
        assert checks["suspend"]["state"] == WARNING
        assert f"process {program.process.pid} " in checks["suspend"]["found"]
