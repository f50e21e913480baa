# SPDX-License-Identifier: MIT
"""``memnotify status`` and the status socket of a real daemon."""

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.daemon import NOBODY, PROGRAM, QUICK, Daemon
from support.fake_memory import FakeMemory
from support.program import Program
from support.waiting import DEADLINE_S, eventually

from memnotify.cli.varlink import CallError, call
from memnotify.client import Memnotify
from memnotify.kernel.page_counters import open_page_counters
from memnotify.kernel.psi import open_trigger

METHOD = "org.memnotify.Daemon.GetStatus"
DESCRIPTION = (Path(__file__).parents[2] / "docs/org.memnotify.Daemon.varlink").read_text()


@pytest.fixture
def daemon(_can_serve: None, memory: FakeMemory, place: str) -> Iterator[Daemon]:
    """Return a daemon with a status socket, half of whose memory is used."""
    arguments = (*QUICK, *memory.ARGUMENTS, "--status-socket", place, "--socket", f"{place}.device")
    with Daemon(*arguments, name="memnotify-status", program=memory.program) as daemon:
        yield daemon


def _connected(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(DEADLINE_S)
    connection.connect(path)
    return connection


def _ask(connection: socket.socket, request: object) -> Any:
    connection.sendall(json.dumps(request).encode() + b"\0")
    reply = b""
    while not reply.endswith(b"\0"):
        more = connection.recv(65536)
        assert more
        reply += more
    return json.loads(reply[:-1])


@pytest.mark.representative
def test_the_status(daemon: Daemon, memory: FakeMemory, place: str) -> None:
    asleep = call(place, METHOD)
    assert asleep["sampler"]["watching"] is False
    assert (asleep["observers"], asleep["observer_count"]) == ([], 0)
    with Memnotify(daemon.path) as client:
        client.subscribe(used="80%", active="5%")
        with pytest.raises(OSError, match="not understood"):
            _write(daemon.path, b"use 5")
        # The kernel sends the release of a FUSE file after close() has returned.
        eventually(lambda: call(place, METHOD)["observer_count"] == 1, "the refused one is closed")
        status = call(place, METHOD)
        memory.use(90)
        eventually(lambda: call(place, METHOD)["observers"][0]["pending"], "the event is pending")
        after = call(place, METHOD)
    total = status["figures"][0]["pages"]
    assert [each["name"] for each in status["figures"]] == ["total", "used", "active"]
    assert (status["path"], status["pid"]) == (daemon.path, daemon.pid)
    assert (status["observer_count"], status["refused_writes"]) == (1, 1)
    assert status["sampler"]["watching"] is True
    assert status["sampler"]["interval"] <= 0.1
    (observer,) = status["observers"]
    assert (observer["pid"], observer["uid"]) == (os.getpid(), 0)
    assert observer["command"] == Path("/proc/self/comm").read_text().rstrip()
    assert observer["cgroup"] == Path("/proc/self/cgroup").read_text().rstrip().rpartition("::")[2]
    level = round(total * 0.8)
    used = {"name": "used", "pages": level, "above": False, "next_pages": level}
    level = round(total * 0.05)
    active = {"name": "active", "pages": level, "above": True, "next_pages": level}
    assert observer["thresholds"] == [used, active]
    assert (observer["events"], observer["last_event_age"]) == (0, None)
    assert (after["observers"][0]["events"], after["events"]) == (1, 1)
    assert 0 <= after["observers"][0]["last_event_age"] < DEADLINE_S
    assert _counts(status) == {("used", False): (1, 0), ("active", True): (1, 0)}
    assert _counts(after) == {("used", True): (1, 1), ("active", True): (1, 0)}
    used = after["observers"][0]["thresholds"][0]
    assert used["above"]
    assert used["next_pages"] <= used["pages"]
    for name in ("samples", "wakeups"):
        assert after["sampler"][name] >= status["sampler"][name] > 0


def _counts(status: dict[str, Any]) -> dict[tuple[str, bool], tuple[int, int]]:
    """Return the count and crossings of each figure and side that has a threshold."""
    return {
        (each["name"], each["above"]): (each["count"], each["crossings"])
        for each in status["thresholds"]
        if each["count"]
    }


def test_what_a_client_was_told(daemon: Daemon, memory: FakeMemory, place: str) -> None:
    """Each event counts once: pending, acknowledged, and after the client has written again."""

    def events() -> tuple[bool, int]:
        (observer,) = call(place, METHOD)["observers"]
        return observer["pending"], observer["events"]

    with Memnotify(daemon.path) as client:
        client.subscribe(used="80%")
        memory.use(90)
        assert client.wait(timeout=DEADLINE_S)
        assert events() == (False, 1)
        memory.use(50)
        eventually(lambda: events() == (True, 2), "the second event is pending")
        client.subscribe(used="70%")
        assert events() == (False, 2)
        latencies = call(place, METHOD)["sampler"]["wake_latencies"]
    assert sum(each["count"] for each in latencies["classes"]) >= 1
    assert 0 < latencies["sum"] < DEADLINE_S


def test_the_status_without_observers(daemon: Daemon, place: str) -> None:
    with Memnotify(daemon.path) as client, _connected(place) as connection:
        client.subscribe(used="80%")
        reply = _ask(connection, {"method": METHOD, "parameters": {"observers": False}})
        assert (reply["parameters"]["observers"], reply["parameters"]["observer_count"]) == ([], 1)
        refused = _ask(connection, {"method": METHOD, "parameters": {"observers": 5}})
        assert refused["error"] == "org.varlink.service.InvalidParameter"


def _write(path: str, text: bytes) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            os.write(fd, text)
        except OSError as error:
            raise OSError(error.errno, "not understood") from error
    finally:
        os.close(fd)


def test_settings_and_their_origins(daemon: Daemon, place: str) -> None:
    settings = {each["name"]: each for each in call(place, METHOD)["settings"]}
    assert settings["update_period"]["value"] == "20"
    assert settings["update_period"]["origin"] == "command line"
    assert settings["fill_rate"] == {
        "name": "fill_rate",
        "value": "6144",
        "unit": "MiB/s",
        "origin": "default",
    }


def test_what_causes_samples(daemon: Daemon, memory: FakeMemory, place: str, tmp_path: Path) -> None:
    """The status says whether page counters and PSI are used, as this kernel lets a process of root."""
    counters, trigger = open_page_counters(pcp_is_free=False), open_trigger()
    for counter in counters or ():
        counter.close()
    if trigger is not None:
        os.close(trigger.fd)
    sampler = call(place, METHOD)["sampler"]
    assert (sampler["page_counters"] == "in use") is (counters is not None)
    assert (sampler["pressure_trigger"] == "in use") is (trigger is not None)
    assert sampler["pressure_window"] == (trigger and trigger.window_s)
    other = str(tmp_path / "status")
    arguments = (*memory.ARGUMENTS, "--no-count-pages", "--status-socket", other)
    with Daemon(*arguments, name="memnotify-other", program=memory.program):
        assert call(other, METHOD)["sampler"]["page_counters"] == "off: count_pages is false"


def test_a_client_of_the_socket_is_an_observer(daemon: Daemon, place: str) -> None:
    with _connected(f"{place}.device") as client:
        client.sendall(b"used 80%\n")
        eventually(lambda: call(place, METHOD)["sampler"]["watching"], "it is subscribed")
        (observer,) = call(place, METHOD)["observers"]
    assert (observer["pid"], observer["uid"]) == (os.getpid(), 0)


def test_a_user_sees_its_own_observers(daemon: Daemon, place: str) -> None:
    code = f"""
import json, os, socket
os.setgroups([]); os.setgid({NOBODY.pw_gid}); os.setuid({NOBODY.pw_uid})
device = os.open({daemon.path!r}, os.O_RDWR)
connection = socket.socket(socket.AF_UNIX)
connection.connect({place!r})
connection.sendall(b'{{"method": "{METHOD}"}}\\0')
reply = b""
while not reply.endswith(b"\\0"):
    reply += connection.recv(65536)
print(reply[:-1].decode())
"""
    os.chmod(daemon.path, 0o666)
    with contextlib.ExitStack() as opened:
        # More than one part of the reply.
        for _ in range(250):
            opened.callback(os.close, os.open(daemon.path, os.O_RDWR))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    status = json.loads(done.stdout)
    assert status["parameters"]["observer_count"] == 251
    (own,) = status["parameters"]["observers"]
    assert own["uid"] == NOBODY.pw_uid


def test_the_service_interface(daemon: Daemon, place: str) -> None:
    with _connected(place) as connection:
        info = _ask(connection, {"method": "org.varlink.service.GetInfo"})
        assert info["parameters"]["interfaces"] == ["org.varlink.service", "org.memnotify.Daemon"]
        name = "org.varlink.service.GetInterfaceDescription"
        found = _ask(connection, {"method": name, "parameters": {"interface": "org.memnotify.Daemon"}})
        assert found["parameters"]["description"] == DESCRIPTION
        missing = _ask(connection, {"method": name, "parameters": {"interface": "x"}})
        assert missing["error"] == "org.varlink.service.InterfaceNotFound"
        assert _ask(connection, {"method": "x"}) == {
            "error": "org.varlink.service.MethodNotFound",
            "parameters": {"method": "x"},
        }


def test_the_interface_has_what_the_reply_has(daemon: Daemon, place: str) -> None:
    """Each name in the reply is a field of the interface, and each field is in the reply."""
    with Memnotify(daemon.path) as client:
        client.subscribe(used="80%")
        status = call(place, METHOD)
    types = dict(
        re.findall(r"(?ms)^(?:type|method) (\w+) ?\((?:observers: \?bool\) -> \()?(.*?)\)$", DESCRIPTION)
    )
    fields = {name: re.findall(r"(\w+):", text) for name, text in types.items()}
    assert sorted(fields["GetStatus"]) == sorted(status)
    assert sorted(fields["Sampler"]) == sorted(status["sampler"])
    assert sorted(fields["Latencies"]) == sorted(status["sampler"]["wake_latencies"])
    assert sorted(fields["Class"]) == sorted(status["sampler"]["wake_latencies"]["classes"][0])
    assert sorted(fields["ThresholdCount"]) == sorted(status["thresholds"][0])
    assert sorted(fields["Setting"]) == sorted(status["settings"][0])
    assert sorted(fields["Figure"]) == sorted(status["figures"][0])
    assert sorted(fields["Observer"]) == sorted(status["observers"][0])
    assert sorted(fields["Threshold"]) == sorted(status["observers"][0]["thresholds"][0])


def test_a_reply_of_several_parts(daemon: Daemon, place: str) -> None:
    """The status has every observer once, and the same connection asks again."""
    with contextlib.ExitStack() as opened, _connected(place) as connection:
        for number in range(450):
            fd = os.open(daemon.path, os.O_RDWR)
            opened.callback(os.close, fd)
            os.write(fd, b"used %d" % (1000 + number))
        for _ in range(2):
            observers = _ask(connection, {"method": METHOD})["parameters"]["observers"]
            levels = [each["thresholds"][0]["pages"] for each in observers]
            assert sorted(levels) == [*range(1000, 1450)]


@pytest.mark.parametrize(
    "request_",
    [b"x\0", b"[]\0", b'{"method": 5', b"{}\0", b"x" * 10_000, b"[" * 4000 + b"\0", b"\xef\xbb\xbf{}\0"],
)
def test_nonsense_ends_the_connection_only(daemon: Daemon, place: str, request_: bytes) -> None:
    with _connected(place) as connection:
        connection.sendall(request_)
        connection.shutdown(socket.SHUT_WR)
        # A reset: it had not read all.
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(100) == b""
    assert call(place, METHOD)["pid"] == daemon.pid


def test_clients_that_do_not_read_delay_no_other(daemon: Daemon, place: str) -> None:
    """Seven of a user's eight connections hold requests that are not read; one of two more is closed."""
    ask = json.dumps({"method": METHOD}).encode() + b"\0"
    silent = [_connected(place) for _ in range(7)]
    for connection in silent:
        connection.sendall(50 * ask)
    assert call(place, METHOD)["pid"] == daemon.pid
    silent += [_connected(place) for _ in range(2)]
    # The eighth, if the daemon has not yet seen that the call's connection ended.
    closed, _, _ = select.select(silent[-2:], [], [], DEADLINE_S)
    assert closed[0].recv(100) == b""
    for connection in silent:
        connection.close()
    eventually(lambda: _answers(place), "a connection is free again")


def _answers(place: str) -> bool:
    try:
        return bool(call(place, METHOD))
    except CallError:
        return False


def test_the_command(daemon: Daemon, place: str) -> None:
    def shown(*arguments: str) -> str:
        command = [*PROGRAM, "status", "--socket", place, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with Memnotify(daemon.path) as client:
        client.subscribe(used="80%")
        text = shown()
        assert json.loads(shown("--json"))["pid"] == daemon.pid
    assert f"process {daemon.pid}: {daemon.path}, a " in text
    assert "update_period = 20 ms (command line)" in text
    assert re.search(rf"process {os.getpid()} \(.+\) of root", text)
    assert re.search(r"used [0-9]+ pages, .*, 80.0 %: below, fires when it reaches [0-9]+ pages", text)


def test_the_command_repeats(daemon: Daemon, place: str) -> None:
    """With --watch it shows the status again, until the daemon is gone."""
    with Program(*PROGRAM, "status", "--socket", place, "--watch", "0.1") as watching:
        for _ in range(2):
            watching.hear("refused")
        os.kill(daemon.pid, signal.SIGTERM)
        assert watching.process.wait(DEADLINE_S) == 2


def test_no_daemon(place: str) -> None:
    command = [*PROGRAM, "status", "--socket", place]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"memnotify status: {place} does not exist: start ")
