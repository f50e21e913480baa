# SPDX-License-Identifier: MIT
"""What only a kernel with CUSE shows: the node, its registration and the ways that fails."""

import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.daemon import AS_NOBODY, NOBODY, PROGRAM, QUICK, Daemon, start
from support.fake_memory import FakeMemory
from support.kept import Service, clients_of
from support.program import Program
from support.waiting import DEADLINE_S, eventually

from memnotify.transports.session import Session

RULES = Path(__file__).parents[3] / "udev/99-memnotify.rules"


def _refused(*arguments: str) -> str:
    process = start("--transport", "cuse", *arguments)
    _, log = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1, log
    assert "Traceback" not in log
    return log


def test_auto_loads_the_module_and_takes_cuse() -> None:
    subprocess.run(["modprobe", "-r", "cuse"], check=True)
    with Daemon(transport="auto") as daemon:
        assert "CUSE is available: serving a character device" in daemon.log
        assert f"ready: {daemon.path}, a CUSE character device" in daemon.log


def test_the_node() -> None:
    with Daemon() as daemon:
        name = os.path.basename(daemon.path)
        status = os.stat(daemon.path)
        assert stat.S_ISCHR(status.st_mode)
        numbers = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        assert Path(f"/sys/class/cuse/{name}/dev").read_text().strip() == numbers
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (0, 0o600)
    assert not Path(f"/sys/class/cuse/{name}").exists()


def test_the_pressure_trigger_has_the_short_window() -> None:
    # It is taken without a word; what would be said is said of a fallback.
    with Daemon() as daemon:
        assert "pressure" not in daemon.log


@pytest.mark.parametrize("user", [(), ("--user", "nobody")])
def test_stalls_for_memory_wake_the_sampler_before_its_time(user: tuple[str, ...]) -> None:
    # A cgroup over memory.high makes its tasks stall and moves the system's figures by next to nothing.
    root = Path("/sys/fs/cgroup")
    (root / "cgroup.subtree_control").write_text("+memory")
    group = root / "memnotify-stall"
    group.mkdir()
    (group / "memory.high").write_text(str(8 << 20))
    with Daemon(*user, "--update-period", "60000", "--max-update-period", "60000") as daemon:
        fd = os.open(daemon.path, os.O_RDWR)
        os.write(fd, b"used 99%")
        eventually(lambda: not daemon.wakes_within(0.5), "it sleeps")
        stalling = subprocess.Popen(["sh", "-c", f"echo $$ > {group}/cgroup.procs; exec tail /dev/zero"])
        eventually(lambda: daemon.wakes_within(0.5), "it is woken", deadline_s=30)
        stalling.kill()
        stalling.wait()
        os.close(fd)
    eventually(lambda: not (group / "cgroup.procs").read_text(), "the group is empty")
    group.rmdir()


def test_a_name_that_is_taken_by_something_else_is_refused(tmp_path: Path) -> None:
    assert "/dev/null exists and is no CUSE device" in _refused("--name", "null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    plain = Path("/dev/memnotify-plain")
    plain.write_text("mine")
    try:
        assert "exists and is no CUSE device" in _refused("--name", plain.name)
        assert plain.read_text() == "mine"
    finally:
        plain.unlink()


def test_a_path_is_not_for_cuse() -> None:
    assert "leave --path out" in _refused("--path", "/run/device")


def test_what_a_killed_fuse_daemon_left_is_cleared_away() -> None:
    killed = Daemon(transport="fuse")
    killed.process.kill()
    killed.process.wait()
    with Daemon(transport="cuse") as daemon:
        assert stat.S_ISCHR(os.stat(daemon.path).st_mode)


def test_a_fuse_file_on_an_overlay() -> None:
    # Where a file's st_dev differs from its directory's: the guest's root is one.
    process = start("--path", "/opt/memnotify-overlay")
    eventually(lambda: "/opt/memnotify-overlay" in Path("/proc/self/mountinfo").read_text(), "mounted")
    with open("/opt/memnotify-overlay", "rb", buffering=0) as device:
        assert device.read(256).startswith(b"total ")
    process.terminate()
    _, log = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, log


def test_abort_in_sysfs_ends_the_daemon_with_an_error() -> None:
    daemon = Daemon()
    Path(f"/sys/class/cuse/{os.path.basename(daemon.path)}/abort").write_text("1")
    assert daemon.process.wait(DEADLINE_S) == 1
    eventually(lambda: "is gone" in daemon.log, "it says why")
    assert not os.path.lexists(daemon.path)


def test_open_files_outlive_a_node_that_is_removed_or_replaced(tmp_path: Path) -> None:
    """A restart as well; what was put in its place stays."""
    memory = FakeMemory(tmp_path)
    service = Service(memory.program, tmp_path, *QUICK, *memory.ARGUMENTS, name="memnotify-node")
    other = Path(service.daemon.path)
    with clients_of(service.daemon, 2) as clients:
        other.unlink()
        memory.use(70)
        assert clients.told()
        other.write_text("another's")
        service.restart()
        assert "was removed or replaced" in service.daemon.log
        memory.use(50)
        assert clients.told()
    service.close()
    assert other.read_text() == "another's"
    other.unlink()


class _Nothing:
    """Operations of a device that is never opened."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        raise AssertionError(name)


def test_the_kernel_s_silent_refusal_of_a_name_is_noticed() -> None:
    sessions = [Session.cuse("memnotify-twice", _Nothing()) for _ in range(2)]
    for session in sessions:
        session.attach(f"/dev/fd/{os.open('/dev/cuse', os.O_RDWR | os.O_CLOEXEC)}")
    sessions[0].handshake()
    with pytest.raises(ConnectionRefusedError):
        sessions[1].handshake()
    for session in sessions:
        session.close()


@pytest.fixture
def udev() -> Iterator[None]:
    """Run the real udev daemon with the project's rule."""
    rules = Path("/run/udev/rules.d")
    rules.mkdir(parents=True, exist_ok=True)
    shutil.copy(RULES, rules)
    process = subprocess.Popen(["/lib/systemd/systemd-udevd"], stderr=subprocess.DEVNULL)
    eventually(
        lambda: subprocess.run(["udevadm", "control", "--ping"], check=False).returncode == 0, "udev is up"
    )
    yield
    process.terminate()
    process.wait()
    # As its socket unit does: a daemon that finds it waits for udev.
    Path("/run/udev/control").unlink()


def test_ready_is_said_when_udev_has_opened_the_device_for_everybody(udev: None) -> None:
    # The rule is for the device of this name alone. From the second time on udev has a record of the number,
    # of a device that is gone.
    for _ in range(3):
        with Daemon(name="memnotify") as daemon:
            assert stat.S_IMODE(os.stat(daemon.path).st_mode) == 0o666
            read = ["head", "-n", "1", daemon.path]
            done = subprocess.run(read, user="nobody", capture_output=True, text=True, check=True)
            assert done.stdout.startswith("total ")


def test_who_may_open_it_is_served_while_udev_is_waited_for(udev: None) -> None:
    # The kernel's events are queued, and udev does nothing about them.
    subprocess.run(["udevadm", "control", "--stop-exec-queue"], check=True)
    program = Program(*PROGRAM, "serve", "--transport", "cuse", "--name", "memnotify")
    eventually(lambda: os.path.exists("/dev/memnotify"), "the node is there")
    with open("/dev/memnotify", "rb", buffering=0) as device:
        assert device.read(256).startswith(b"total ")
    assert "ready: " not in "".join(program.lines)
    subprocess.run(["udevadm", "control", "--start-exec-queue"], check=True)
    program.hear("ready: ")
    assert stat.S_IMODE(os.stat("/dev/memnotify").st_mode) == 0o666
    assert program.end() == 0


def test_memory_stays_locked_when_root_is_given_up() -> None:
    with Daemon("--user", "nobody") as daemon:
        assert "memory is not locked" not in daemon.log
        assert daemon.status("VmLck") > 0


def test_who_may_open_cuse_serves_without_being_root(udev: None) -> None:
    os.chown("/dev/cuse", 0, NOBODY.pw_gid)
    os.chmod("/dev/cuse", 0o660)
    with Daemon(name="memnotify", program=AS_NOBODY) as daemon:
        assert stat.S_ISCHR(os.stat(daemon.path).st_mode)
        read = ["head", "-n", "1", daemon.path]
        done = subprocess.run(read, user="daemon", capture_output=True, text=True, check=True)
        assert done.stdout.startswith("total ")
        assert f"Uid:\t{NOBODY.pw_uid}" in Path(f"/proc/{daemon.pid}/status").read_text()
    os.chmod("/dev/cuse", 0o600)
    process = start("--transport", "cuse", program=AS_NOBODY)
    _, log = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert "/dev/cuse: Permission denied" in log
