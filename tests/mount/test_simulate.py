# SPDX-License-Identifier: MIT
"""``memnotify simulate`` and memnotify.testing on a real FUSE file."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import pytest
from support import simulated
from support.daemon import AS_NOBODY, NOBODY, PROGRAM, Daemon
from support.program import Program
from support.waiting import DEADLINE_S

from memnotify.client import Memnotify
from memnotify.testing import SimulatedDevice

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs/testing.md").read_text()
READ = "head -n1 /dev/memnotify"
# What simulate imports late lies where only root may read it. PR_SET_DUMPABLE: as after a login.
_AS_NOBODY = (
    *AS_NOBODY[:2],
    AS_NOBODY[2]
    .replace(
        "import memnotify",
        """import memnotify.cli.simulate
import memnotify.simulation.private_dev, memnotify.simulation.server
import ctypes, memnotify""",
        1,
    )
    .replace("sys.exit(", "ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)\nsys.exit("),
)
# A kernel, or a container, that allows no namespace.
_WITHOUT_NAMESPACES = (
    sys.executable,
    "-c",
    """
import sys
from memnotify.simulation import private_dev
def unshare(flags):
    raise PermissionError(1, "not allowed")
private_dev.unshare = unshare
from memnotify.cli import main
sys.exit(main(sys.argv[1:]))
""",
)


def _simulate(
    script: str, *command: str, program: Sequence[str] = PROGRAM
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*program, "simulate", script, "--", *command],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@pytest.fixture
def device() -> Iterator[SimulatedDevice]:
    """Return a device of a process of its own."""
    with SimulatedDevice(kind="fuse") as device:
        yield device


@pytest.mark.parametrize("kind", ["fuse", "socket", "in-process"])
def test_every_kind_is_a_device(kind: Literal["fuse", "socket", "in-process"]) -> None:
    """Each does what the device does."""
    for check in simulated.CHECKS:
        with SimulatedDevice(kind=kind) as device:
            assert device.kind == kind
            check(device)


def test_commands_find_the_device_of_a_test(device: SimulatedDevice) -> None:
    device.set(total=1000, used="75%", active=0)
    shown = subprocess.run([*PROGRAM, "read"], capture_output=True, text=True, check=True)
    assert re.search(r"used +750 pages", shown.stdout)


def test_nothing_is_left(device: SimulatedDevice) -> None:
    with SimulatedDevice(kind="fuse") as other:
        directory = os.path.dirname(other.path)
        assert os.path.exists(other.path)
    assert not os.path.exists(directory)


def test_its_process_may_end(device: SimulatedDevice) -> None:
    """The client sees the same as when a daemon dies."""
    with SimulatedDevice(kind="fuse") as other, Memnotify(other.path, reopen=False) as client:
        client.subscribe(used="80%")
    with pytest.raises(ValueError, match="closed"):
        client.wait(0)


def test_the_command_sees_the_script_and_nothing_else_does() -> None:
    before = os.listdir("/dev")
    done = _simulate(
        "total 4000K; at 0s used 1000K active 0", "sh", "-c", f"{READ}; ls -A /dev; cat /proc/mounts; exit 7"
    )
    assert (done.returncode, done.stderr) == (7, "")
    line, *rest = done.stdout.splitlines()
    pages = 4000 * 1024 // os.sysconf("SC_PAGESIZE")
    assert line == f"total {pages} used {pages // 4} active 0"
    assert {*before, "memnotify"} <= set(rest)
    assert "/dev/memnotify fuse" in done.stdout
    assert os.listdir("/dev") == before
    assert "fuse.memnotify /dev/memnotify" not in Path("/proc/mounts").read_text()


def test_a_file_in_dev_whose_server_hangs_is_not_waited_for() -> None:
    with Daemon(transport="fuse") as hangs:
        hangs.process.send_signal(signal.SIGSTOP)
        try:
            done = _simulate("at 0s used 40%", "sh", "-c", READ)
        finally:
            hangs.process.send_signal(signal.SIGCONT)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_handler_is_told() -> None:
    # On a slow machine it starts after the crossing, which --now reports as well.
    handler = f"{sys.executable} -m memnotify wait 'used 80%' --now --count 2 --timeout 50"
    done = _simulate(
        "total 4M; used 40%; hold 1s; ramp to 95% in 1s; hold 4s; drop to 30%", "sh", "-c", handler
    )
    assert done.returncode == 0, done.stderr
    used = [int(line.split()[3]) / int(line.split()[1]) for line in done.stdout.splitlines()]
    # 95 % of 1,024 pages is 973 of them: 95.02 %.
    assert 0.8 <= used[0] < 0.951
    assert used[1] == pytest.approx(0.3, abs=0.01)


def test_a_user_without_rights() -> None:
    """The command has the same user, and no rights from the namespace."""
    # For writing first, as a client opens it: a stat() by any program hides what that would refuse.
    script = f"exec 3<>/dev/memnotify; {READ}; id -u; grep CapEff /proc/self/status"
    done = _simulate("at 0s used 40%", "sh", "-c", script, program=_AS_NOBODY)
    assert (done.returncode, done.stderr) == (0, "")
    line, user, capabilities = done.stdout.splitlines()
    assert line.startswith("total ")
    assert (int(user), int(capabilities.split()[1], 16)) == (NOBODY.pw_uid, 0)


def test_without_namespaces_the_environment_says_where() -> None:
    done = _simulate(
        "at 0s used 40%",
        "sh",
        "-c",
        'head -n1 "$MEMNOTIFY_PATH"; echo "$MEMNOTIFY_PATH"',
        program=_WITHOUT_NAMESPACES,
    )
    assert (done.returncode, done.stderr) == (0, "")
    line, path = done.stdout.splitlines()
    assert line.startswith("total ")
    assert path != "/dev/memnotify"
    assert not os.path.lexists(os.path.dirname(path))


def test_exit_codes() -> None:
    assert _simulate("hold 1s", "sh", "-c", "kill -9 $$").returncode == 128 + 9
    missing = _simulate("hold 1s", "no-such-command")
    assert (missing.returncode, missing.stderr) == (
        2,
        "memnotify simulate: no-such-command: no such command\n",
    )
    wrong = _simulate("hold 1s; ramp up", "true")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith(
        "memnotify simulate: the script: line 1, column 15: 'to' is expected, not 'up'."
    )
    assert _simulate("@/nonexistent", "true").returncode == 2


def test_a_signal_reaches_the_command() -> None:
    with Program(*PROGRAM, "simulate", "hold 1s", "--", "sh", "-c", "echo on; exec sleep 1000") as program:
        program.hear("on")
        assert program.end(signal.SIGTERM) == 128 + signal.SIGTERM


def test_a_recording_is_played_back(device: SimulatedDevice, tmp_path: Path) -> None:
    recording = tmp_path / "recording"
    device.set(total=1000, used=123, active=45)
    with Program(*PROGRAM, "watch", "--plain", "--interval", "0.2", "--record", str(recording)) as watch:
        watch.hear(" 12.3 %")
        watch.end(signal.SIGTERM)
    done = _simulate(f"@{recording}", "sh", "-c", READ)
    assert done.stdout == "total 1000 used 123 active 45\n"


def test_the_page(tmp_path: Path) -> None:
    """Each command in docs/testing.md prints what the page shows, in a directory with the page's files."""
    blocks = re.findall(r"(?ms)^```(sh|python)\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", PAGE)
    environment = os.environ | {"PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
    for language, code, printed in blocks:
        if language == "python":
            name = re.match(r"# (\w+\.py)\n", code)
            assert name, code
            (tmp_path / name[1]).write_text(code)
            continue
        done = subprocess.run(
            ["sh", "-euc", code],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
            env=environment,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout == printed or (not printed and done.stdout.splitlines()[-1].startswith("2 passed"))
    assert [language for language, *_ in blocks] == ["sh", "sh", "python", "sh", "python", "python", "sh"]
