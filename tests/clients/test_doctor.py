# SPDX-License-Identifier: MIT
"""``memnotify doctor`` with a served device, healthy or not."""

import re
import signal
import time

import pytest
from support.daemon import QUICK, TRANSPORT, Daemon
from support.doctor import findings
from support.fake_memory import FakeMemory
from support.waiting import eventually

from memnotify.cli.doctor.checks import FAILED, NOT_APPLICABLE, OK, WARNING


@pytest.mark.parametrize("arguments", [QUICK, ()])
def test_a_served_device_is_healthy(arguments: tuple[str, ...]) -> None:
    with Daemon(*arguments) as daemon:
        code, checks = findings("--timeout", "60")
        assert code == 0, checks
        assert daemon.log.count("EINVAL") == 0
        for name in ("program", "fuse", "node", "daemon", "locked memory", "round trip"):
            assert checks[name]["state"] == OK, checks[name]
        assert f"process {daemon.pid} " in checks["daemon"]["found"]
        assert checks["privileges"]["state"] == WARNING
        if TRANSPORT == "cuse":
            assert "CUSE device" in checks["node"]["found"]
            assert checks["cuse"]["state"] == OK
            # Without a udev rule the node keeps the mode that the kernel gave it.
            assert "0600 root:root" in checks["permissions"]["found"]
            assert checks["permissions"]["state"] == WARNING
        else:
            assert "FUSE file" in checks["node"]["found"]
            assert checks["permissions"]["state"] == OK
        assert "the daemon" in checks["pressure"]["found"]
        assert "the daemon" in checks["tracepoints"]["found"]
        # No observer of doctor remains.
        assert findings("--timeout", "60")[0] == 0
        eventually(lambda: daemon.wakes_within(0.2).keys() <= {str(daemon.pid)}, "the daemon sleeps")


def test_a_daemon_that_dropped_root() -> None:
    with Daemon("--user", "nobody") as daemon:
        code, checks = findings("--timeout", "60")
        assert code == 0, checks
        assert f"process {daemon.pid} serves it" in checks["daemon"]["found"]
        assert checks["privileges"] == {
            "name": "privileges",
            "state": OK,
            "found": "user nobody, capabilities 0, cannot gain privileges",
            "advice": "",
        }


def test_without_a_daemon() -> None:
    code, checks = findings(name="memnotify-none")
    assert code == 1
    for name in ("node", "daemon"):
        assert checks[name]["state"] == FAILED
        assert "memnotify serve" in checks[name]["advice"]
    assert checks["round trip"]["state"] == NOT_APPLICABLE


def test_a_stopped_daemon_does_not_hangfindings() -> None:
    with Daemon() as daemon:
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            begin_s = time.monotonic()
            code, checks = findings("--timeout", "1")
            # Doctor waits for one answer; the rest is the start of Python, on a machine of any speed.
            assert time.monotonic() - begin_s < 30
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        assert code == 1
        assert re.match("no answer to '(stat|open)' within 1 s", checks["round trip"]["found"])
        assert f"kill -CONT {daemon.pid}" in checks["round trip"]["advice"]
        assert checks["daemon"]["state"] == FAILED
        assert findings("--timeout", "60")[0] == 0


def test_a_daemon_that_samples_too_rarely() -> None:
    rarely = ("--update-period", "3600000", "--max-update-period", "3600000", "--no-count-pages")
    with Daemon(*rarely, "--min-update-period", "3600000"):
        code, checks = findings("--timeout", "0.4")
    assert code == 1
    assert checks["round trip"]["found"] == "wait for an event: no event within 0.4 s, although memory moved"
    assert "--timeout" in checks["round trip"]["advice"]


def test_figures_of_another_machine(tmp_path_factory: pytest.TempPathFactory) -> None:
    memory = FakeMemory(tmp_path_factory.mktemp("memory"))
    with Daemon(*memory.ARGUMENTS, program=memory.program):
        code, checks = findings()
    assert code == 1
    assert checks["round trip"]["found"].startswith("read: the figures (total 2500000 used 1250000")
    assert "container" in checks["round trip"]["advice"]
