# SPDX-License-Identifier: MIT
"""``memnotify doctor`` where the path is a dead mount, a bare mount point or no device."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.daemon import Daemon
from support.waiting import eventually

from memnotify.cli import main
from memnotify.cli.doctor.machine import Machine
from memnotify.cli.doctor.probe import Step, attempt, round_trip


def _doctor(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main(["doctor", "--path", str(path)])
    out, err = capsys.readouterr()
    assert err == ""
    return code, out


def test_the_mount_of_a_daemon_that_was_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "device"
    daemon = Daemon("--path", str(path), transport="fuse", name="memnotify-file")
    assert _doctor(path, capsys)[0] == 0
    daemon.end(signal.SIGKILL)
    code, out = _doctor(path, capsys)
    assert code == 1
    assert f"{path} is the mount of a daemon that has ended" in out
    assert f"-> umount -l {path}, then start it" in out
    subprocess.run(["umount", "-l", str(path)], check=True)
    code, out = _doctor(path, capsys)
    assert code == 1
    assert "nothing is mounted" in out


def test_a_mount_on_meminfo(tmp_path: Path) -> None:
    """As lxcfs has one, and containers that mask it."""
    path, mask = tmp_path / "device", tmp_path / "mask"
    mask.touch()
    doctor = f"exec {sys.executable} -m memnotify doctor --path {path}"
    script = f"mount --bind {mask} /proc/meminfo && {doctor}"
    with Daemon("--path", str(path), transport="fuse", name="memnotify-file"):
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, "")
    assert re.search(r"/proc/meminfo is a mount \(of type \w+\): total, used and active are not", done.stdout)
    assert "read: /proc/meminfo has no Active" in done.stdout


def test_a_client_in_poll(tmp_path: Path) -> None:
    path = tmp_path / "device"
    client = "import select, sys; file = open(sys.argv[1], 'rb'); select.select([], [], [file])"
    with Daemon("--path", str(path), transport="fuse", name="memnotify-file"):
        machine = Machine("memnotify", str(path), 60.0)
        assert machine.pollers == []
        with subprocess.Popen([sys.executable, "-c", client, str(path)]) as process:

            def is_found() -> bool:
                machine = Machine("memnotify", str(path), 60.0)
                return machine.pollers == [process.pid]

            try:
                eventually(is_found, "the client sleeps in select")
            finally:
                process.kill()


def test_doctor_writes_to_devices_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "text"
    path.write_text("do not lose me")
    code, out = _doctor(path, capsys)
    assert code == 1
    assert "is a plain file, and no device" in out
    assert path.read_text() == "do not lose me"


def test_round_trip_rejects_a_file(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_text("no line")
    steps: list[str] = []
    found, advice = round_trip(str(file), "/proc/meminfo", 1.0, steps.append)
    assert (steps[-1], "no line of a memnotify device" in found, bool(advice)) == ("read", True, True)
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 400 kB\nSwapTotal: 0 kB\nMemFree: 200 kB\nSwapFree: 0 kB\nActive: 40 kB\n")
    file.write_text("total 100 used 50 active 10\n")
    found, advice = round_trip(str(file), str(meminfo), 1.0, steps.append)
    assert (steps[-1], found, bool(advice)) == (
        "poll",
        "poll reports an event without a threshold",
        True,
    )


def test_an_attempt_that_hangs_is_abandoned() -> None:
    def sleep(step: Step) -> None:
        step("sleep")
        signal.pause()

    def count(step: Step) -> int:
        step("one")
        step("two")
        return 3

    assert attempt(sleep, 0.1) == ("sleep", None, 0)
    assert attempt(count, 60) == ("two", 3, 0)


def test_an_attempt_that_fails_by_itself_is_a_defect() -> None:
    def fail(step: Step) -> None:
        step("divide")
        raise ZeroDivisionError

    with pytest.raises(RuntimeError, match=r"in step 'divide': ZeroDivisionError\(\)"):
        attempt(fail, 60)


def test_an_attempt_that_is_killed() -> None:
    def die(step: Step) -> None:
        step("die")
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ChildProcessError, match="in step 'die'"):
        attempt(die, 60)
