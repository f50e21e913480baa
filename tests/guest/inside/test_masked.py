# SPDX-License-Identifier: MIT
"""Files of /proc that a container masks with /dev/null: the daemon works without them."""

import os
import select
import signal
from pathlib import Path

import pytest
from support.daemon import PROGRAM, QUICK, Daemon, ready
from support.doctor import findings
from support.memory import Hog, step_pages, used_pages
from support.waiting import eventually

from memnotify.cli.doctor.checks import WARNING

BUDDYINFO, PRESSURE = "/proc/buddyinfo", "/proc/pressure/memory"
SAID = {BUDDYINFO: "pages are not counted", PRESSURE: "no memory pressure trigger"}
NAME = "memnotify-masked"


def masked(*paths: str) -> tuple[str, ...]:
    """Return the program, in a mount namespace where /dev/null is at the paths; it keeps its pid."""
    masks = "".join(f"mount --bind /dev/null {path} && " for path in paths)
    namespace = ("unshare", "--mount", "--propagation", "private", "sh", "-c")
    return (*namespace, f'{masks}exec "$@"', "sh", *PROGRAM)


def said(daemon: Daemon, path: str) -> list[str]:
    """Return the lines of the log about a masked file."""
    return [line for line in daemon.log.splitlines() if SAID[path] in line or path in line]


def assert_serves(daemon: Daemon) -> None:
    """Take memory; a client must get its event."""
    fd = os.open(daemon.path, os.O_RDWR)
    with Hog() as hog:
        os.write(fd, b"used %d" % (used_pages(fd) + step_pages()))
        hog.hold(2 * step_pages())
        assert ready(fd) & select.POLLIN
    os.close(fd)


@pytest.mark.parametrize("paths", [(BUDDYINFO,), (PRESSURE,), (BUDDYINFO, PRESSURE)], ids=str)
def test_one_line_for_each_and_the_timer_goes_on(paths: tuple[str, ...]) -> None:
    with Daemon(*QUICK, name=NAME, program=masked(*paths)) as daemon:
        assert_serves(daemon)
        daemon.process.send_signal(signal.SIGHUP)
        eventually(lambda: "configuration reloaded" in daemon.log, "it has reloaded")
        assert_serves(daemon)
        for path in SAID:
            assert len(said(daemon, path)) == (path in paths), daemon.log


def test_a_reload_that_turns_page_counters_on_does_not_end_it(tmp_path: Path) -> None:
    configuration = tmp_path / "memnotify.toml"
    configuration.write_text("count_pages = false\n")
    arguments = ("--config", str(configuration), *QUICK)
    with Daemon(*arguments, name=NAME, program=masked(BUDDYINFO)) as daemon:
        configuration.write_text("count_pages = true\n")
        daemon.process.send_signal(signal.SIGHUP)
        eventually(lambda: "configuration reloaded" in daemon.log, "it has reloaded")
        assert_serves(daemon)


def test_doctor_warns() -> None:
    """In the daemon's namespace, as ``podman exec`` runs it."""
    with Daemon(name=NAME, program=masked(BUDDYINFO, PRESSURE)) as daemon:
        namespace = ("nsenter", "--mount", f"--target={daemon.pid}", f"--wd={Path.cwd()}")
        code, checks = findings("--timeout", "60", name=NAME, program=(*namespace, *PROGRAM))
    assert code == 0, checks
    assert checks["pressure"]["state"] == WARNING
    assert f"{PRESSURE} is masked by another file" in checks["pressure"]["found"]
    assert checks["tracepoints"]["state"] == WARNING
