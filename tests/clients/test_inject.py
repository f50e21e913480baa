# SPDX-License-Identifier: MIT
"""``memnotify inject`` with a real daemon: it always ends, and every client is told of both ends."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support.daemon import NOBODY, PROGRAM, QUICK, Daemon
from support.fake_memory import FakeMemory
from support.program import Program
from support.waiting import DEADLINE_S, eventually

from memnotify.cli.varlink import CallError, Connection, call
from memnotify.client import Crossed, Memnotify

STATUS = "org.memnotify.Daemon.GetStatus"
INJECT = "org.memnotify.Daemon.Inject"


@pytest.fixture
def daemon(_can_serve: None, memory: FakeMemory, place: str) -> Iterator[Daemon]:
    """Return a daemon with a status socket, half of whose memory is used."""
    arguments = (*QUICK, *memory.ARGUMENTS, "--status-socket", place)
    with Daemon(*arguments, name="memnotify-inject", program=memory.program) as daemon:
        yield daemon


def _inject(place: str, figures: str, for_s: str) -> Program:
    return Program(*PROGRAM, "inject", figures, "--for", for_s, "--socket", place)


def _crossing(client: Memnotify) -> tuple[bool, int]:
    """Wait for an event with one change; return its direction, and the percentage used."""
    event = client.wait(DEADLINE_S)
    assert isinstance(event, Crossed)
    (change,) = event.changes
    return change.up, round(event.after.used.percent)


@pytest.mark.representative
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_the_injector(daemon: Daemon, place: str, number: signal.Signals) -> None:
    with Memnotify(daemon.path) as client:
        client.subscribe(used="80%")
        with _inject(place, "used 95%", "3000") as injector:
            assert _crossing(client) == (True, 95)
            assert round(client.read().used.percent) == 95
            assert round(client.read().active.percent) == 10
            injection = call(place, STATUS)["injection"]
            assert (injection["figures"], injection["pid"]) == ("used 95%", injector.process.pid)
            command = [*PROGRAM, "status", "--socket", place]
            shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            line = rf"NOT REAL   process {injector.process.pid} injects used 95% for (\d+\.\d) s more\n"
            (left_s,) = re.findall(line, shown)
            assert 0 < float(left_s) <= 3000
            assert "INJECTION begins: figures are NOT REAL for at most 3000 s: used 95%" in daemon.log
            injector.end(number)
        assert _crossing(client) == (False, 50)
        eventually(lambda: "the figures are real again" in daemon.log, "the log says so")
        assert call(place, STATUS)["injection"] is None
        assert client.wait(0) is None


def test_its_time_ends_it(daemon: Daemon, memory: FakeMemory, place: str) -> None:
    """With the command, and without anything more from the one that asked. Downwards first."""
    memory.use(90)
    with Memnotify(daemon.path) as client, Connection(place) as silent:
        client.subscribe(used="80%", active="50%")
        with _inject(place, "used 30%", "0.2s") as injector:
            assert _crossing(client) == (False, 30)
            assert _crossing(client) == (True, 90)
            assert injector.process.wait(DEADLINE_S) == 0
        silent.call(INJECT, figures="active 60%", seconds=0.2)
        assert _crossing(client) == (True, 90)
        assert _crossing(client) == (False, 90)
        assert "(its time is over)" in daemon.log


def test_real_figures_count_beside_injected_ones(daemon: Daemon, memory: FakeMemory, place: str) -> None:
    with Memnotify(daemon.path) as client, Connection(place) as connection:
        client.subscribe(used="80%", active="50%")
        connection.call(INJECT, figures="used 95%", seconds=60)
        assert _crossing(client) == (True, 95)
        memory.activate(60)
        assert _crossing(client) == (True, 95)
        # 95 % are used no more, and nothing says so while it is injected.
        memory.use(90)
        connection.call("org.memnotify.Daemon.EndInjection")
        assert client.wait(0) is None
        assert round(client.read().used.percent) == 90


def test_the_end_of_the_daemon_ends_it(daemon: Daemon, place: str) -> None:
    with _inject(place, "used 95%", "60") as injector:
        injector.hear("NOT REAL")
        daemon.end()
        injector.hear("the daemon has ended")
        assert injector.process.wait(DEADLINE_S) == 1
    assert "(the daemon ends or is replaced)" in daemon.log


def test_refusals(daemon: Daemon, place: str) -> None:
    refused: list[tuple[object, object, str]] = [
        ("used x", 5, "not understood"),
        ("total 5G", 5, "of these: used, active"),
        ("", 5, "of these: used, active"),
        ("cgroup 80%", 5, "not understood"),
        ("used 95%", 0, "above 0"),
        ("used 95%", 3601, "at most 3600"),
        ("used 95%", "x", "above 0"),
        (None, None, "not understood"),
    ]
    with Connection(place) as connection:
        for figures, seconds, reason in refused:
            with pytest.raises(CallError, match=reason):
                connection.call(INJECT, figures=figures, seconds=seconds)
        assert connection.call(STATUS)["injection"] is None


def test_one_at_a_time(daemon: Daemon, place: str) -> None:
    with Connection(place) as first, Connection(place) as second:
        first.call(INJECT, figures="used 95%", seconds=60)
        with pytest.raises(CallError, match=f"process {os.getpid()} injects already: used 95%"):
            second.call(INJECT, figures="used 96%", seconds=60)
        # Another's injection stays.
        second.call("org.memnotify.Daemon.EndInjection")
        assert second.call(STATUS)["injection"] is not None


def test_root_only(daemon: Daemon, place: str) -> None:
    code = f"""
import json, os, socket
os.setgroups([]); os.setgid({NOBODY.pw_gid}); os.setuid({NOBODY.pw_uid})
connection = socket.socket(socket.AF_UNIX)
connection.connect({place!r})
request = {{"method": "{INJECT}", "parameters": {{"figures": "used 95%", "seconds": 5}}}}
connection.sendall(json.dumps(request).encode() + b"\\0")
print(connection.recv(4096).rstrip(b"\\0").decode())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["error"] == "org.varlink.service.PermissionDenied"
    assert call(place, STATUS)["injection"] is None
    assert "INJECTION" not in daemon.log
