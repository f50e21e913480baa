# SPDX-License-Identifier: MIT
"""A daemon that has given up root: its rights, what still works, and what it leaves behind."""

import errno
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import AS_NOBODY, NOBODY, PROGRAM, QUICK, TRANSPORT, Daemon, ready, start
from support.fake_manager import FakeManager
from support.fake_memory import FakeMemory
from support.waiting import DEADLINE_S, eventually

import memnotify

USER = ("--user", NOBODY.pw_name)
# CAP_SYS_ADMIN and CAP_DAC_OVERRIDE
TO_REMOVE = f"{1 << 21 | 1 << 1:016x}"
NONE = f"{0:016x}"


@pytest.fixture
def dropped() -> Iterator[Daemon]:
    with Daemon(*USER) as daemon:
        yield daemon


def _status(path: Path) -> dict[str, str]:
    """Return the fields of a /proc status file."""
    pairs = (line.split(":", 1) for line in path.read_text().splitlines())
    return {name: value.strip() for name, value in pairs}


def _children(daemon: Daemon) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()]


def test_every_thread_is_another_user_without_any_rights(tmp_path: Path) -> None:
    with Daemon(*USER, "--socket", str(tmp_path / "socket")) as daemon:
        threads = [*Path(f"/proc/{daemon.pid}/task").iterdir()]
        assert len(threads) == 4
        for thread in threads:
            status = _status(thread / "status")
            assert set(status["Uid"].split()) == {str(NOBODY.pw_uid)}
            assert set(status["Gid"].split()) == {str(NOBODY.pw_gid)}
            assert status["Groups"] == ""
            assert {status[f"Cap{name}"] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {NONE}
            assert status["NoNewPrivs"] == "1"
        line = f"root is given up permanently: user nobody ({NOBODY.pw_uid}), group {NOBODY.pw_gid}"
        assert daemon.log.count(line) == 1
        assert daemon.log.index(line) < daemon.log.index("ready: ")


@pytest.mark.parametrize(
    ("user", "uid", "gid"),
    [
        (str(NOBODY.pw_uid), NOBODY.pw_uid, NOBODY.pw_gid),
        (f"{NOBODY.pw_uid}:1", NOBODY.pw_uid, 1),
        ("987654321:987654320", 987654321, 987654320),
    ],
)
def test_a_user_is_given_by_number(user: str, uid: int, gid: int) -> None:
    with Daemon("--user", user) as daemon:
        status = _status(Path(f"/proc/{daemon.pid}/status"))
        assert set(status["Uid"].split()) == {str(uid)}
        assert set(status["Gid"].split()) == {str(gid)}
        assert status["Groups"] == ""


def test_without_setpcap_the_bounding_set_stays_and_nothing_else() -> None:
    program = ("setpriv", "--bounding-set", "-setpcap", sys.executable, "-m", "memnotify")
    with Daemon(*USER, program=program) as daemon:
        status = _status(Path(f"/proc/{daemon.pid}/status"))
        assert status["CapBnd"] != NONE
        assert {status[f"Cap{name}"] for name in ("Inh", "Prm", "Eff", "Amb")} == {NONE}
        assert status["NoNewPrivs"] == "1"


def test_a_threshold_on_a_cgroup_with_modules_that_only_root_reads(tmp_path: Path) -> None:
    """The write is accepted, or refused because this machine has no cgroup v2 with a memory controller."""
    package = Path(memnotify.__file__).parent
    shutil.copytree(package, tmp_path / "memnotify", ignore=shutil.ignore_patterns("__pycache__"))
    tmp_path.chmod(0o700)
    with Daemon(*USER, environment={"PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}) as daemon:
        assert str(tmp_path) in Path(f"/proc/{daemon.pid}/maps").read_text()
        fd = os.open(daemon.path, os.O_RDWR)
        try:
            os.write(fd, b"cgroup 80%")
        except OSError as error:
            assert error.errno == errno.EOPNOTSUPP
            eventually(lambda: "no threshold on a cgroup: " in daemon.log, "the log says why")
        os.close(fd)


def test_children_are_waited_for_if_sigchld_was_ignored() -> None:
    ignoring = ("env", "--ignore-signal=CHLD", sys.executable, "-m", "memnotify")
    with Daemon(*USER, program=ignoring) as daemon:
        assert len(_children(daemon)) == (TRANSPORT == "fuse")


def test_memory_is_locked_where_that_holds_without_root(dropped: Daemon) -> None:
    limit = Path(f"/proc/{dropped.pid}/limits").read_text().split("Max locked memory", 1)[1].split()[1]
    assert (dropped.status("VmLck") > 0) == (limit == "unlimited")
    assert ("memory is not locked" in dropped.log) == (limit != "unlimited")


def test_other_users_read_poll_and_are_woken(tmp_path: Path) -> None:
    memory = FakeMemory(tmp_path, 50)
    with Daemon(*USER, *QUICK, *FakeMemory.ARGUMENTS, program=memory.program) as daemon:
        os.chmod(daemon.path, 0o666)  # as udev would
        command = ["sh", "-c", f"exec 3<>{daemon.path}; echo used 70% >&3; head -n 1 <&3; echo set; cat <&3"]
        client = subprocess.Popen(command, user="daemon", stdout=subprocess.PIPE, text=True)
        assert client.stdout is not None
        assert client.stdout.readline().startswith("total ")
        client.kill()
        client.wait()
        client.stdout.close()
        fd = os.open(daemon.path, os.O_RDWR)
        os.write(fd, b"used 70%")
        assert ready(fd, timeout_s=0) == 0
        memory.use(80)
        assert ready(fd) == select.POLLIN
        os.close(fd)


def test_what_was_made_is_removed_at_the_end(tmp_path: Path) -> None:
    place = tmp_path / "socket"
    with Daemon(*USER, "--socket", str(place)) as daemon:
        assert place.exists()
        assert daemon.end() == 0
        assert not place.exists()
        assert not os.path.lexists(daemon.path)
        assert daemon.path not in Path("/proc/self/mountinfo").read_text()


def test_what_was_made_is_removed_even_if_it_is_killed(tmp_path: Path) -> None:
    place = tmp_path / "socket"
    daemon = Daemon(*USER, "--socket", str(place))
    (remover,) = _children(daemon)
    # A terminal and systemd send theirs to all processes of a group.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGABRT):
        os.kill(remover, number)
    daemon.end(signal.SIGKILL)
    eventually(lambda: not place.exists(), "the socket is removed")
    eventually(lambda: not os.path.lexists(daemon.path), "the device is removed")
    eventually(lambda: not os.path.exists(f"/proc/{remover}"), "nothing is left running")


def test_the_process_that_stays_root_can_remove_and_nothing_else(tmp_path: Path) -> None:
    with Daemon(*USER, "--socket", str(tmp_path / "socket")) as daemon:
        (remover,) = _children(daemon)
        proc = Path(f"/proc/{remover}")
        eventually(lambda: _status(proc / "status")["Name"] == "memnotify-rm", "it waits")
        status = _status(proc / "status")
        assert {status[f"Cap{name}"] for name in ("Prm", "Eff", "Bnd")} == {TO_REMOVE}
        assert {status[f"Cap{name}"] for name in ("Inh", "Amb")} == {NONE}
        assert status["NoNewPrivs"] == "1"
        opened = {os.readlink(fd).split(":")[0] for fd in (proc / "fd").iterdir() if int(fd.name) > 2}
        assert opened <= {"pipe", daemon.path}


# A seccomp filter of four instructions, as a container's runtime or a kernel before 5.9 has it:
# close_range(2), number 436 everywhere, gives ENOSYS; all else is allowed (linux/filter.h, linux/seccomp.h).
_WITHOUT_CLOSE_RANGE = """
import ctypes, os, struct, sys
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER = 38, 22, 2
rules = [(0x20, 0, 0, 0), (0x15, 0, 1, 436), (6, 0, 0, 0x50000 | 38), (6, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
program = ctypes.create_string_buffer(struct.pack("H6xP", len(rules), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
assert libc.prctl(PR_SET_SECCOMP, FILTER, program, 0, 0) == 0, ctypes.get_errno()
assert libc.syscall(436, 1 << 20, 1 << 20, 0) == -1 and ctypes.get_errno() == 38
os.execv(sys.executable, [sys.executable, "-m", "memnotify", *sys.argv[1:]])
"""


def test_the_end_comes_at_once_where_close_range_is_refused(tmp_path: Path) -> None:
    """The cleanup process closes what is open, not each of a billion numbers, and holds no more rights."""
    program = (sys.executable, "-c", _WITHOUT_CLOSE_RANGE)
    with Daemon(*USER, "--socket", str(tmp_path / "socket"), program=program) as daemon:
        assert _status(Path(f"/proc/{daemon.pid}/status"))["Seccomp"] == "2"
        (remover,) = _children(daemon)
        proc = Path(f"/proc/{remover}")
        eventually(lambda: _status(proc / "status")["Name"] == "memnotify-rm", "it waits")
        assert _status(proc / "status")["CapPrm"] == TO_REMOVE
        opened = {os.readlink(fd).split(":")[0] for fd in (proc / "fd").iterdir() if int(fd.name) > 2}
        assert opened <= {"pipe", daemon.path}
        assert daemon.end() == 0
        assert not os.path.exists(f"/proc/{remover}")
        assert not os.path.lexists(daemon.path)


def test_without_anything_to_remove_no_process_stays_root(dropped: Daemon) -> None:
    assert bool(_children(dropped)) == (TRANSPORT == "fuse")


def test_the_manager_is_told_though_the_user_could_not_open_its_socket(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with (
        FakeManager(str(tmp_path / "notify")) as systemd,
        Daemon(*USER, environment=systemd.environment) as daemon,
    ):
        systemd.hear("READY=1")
        assert daemon.end() == 0
        systemd.hear("STOPPING=1")


def test_a_reload_reads_what_the_user_may_read() -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        file = Path(directory, "memnotify.toml")
        file.write_text("update_period = 300\n")
        with Daemon(*USER, "--config", str(file)) as daemon:
            file.write_text("update_period = 400\n")
            file.chmod(0o600)
            daemon.process.send_signal(signal.SIGHUP)
            eventually(lambda: "the configuration stays as it was" in daemon.log, "it is refused")
            file.chmod(0o644)
            daemon.process.send_signal(signal.SIGHUP)
            eventually(lambda: "reloaded, changed: update_period" in daemon.log, "it is taken over")
            fd = os.open(daemon.path, os.O_RDWR)
            assert os.read(fd, 256).startswith(b"total ")
            os.close(fd)


@pytest.mark.parametrize(
    ("program", "user", "message"),
    [
        (PROGRAM, "no-such-user", "there is no user 'no-such-user'"),
        (PROGRAM, "root", "--user root is root itself"),
        (PROGRAM, "0:1", "--user 0:1 is root itself"),
        (PROGRAM, "987654321", "has no entry that gives its group: give --user UID:GID"),
        (PROGRAM, "4294967295:1", "a number must be less than 4294967295"),
        (AS_NOBODY, "daemon", "only root can become user daemon"),
        (AS_NOBODY, "1:1", "only root can become user 1:1"),
    ],
)
def test_a_wrong_user(program: tuple[str, ...], user: str, message: str) -> None:
    process = start("--transport", TRANSPORT, "--user", user, program=program)
    _, log = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2, log
    assert message in log
    assert "Traceback" not in log


def test_rights_that_cannot_be_given_up_are_not_kept(tmp_path: Path) -> None:
    program = ("setpriv", "--bounding-set", "-setuid", sys.executable, "-m", "memnotify")
    path = "/dev/memnotify-kept"
    place = tmp_path / "socket"
    arguments = ("--transport", TRANSPORT, "--name", "memnotify-kept", "--socket", str(place))
    process = start(*arguments, *USER, program=program)
    _, log = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1, log
    assert "cannot become user nobody permanently" in log
    assert "CAP_SETUID" in log
    assert "ready" not in log
    assert "Traceback" not in log
    assert not place.exists()
    assert not os.path.lexists(path)
