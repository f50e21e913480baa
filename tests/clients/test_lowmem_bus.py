# SPDX-License-Identifier: MIT
"""``memnotify lowmem-bus`` on a private bus, with GLib's own GMemoryMonitor as listener."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dbus_fast import Message, MessageType
from support.bus import Bus
from support.daemon import Daemon
from support.fake_memory import FakeMemory
from support.program import Program
from support.require import unavailable
from support.waiting import DEADLINE_S, eventually

from memnotify.client import Memnotify

REPOSITORY = Path(__file__).parents[2]
NAME = "memnotify-bus"
NAME = "org.freedesktop.LowMemoryMonitor"
PYTHON = "/usr/bin/python3"
"""Debian's, which has GLib's bindings."""

_LISTENER = """
from gi.repository import Gio, GLib
monitor = Gio.MemoryMonitor.dup_default()
monitor.connect("low-memory-warning", lambda _, level: print(int(level), flush=True))
print("listening", flush=True)
GLib.MainLoop().run()
"""


class DesktopBus(Bus):
    """A bus, the service, and a listener."""

    def serve(self, path: str, *arguments: str) -> Program:
        """Return ``memnotify lowmem-bus``, just started."""
        command = (sys.executable, "-m", "memnotify", "lowmem-bus", "--path", path, *arguments)
        return Program(*command, environment=self.environment)

    def listen(self) -> Program:
        """Return a program that prints each warning."""
        # Some versions of GLib have other sources of warnings.
        listener = Program(
            PYTHON, "-c", _LISTENER, environment={**self.environment, "GIO_USE_MEMORY_MONITOR": "dbus"}
        )
        assert listener.line() == "listening"
        return listener


@pytest.fixture(scope="module", autouse=True)
def _has_the_programs() -> None:
    script = "from gi.repository import Gio; Gio.MemoryMonitor"
    if subprocess.run([PYTHON, "-c", script], check=False, capture_output=True).returncode:
        unavailable("GLib's bindings are not installed: apt install python3-gi gir1.2-glib-2.0")


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[DesktopBus]:
    """Return a bus with the project's policy."""
    bus = DesktopBus(tmp_path / "bus", REPOSITORY / f"dbus/{NAME}.conf")
    with bus.program:
        yield bus


@pytest.fixture
def path(serve: Callable[[str], Daemon]) -> Iterator[str]:
    """Return the path of a daemon whose memory the test moves."""
    with serve(NAME) as daemon:
        yield daemon.path


def _tune_in(path: str, memory: FakeMemory, service: Program, listener: Program) -> None:
    """Cause warnings until the listener gets one: GLib does not report that it has subscribed."""

    def heard() -> bool:
        memory.use(80)
        try:
            eventually(lambda: len(listener.lines) > 1, "the listener hears", deadline_s=0.3)
        except AssertionError:
            memory.use(50)
        return len(listener.lines) > 1

    eventually(heard, "the listener hears a warning")
    memory.use(100)
    listener.hear("255")  # and all warnings before it
    _fall(path, memory, service)


def _fall(path: str, memory: FakeMemory, service: Program) -> None:
    """Let use fall below all thresholds, and wait until the service has noticed."""
    with Memnotify(path) as witness:
        witness.subscribe(used="60%")
        memory.use(50)
        # The same call wakes all clients with the same threshold.
        assert witness.wait(DEADLINE_S)
        service.settle()


@pytest.mark.representative
def test_glib_hears_each_level_once_it_is_reached(bus: DesktopBus, path: str, memory: FakeMemory) -> None:
    with bus.serve(path, "--interval", "0") as service, bus.listen() as listener:
        assert "ready" in service.line()
        _tune_in(path, memory, service, listener)
        said = len(service.lines)
        for used, level in ((80, "50"), (90, "100"), (100, "255")):
            memory.use(used)
            assert listener.line() == level
        _fall(path, memory, service)
        memory.use(90)  # two levels at once
        assert listener.line() == "100"
        assert service.end(signal.SIGTERM) == 0
        names = [line.rpartition(", ")[2] for line in service.lines[said:]]
        assert names == ["low", "medium", "critical", "medium"]


def test_levels_follow_total(bus: DesktopBus, path: str, memory: FakeMemory) -> None:
    """When swap goes, a level in percent is reached though use stays as it is."""
    memory.use(90)
    memory.add_swap()
    with Memnotify(path) as witness, bus.serve(path) as service:
        eventually(lambda: witness.read().used.percent == 30, "the swap is counted")
        assert "ready" in service.line()
        service.settle()
        memory.remove_swap()
        assert service.line().endswith(", medium")


def test_other_thresholds_and_the_interval(bus: DesktopBus, path: str, memory: FakeMemory) -> None:
    """In the interval after a warning only a more severe one is sent."""
    levels = ("--low", "used 60%", "--medium", "used 70% active 99%", "--critical", "used 90%")
    with (
        Memnotify(path) as witness,
        bus.serve(path, "--interval", "2000000", *levels) as service,
    ):
        witness.subscribe(used="60%")
        assert "ready" in service.line()
        memory.use(60)
        assert service.line().endswith("warned: 50, low")
        for used in (50, 60, 50):
            assert witness.wait(DEADLINE_S)
            memory.use(used)
        memory.use(90)
        assert service.line().endswith("warned: 255, critical")
        assert service.end(signal.SIGINT) == 0
        assert len(service.lines) == 3


def test_what_is_exceeded_at_the_start_causes_one_warning(
    bus: DesktopBus, path: str, memory: FakeMemory
) -> None:
    """A restart under pressure loses no warning; what is reached later is warned of as ever."""
    memory.use(90)
    with Memnotify(path) as witness:
        eventually(lambda: witness.read().used.percent == 90, "90 % is sampled")
    with bus.serve(path, "--interval", "0") as service:
        assert "ready" in service.line()
        assert service.line().endswith("warned: 100, medium")
        memory.use(100)
        assert service.line().endswith("warned: 255, critical")
        assert service.end(signal.SIGTERM) == 0


def test_it_waits_for_the_name(bus: DesktopBus, path: str, memory: FakeMemory) -> None:
    with bus.serve(path, "--interval", "0") as first, bus.serve(path, "--interval", "0") as second:
        # Either may be the first.
        said = {program.line(): program for program in (first, second)}
        waiting = said.pop(f"memnotify lowmem-bus: {NAME} is taken: waiting for it")
        ((ready, serving),) = said.items()
        assert ready == f"memnotify lowmem-bus: ready: {NAME} on the system bus"
        memory.use(80)
        serving.hear("warned: 50")
        assert serving.end(signal.SIGTERM) == 0
        # The first message: it has sent no warning.
        assert waiting.line() == ready
        memory.use(90)
        waiting.hear("warned: 100")
        assert waiting.end(signal.SIGTERM) == 0


@pytest.mark.representative
def test_a_new_daemon_is_found(bus: DesktopBus, serve: Callable[[str], Daemon], memory: FakeMemory) -> None:
    """Levels that are reached while no daemon serves cause a warning once one serves."""
    old = serve(NAME)
    with bus.serve(old.path, "--interval", "0") as service, bus.listen() as listener:
        service.hear("ready")
        _tune_in(old.path, memory, service, listener)
        old.end(signal.SIGKILL)
        service.hear("no longer served")
        memory.use(90)
        with serve(NAME):
            listener.hear("100")
            # The device of each level is subscribed again at a time of its own.
            said = {"the device is served again", "100, medium"}
            eventually(lambda: said <= {line.rpartition(": ")[2] for line in service.lines}, str(said))
            assert service.end(signal.SIGTERM) == 0


def test_it_ends_with_the_bus(bus: DesktopBus, path: str) -> None:
    with bus.serve(path) as service:
        service.hear("ready")
        bus.program.end(signal.SIGKILL)
        assert service.end(0) == 1
        assert service.lines[1:] == ["memnotify lowmem-bus: the system bus has ended"]


def test_no_bus(path: str, tmp_path: Path) -> None:
    environment = {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={tmp_path}/none"}
    with Program(
        sys.executable, "-m", "memnotify", "lowmem-bus", "--path", path, environment=environment
    ) as service:
        assert service.end(0) == 1
        (line,) = service.lines
        assert line.startswith("memnotify lowmem-bus: no system bus: ")
        assert line.endswith("; install and start dbus")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)])
def test_a_bus_that_does_not_answer(path: str, tmp_path: Path, number: int, code: int) -> None:
    """A signal ends the command."""
    environment = {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={tmp_path}/silent"}
    command = (sys.executable, "-m", "memnotify", "lowmem-bus", "--path", path)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(f"{tmp_path}/silent")
        silent.listen()
        silent.settimeout(DEADLINE_S)
        with Program(*command, environment=environment) as service:
            with silent.accept()[0] as connected:
                connected.recv(1)  # it has begun to log in
                assert service.end(number) == code
            assert service.lines == []


def test_a_bus_without_the_policy(path: str, tmp_path: Path) -> None:
    bus = DesktopBus(tmp_path / "strict")
    with bus.program, bus.serve(path) as service:
        assert service.end(0) == 1
        assert service.lines[-1].endswith(f"; copy dbus/{NAME}.conf to /etc/dbus-1/system.d")


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ("max_completed_connections", "The maximum number of active connections has been reached"),
        ("max_message_size", "it was closed"),
    ],
)
def test_a_bus_that_refuses(path: str, tmp_path: Path, limit: str, said: str) -> None:
    """The command ends with 1 and the bus's reason."""
    policy = tmp_path / "limit.conf"
    policy.write_text(f'<busconfig><limit name="{limit}">0</limit></busconfig>')
    bus = DesktopBus(tmp_path / "bus", policy)
    with bus.program, bus.serve(path) as service:
        assert service.end(0) == 1
        assert service.lines == [f"memnotify lowmem-bus: the system bus refuses the connection: {said}"]


def test_a_bus_that_ends_before_there_is_a_name(path: str, tmp_path: Path) -> None:
    """The command ends as if the bus had ended later."""
    address = f"{tmp_path}/mortal"
    command = (sys.executable, "-m", "memnotify", "lowmem-bus", "--path", path)
    with socket.socket(socket.AF_UNIX) as mortal:
        mortal.bind(address)
        mortal.listen()
        mortal.settimeout(DEADLINE_S)
        with Program(*command, environment={"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={address}"}) as service:
            with mortal.accept()[0] as connected:
                _say_hello(connected)
                while b"RequestName" not in connected.recv(4096):
                    pass
            assert service.end(0) == 1
            assert service.lines == ["memnotify lowmem-bus: the system bus has ended"]


def _say_hello(connected: socket.socket) -> None:
    """Accept a client as a bus does, up to the reply to Hello."""
    connected.settimeout(DEADLINE_S)
    heard = b""
    for asked, answer in ((b"AUTH EXTERNAL", b"OK 0123456789abcdef\r\n"), (b"BEGIN\r\n", b"")):
        while asked not in heard:
            heard += connected.recv(4096)
            if b"NEGOTIATE_UNIX_FD" in heard:
                connected.send(b"ERROR\r\n")
        connected.sendall(answer)
    while b"Hello" not in heard:
        heard += connected.recv(4096)
    hello = Message(
        message_type=MessageType.METHOD_RETURN,
        reply_serial=1,
        sender="org.freedesktop.DBus",
        destination=":1.1",
        signature="s",
        body=[":1.1"],
        serial=1,
    )
    connected.sendall(hello._marshall(False))  # noqa: FBT003 - compiled: it has no names


def test_every_user_may_introspect_the_object(bus: DesktopBus, path: str) -> None:
    with bus.serve(path) as service:
        service.hear("ready")
        call = ("dbus-send", "--system", "--print-reply", f"--dest={NAME}", f"/{NAME.replace('.', '/')}")
        shown = subprocess.run(
            [*call, "org.freedesktop.DBus.Introspectable.Introspect"],
            env=os.environ | bus.environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert '<signal name="LowMemoryWarning">' in shown
        assert '<arg direction="out" type="y" />' in shown
