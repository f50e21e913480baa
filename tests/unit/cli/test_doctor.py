# SPDX-License-Identifier: MIT
"""Doctor's checks on machines that are directories; tests/clients and tests/mount have real ones."""

import errno
import grp
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from support.daemon import PROGRAM
from support.require import unavailable

from memnotify.cli import main
from memnotify.cli.doctor import checks
from memnotify.cli.doctor.checks import CHECKS, FAILED, NOT_APPLICABLE, OK, WARNING, Finding, examine
from memnotify.cli.doctor.machine import Machine, Node, Server
from memnotify.cli.doctor.probe import Attempt

RELEASE = os.uname().release
MOUNT = (
    "78 49 0:47 / /dev/memnotify rw - fuse.memnotify memnotify"
    " rw,user_id=0,group_id=0,default_permissions,allow_other\n"
)
OTHER_MOUNT = MOUNT.replace("0:47", "0:48")
STALLS = "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
DEVICE = Node(0, stat.S_IFCHR | 0o666, 0, 0, "252:0", usable=True)
STATUS = {
    "State": "S (sleeping)",
    "Uid": "0\t0\t0\t0",
    "CapEff": "0000000000000000",
    "NoNewPrivs": "1",
    "VmLck": "   93868 kB",
}
SHOWN = {
    "LoadState": "loaded",
    "UnitFileState": "enabled",
    "ActiveState": "active",
    "SubState": "running",
    "MainPID": "7",
    "Result": "success",
}


class Made(Machine):
    """A machine in a directory: only files that a test makes exist, and nothing is mounted."""

    def __init__(self, directory: Path) -> None:
        super().__init__("memnotify", None, 5.0, str(directory))
        self.directory = directory
        self.make("/proc/self/mountinfo", "")

    def make(self, path: str, text: str = "") -> None:
        """Make a file of the machine."""
        file = self.directory / path[1:]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def has(self, node: Node | None) -> None:
        """Set the file at the path; None if the daemon does not answer."""
        self.inspection = Attempt("open", node, 0)

    def run(self, pid: int, *fds: str, command: str = "memnotify serve", **status: str) -> None:
        """Add a process that has these descriptors open."""
        self.make(f"/proc/{pid}/cmdline", command.replace(" ", "\0") + "\0")
        self.make(
            f"/proc/{pid}/status", "".join(f"{key}:\t{text}\n" for key, text in (STATUS | status).items())
        )
        (self.directory / f"proc/{pid}/fd").mkdir()
        for number, fd in enumerate(fds):
            (self.directory / f"proc/{pid}/fd/{number}").symlink_to(fd)


@pytest.fixture
def machine(tmp_path: Path) -> Made:
    """Return an empty machine."""
    return Made(tmp_path)


def report(machine: Machine, name: str, state: str) -> str:
    """Run a check, which must end in this state; return its finding and advice."""
    finding = CHECKS[name](machine)
    assert finding.state == state, finding
    # A warning and a failure have advice, other findings have none.
    assert bool(finding.advice) == (state in (WARNING, FAILED))
    return f"{finding.found} -> {finding.advice}"


# The program and the kernel


def test_program(machine: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "can be loaded" in report(machine, "program", OK)
    monkeypatch.setitem(sys.modules, "memnotify.transports.session", None)
    assert "apt install fuse3" in report(machine, "program", FAILED)


def test_cuse_and_its_module(machine: Made) -> None:
    assert f"{RELEASE} has no CUSE" in report(machine, "cuse", WARNING)
    report(machine, "module", NOT_APPLICABLE)
    machine.make(
        f"/lib/modules/{RELEASE}/modules.dep", "kernel/fs/fuse/cuse.ko.xz: kernel/fs/fuse/fuse.ko.xz\n"
    )
    assert "as a module" in report(machine, "cuse", OK)
    assert "fuse/cuse.ko.xz" in report(machine, "module", WARNING)
    assert "/etc/modules-load.d" in report(machine, "module", WARNING)
    machine.make("/usr/local/lib/modules-load.d/memnotify.conf", "cuse\n")
    assert "/etc/modules-load.d" not in report(machine, "module", WARNING)
    (machine.directory / "usr/local/lib/modules-load.d/memnotify.conf").unlink()
    machine.make("/usr/lib/modules-load.d/memnotify.conf", "# for memnotify\ncuse\n")
    assert "/etc/modules-load.d" not in report(machine, "module", WARNING)
    machine.make("/sys/class/cuse/version")
    assert "/dev/cuse does not exist" in report(machine, "module", FAILED)
    machine.make("/dev/cuse")
    assert "/usr/lib/modules-load.d/memnotify.conf" in report(machine, "module", OK)
    # An empty file of the same name in /etc takes its place.
    machine.make("/etc/modules-load.d/memnotify.conf")
    assert "at boot" not in report(machine, "module", OK)


def test_cuse_that_is_built_in(machine: Made) -> None:
    machine.make("/sys/class/cuse/version")
    report(machine, "cuse", OK)
    assert "built in" in report(machine, "module", NOT_APPLICABLE)


def test_fuse(machine: Made) -> None:
    assert "modprobe fuse" in report(machine, "fuse", FAILED)
    machine.make("/dev/cuse")
    report(machine, "fuse", WARNING)
    machine.make("/dev/fuse")
    report(machine, "fuse", OK)


@pytest.mark.parametrize(
    ("name", "files", "fd"),
    [
        ("pressure", ["/proc/pressure/memory"], "/proc/pressure/memory"),
        (
            "tracepoints",
            ["/proc/sys/kernel/perf_event_paranoid", "/sys/kernel/tracing/x"],
            "anon_inode:[perf_event]",
        ),
    ],
)
def test_wakeups_of_the_daemon(machine: Made, name: str, files: list[str], fd: str) -> None:
    assert "CONFIG_" in report(machine, name, WARNING)
    for file in files:
        machine.make(file, STALLS)
    machine.has(DEVICE)
    assert "the kernel has" in report(machine, name, OK)
    machine.servers = [Server(7, STATUS, ["/dev/cuse"])]
    assert "does not use" in report(machine, name, WARNING)
    machine.servers = [Server(7, STATUS, ["/dev/cuse", fd])]
    assert "wake the daemon" in report(machine, name, OK)
    machine.servers = [Server(7, STATUS, None)]
    assert "the kernel has" in report(machine, name, OK)


def test_masked_pressure_file(machine: Made) -> None:
    machine.make("/proc/pressure/memory")
    assert "masked by another file" in report(machine, "pressure", WARNING)
    machine.make("/proc/pressure/memory", STALLS)
    report(machine, "pressure", OK)


def test_meminfo_of_a_container(machine: Made) -> None:
    assert "is the machine's" in report(machine, "meminfo", OK)
    machine.make("/proc/self/cgroup", "0::/a/b\n")
    machine.make("/sys/fs/cgroup/a/memory.max", f"{64 << 20}\n")
    machine.make("/sys/fs/cgroup/a/b/memory.max", "max\n")
    assert "this process's cgroup is limited to 64 MiB: total, used" in report(machine, "meminfo", OK)
    machine.make("/sys/fs/cgroup/a/b/memory.high", f"{32 << 20}\n")
    assert "limited to 32 MiB" in report(machine, "meminfo", OK)
    machine.make("/proc/self/mountinfo", "90 80 0:50 /proc/meminfo /proc/meminfo rw - fuse.lxcfs lxcfs rw\n")
    assert "lxcfs makes it" in report(machine, "meminfo", WARNING)
    machine.make("/proc/self/mountinfo", "90 80 0:50 /m /proc/meminfo rw - tmpfs tmpfs rw\n")
    assert "of type tmpfs" in report(machine, "meminfo", WARNING)


@pytest.mark.parametrize(
    ("zram_kib", "disk_kib", "state", "found"),
    [
        (0, 0, OK, "no swap on zram"),
        (1000, 0, OK, "small"),
        (8000, 0, WARNING, "'used 50%' -> set thresholds on 'available'"),
        (8000, 24000, OK, "small"),
    ],
)
def test_swap(machine: Made, *, zram_kib: int, disk_kib: int, state: str, found: str) -> None:
    swaps = {"/dev/zram0": zram_kib, "/dev/vda2": disk_kib}
    lines = "".join(f"{name} partition\t{kib}\t0\t100\n" for name, kib in swaps.items() if kib)
    machine.make("/proc/swaps", f"Filename Type Size Used Priority\n{lines}")
    machine.make("/proc/meminfo", f"{MEMINFO}SwapTotal: {zram_kib + disk_kib} kB\n")
    assert found in report(machine, "swap", state)


def test_installation(machine: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/local/bin:/usr/bin:/bin")
    report(machine, "installation", NOT_APPLICABLE)
    machine.make("/usr/bin/memnotify")
    (tmp_path / "usr/bin/memnotify").chmod(0o755)
    # On a merged /usr this is one installation.
    (tmp_path / "bin").symlink_to("usr/bin")
    assert "/usr/bin/memnotify, the only one" in report(machine, "installation", OK)
    machine.unit = {"ExecStart": "{ path=/bin/memnotify ; argv[]=/bin/memnotify serve ; }"}
    report(machine, "installation", OK)
    machine.unit = {"ExecStart": "{ path=/opt/memnotify ; argv[]=/opt/memnotify serve ; }"}
    assert "starts /opt/memnotify, but PATH leads to /usr/bin" in report(machine, "installation", WARNING)
    machine.make("/usr/local/bin/memnotify")
    report(machine, "installation", WARNING)
    (tmp_path / "usr/local/bin/memnotify").chmod(0o755)
    shadows = "/usr/local/bin/memnotify shadows /usr/bin/memnotify"
    assert shadows in report(machine, "installation", WARNING)


def test_suspend(machine: Made) -> None:
    machine.has(DEVICE)
    report(machine, "suspend", NOT_APPLICABLE)
    machine.make("/sys/power/state", "freeze mem\n")
    report(machine, "suspend", OK)
    for pid, place in ((5, "ep_poll"), (6, "poll_schedule_timeout.constprop.0"), (7, "do_sys_poll")):
        machine.run(pid, "/dev/memnotify", command="client")
        machine.make(f"/proc/{pid}/task/{pid}/wchan", "futex_wait_queue")
        machine.make(f"/proc/{pid}/task/{pid}1/wchan", place)
    machine.run(8, "/dev/other")
    machine.make("/proc/8/task/8/wchan", "do_sys_poll")
    del machine.servers, machine.holders
    assert "process 6, 7 has the device open" in report(machine, "suspend", WARNING)


# The device


def test_permissions_of_a_mount_for_one_user(machine: Made) -> None:
    machine.has(Node(0, stat.S_IFREG | 0o666, 1, 1, usable=True))
    machine.make("/proc/self/mountinfo", MOUNT)
    assert "all users may use it" in report(machine, "permissions", OK)
    del machine.device_mount
    machine.make("/proc/self/mountinfo", MOUNT.replace(",allow_other", "").replace("user_id=0", "user_id=1"))
    assert "only daemon may use it" in report(machine, "permissions", OK)


def test_node_of_cuse(machine: Made) -> None:
    machine.has(DEVICE)
    assert "no CUSE device" in report(machine, "node", FAILED)
    machine.make("/sys/class/cuse/memnotify/dev", "252:0\n")
    assert "CUSE device 252:0" in report(machine, "node", OK)
    machine.make("/sys/class/cuse/memnotify/dev", "251:0\n")
    assert "device 252:0, but the daemon serves 251:0" in report(machine, "node", FAILED)


@pytest.mark.parametrize(
    ("node", "found"),
    [
        (Node(errno.ENOENT), "serve"),
        (Node(errno.EACCES), "Permission denied"),
        (Node(0, stat.S_IFREG | 0o644), "a plain file, and no device -> move it away"),
        (Node(0, stat.S_IFREG | 0o200), "a mount point on which nothing is mounted"),
        (Node(0, stat.S_IFSOCK | 0o200), "a mount point on which nothing is mounted"),
        (Node(0, stat.S_IFDIR | 0o755), "a directory"),
        (Node(0, stat.S_IFLNK | 0o777), "a link"),
        (Node(0, stat.S_IFIFO | 0o777), "something else"),
    ],
)
def test_node_that_is_no_device(machine: Made, node: Node, found: str) -> None:
    machine.has(node)
    assert found in report(machine, "node", FAILED)
    report(machine, "permissions", NOT_APPLICABLE)
    # Doctor must not write to it.
    report(machine, "round trip", NOT_APPLICABLE)


@pytest.mark.parametrize(
    ("number", "found"),
    [
        (errno.ENOTCONN, "umount -l /dev/memnotify"),
        (errno.EACCES, "only root may use it"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_node_of_a_mount(machine: Made, monkeypatch: pytest.MonkeyPatch, number: int, found: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    machine.make("/proc/self/mountinfo", MOUNT.replace(",allow_other", ""))
    machine.has(Node(0, stat.S_IFREG | 0o666, usable=True))
    assert "FUSE file" in report(machine, "node", OK)
    machine.has(Node(number))
    assert found in report(machine, "node", FAILED)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "umount -l" not in report(machine, "node", FAILED)


@pytest.mark.parametrize("name", ["node", "round trip"])
def test_a_daemon_that_does_not_answer(machine: Made, name: str) -> None:
    machine.has(None)
    assert "no answer to 'open' within 5 s -> restart" in report(machine, name, FAILED)
    machine.run(7, "/dev/cuse", State="T (stopped)")
    del machine.servers
    assert "kill -CONT 7" in report(machine, name, FAILED)
    machine.inspection = Attempt("open", None, 99)
    assert "process 99 hangs" in report(machine, name, FAILED)


@pytest.mark.parametrize(
    ("mode", "usable", "state", "found"),
    [
        (0o666, True, OK, "0666 root:daemon: all users"),
        (0o660, True, OK, "0660 root:daemon: the group daemon"),
        (0o600, True, WARNING, "only root"),
        (0o600, False, FAILED, "udev rule"),
        (0o660, False, FAILED, "usermod -aG daemon"),
    ],
)
def test_permissions(machine: Made, *, mode: int, usable: bool, state: str, found: str) -> None:
    machine.has(Node(0, stat.S_IFCHR | mode, 0, grp.getgrnam("daemon").gr_gid, "252:0", usable))
    assert found in report(machine, "permissions", state)
    if not usable:
        assert "may not use it" in report(machine, "round trip", NOT_APPLICABLE)


OURS = 'SUBSYSTEM=="cuse", KERNEL=="memnotify", MODE="0666"'


@pytest.mark.parametrize(
    ("files", "state", "found"),
    [
        ({}, WARNING, "copy udev/99-memnotify.rules"),
        (
            {"/usr/lib/udev/rules.d/99-memnotify.rules": f"#\n{OURS}\n"},
            OK,
            "MODE=0666, and the device has it",
        ),
        ({"/etc/udev/rules.d/99-memnotify.rules": OURS.replace(", MODE", ", \\\n  MODE")}, OK, "/etc/udev"),
        ({"/etc/udev/rules.d/50-m.rules": OURS.replace("memnotify", "other|mem*|third")}, OK, "50-m.rules"),
        ({"/etc/udev/rules.d/50-m.rules": OURS.replace("0666", "666")}, OK, "and the device has it"),
        ({"/etc/udev/rules.d/50-m.rules": 'ACTION!="remove", ' + OURS}, OK, "and the device has it"),
        ({"/etc/udev/rules.d/50-m.rules": 'KERNEL!="other", ' + OURS}, OK, "and the device has it"),
        # For other devices, or a comment
        ({"/etc/udev/rules.d/50-m.rules": OURS.replace("cuse", "usb|net")}, WARNING, "no rule"),
        ({"/etc/udev/rules.d/50-m.rules": f"# {OURS}"}, WARNING, "no rule matches /dev/memnotify"),
        ({"/etc/udev/rules.d/50-m.rules": OURS.replace("memnotify", "other")}, WARNING, "no rule"),
        ({"/etc/udev/rules.d/50-m.rules": OURS.replace("==", "!=", 1)}, WARNING, "no rule"),
        ({"/etc/udev/rules.d/50-m.rules": 'ACTION=="remove", ' + OURS}, WARNING, "no rule"),
        ({"/etc/udev/rules.d/50-m.rules": 'KERNEL=="mem*", MODE="0600"'}, WARNING, "no rule"),
        # The last file wins; of two with one name, that in /etc.
        (
            {
                "/usr/lib/udev/rules.d/99-memnotify.rules": OURS,
                "/etc/udev/rules.d/99-memnotify.rules": OURS.replace("0666", "0660"),
            },
            WARNING,
            "MODE=0660, but the device has MODE=0666 -> udevadm",
        ),
        (
            {"/usr/lib/udev/rules.d/99-memnotify.rules": OURS, "/etc/udev/rules.d/99-memnotify.rules": ""},
            WARNING,
            "no rule",
        ),
        (
            {
                "/usr/lib/udev/rules.d/99-memnotify.rules": OURS.replace("0666", "0600"),
                "/etc/udev/rules.d/99-z.rules": OURS,
            },
            OK,
            "99-z.rules",
        ),
        ({"/etc/udev/rules.d/50-m.rules": OURS + ', GROUP="daemon"'}, WARNING, "has GROUP=root"),
    ],
)
def test_udev_rule(machine: Made, files: Mapping[str, str], state: str, found: str) -> None:
    machine.has(DEVICE)
    report(machine, "udev rule", NOT_APPLICABLE)
    machine.make("/run/udev/control")
    for path, text in files.items():
        machine.make(path, text)
    assert found in report(machine, "udev rule", state)


def test_udev_rule_does_not_apply_to_a_mount(machine: Made) -> None:
    machine.make("/run/udev/control")
    machine.make("/proc/self/mountinfo", MOUNT)
    machine.has(Node(0, stat.S_IFREG | 0o666, usable=True))
    report(machine, "udev rule", NOT_APPLICABLE)
    machine.make("/usr/lib/udev/rules.d/99-memnotify.rules", OURS)
    report(machine, "udev rule", NOT_APPLICABLE)
    machine.make("/etc/udev/rules.d/99-memnotify.rules", OURS.replace("0666", "0660"))
    assert "MODE=0660 has no effect" in report(machine, "udev rule", WARNING)


# The daemon


def test_config(machine: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "memnotify.toml"
    monkeypatch.setattr("memnotify.config.files.DEFAULT_FILE", str(file))
    assert f"nothing in {file}: the defaults" in report(machine, "config", OK)
    file.write_text("fill_rate = 5\n")
    assert f"{file}: valid" in report(machine, "config", OK)
    file.write_text("# m\nfill_rat = 5\n")
    assert f"{file}:2: unknown key" in report(machine, "config", FAILED)
    file.write_text('name = "other"\n')
    assert "doctor --path /dev/other" in report(machine, "config", WARNING)
    # The command line of a running daemon names its file.
    machine.servers = [Server(7, STATUS, None, ["memnotify", "serve", "--config", str(tmp_path / "own")])]
    assert "own: No such file" in report(machine, "config", FAILED)
    (tmp_path / "own").touch()
    assert "own: the defaults" in report(machine, "config", OK)
    # A relative path starts at the working directory of the daemon, if this user may see that.
    machine.servers = [Server(7, STATUS, None, ["memnotify", "serve", "--config", "own"])]
    assert "may not see" in report(machine, "config", WARNING)
    machine.run(7)
    (machine.directory / "proc/7/cwd").symlink_to(tmp_path)
    assert "own: the defaults" in report(machine, "config", OK)


@pytest.mark.parametrize(
    ("changed", "state", "found"),
    [
        ({}, OK, "active (running), enabled"),
        ({"LoadState": "not-found"}, WARNING, "not-found -> install"),
        ({"LoadState": "masked"}, WARNING, "systemctl unmask"),
        ({"LoadState": "bad-setting"}, WARNING, "systemd-analyze verify"),
        ({"ActiveState": "failed", "Result": "watchdog"}, FAILED, "watchdog -> journalctl"),
        ({"ActiveState": "activating", "SubState": "auto-restart"}, FAILED, "auto-restart"),
        ({"ActiveState": "reloading", "SubState": "reload"}, OK, "reloading"),
        ({"ActiveState": "inactive", "SubState": "dead"}, WARNING, "systemctl enable --now"),
        ({"UnitFileState": "disabled"}, WARNING, "at boot -> systemctl enable"),
        ({"MainPID": "8"}, WARNING, "process 7 serves the device, not its process 8"),
    ],
)
def test_unit(
    machine: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    changed: dict[str, str],
    state: str,
    found: str,
) -> None:
    report(machine, "unit", NOT_APPLICABLE)
    del machine.unit
    machine.make("/run/systemd/system/x")
    lines = "".join(f"{key}={value}\n" for key, value in (SHOWN | changed).items())
    _command(tmp_path, monkeypatch, "systemctl", f"cat <<'END'\n{lines}END")
    machine.servers = [Server(7, STATUS, None)]
    assert found in report(machine, "unit", state)


def test_unit_of_another_device(tmp_path: Path) -> None:
    report(Machine("other", None, 5.0, str(tmp_path)), "unit", NOT_APPLICABLE)
    report(Machine("memnotify", "/tmp/other", 5.0, str(tmp_path)), "unit", NOT_APPLICABLE)  # noqa: S108 - never opened


def test_systemctl_that_fails(machine: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.make("/run/systemd/system/x")
    _command(tmp_path, monkeypatch, "systemctl", "echo no bus >&2; exit 1")
    assert "no bus" in _examined(machine)["unit"].found
    monkeypatch.setattr("memnotify.cli.doctor.machine._SYSTEMCTL_S", 0.1)
    _command(tmp_path, monkeypatch, "systemctl", "exec sleep 60")
    assert "timed out" in _examined(machine)["unit"].found


def _command(directory: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> None:
    (directory / "bin").mkdir(exist_ok=True)
    (directory / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
    (directory / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}/bin:{os.environ['PATH']}")


MEMINFO = "MemTotal: 8000 kB\nMemFree: 0 kB\nSwapFree: 0 kB\nActive: 0 kB\n"


def _examined(machine: Machine) -> dict[str, Finding]:
    return dict(examine(machine))


def test_daemon(machine: Made) -> None:
    machine.has(Node(errno.ENOENT))
    machine.run(5, "/dev/null", command="memnotify wait used")
    machine.run(6, "/dev/cuse", command="memnotify serve --name other")
    machine.run(7, "/dev/cuse", command="a device of another kind")
    assert "no process serves" in report(machine, "daemon", FAILED)
    machine.has(DEVICE)
    del machine.servers
    assert "container" in report(machine, "daemon", WARNING), "a node that was left behind"
    machine.make("/sys/class/cuse/memnotify/dev", "252:0\n")
    del machine.servers
    assert "process 7 serves it" in report(machine, "daemon", OK)
    del machine.servers
    # Without a name on the command line, the configuration has it.
    machine.run(8, "/dev/null", "/dev/cuse")
    machine.run(9, "/dev/cuse", Name="memnotify-rm")
    assert "process 8 serves it" in report(machine, "daemon", OK)
    del machine.servers
    machine.run(10, "/dev/cuse", command="memnotify serve --path=/dev/memnotify", State="T (stopped)")
    assert "process 8, or one of 10, serves it" in report(machine, "daemon", OK)


def test_daemon_with_the_name_in_its_configuration(machine: Made) -> None:
    machine.has(DEVICE)
    machine.path = "/dev/foo"
    machine.make("/sys/class/cuse/foo/dev", "252:0\n")
    machine.run(7, "/dev/cuse")
    machine.run(8, "/dev/cuse", command="memnotify serve --config /etc/foo.toml")
    assert [server.pid for server in machine.servers] == [7, 8]
    del machine.servers
    machine.path = "/dev/memnotify"
    assert [server.pid for server in machine.servers] == [7], "the other one may be anything"


def test_missing_daemon(machine: Made) -> None:
    machine.has(Node(errno.ENOENT))
    assert "no process serves" in report(machine, "daemon", FAILED)
    report(machine, "privileges", NOT_APPLICABLE)
    report(machine, "locked memory", NOT_APPLICABLE)
    machine.has(DEVICE)
    assert "container" in report(machine, "daemon", WARNING)
    machine.unseen = True
    assert "as root" in report(machine, "daemon", WARNING)


def test_daemon_of_a_mount(machine: Made) -> None:
    machine.make("/proc/self/mountinfo", MOUNT)
    machine.run(5, "/dev/fuse", command="sshfs")
    machine.run(6, "/dev/memnotify", command="memnotify wait used")
    machine.run(7, "/dev/fuse", command="python -c from memnotify.cli import main serve")
    machine.run(8, "/dev/fuse", command="memnotify serve --path /run/other")
    assert [server.pid for server in machine.servers] == [7]


def test_daemon_of_a_mount_that_a_container_has_too(machine: Made) -> None:
    machine.make("/proc/self/mountinfo", MOUNT)
    for pid, namespace in ((6, "mnt:[1]"), (7, "mnt:[2]")):
        machine.run(pid, "/dev/fuse")
        (machine.directory / f"proc/{pid}/ns").mkdir()
        (machine.directory / f"proc/{pid}/ns/mnt").symlink_to(namespace)
    # If no process is in this mount namespace, each may be the server.
    (machine.directory / "proc/self/ns").mkdir()
    (machine.directory / "proc/self/ns/mnt").symlink_to("mnt:[3]")
    assert [server.pid for server in machine.servers] == [6, 7]
    (machine.directory / "proc/self/ns/mnt").unlink()
    (machine.directory / "proc/self/ns/mnt").symlink_to("mnt:[2]")
    del machine.servers
    assert [server.pid for server in machine.servers] == [7]


def test_daemon_of_another_mount_at_the_same_path(machine: Made) -> None:
    """A daemon that sees FUSE files, but not this one, is not taken, in any mount namespace."""
    machine.make("/proc/self/mountinfo", MOUNT)
    for pid in (6, 7):
        machine.run(pid, "/dev/fuse")
    machine.make("/proc/6/mountinfo", OTHER_MOUNT)
    machine.make("/proc/7/mountinfo", MOUNT)
    assert [server.pid for server in machine.servers] == [7]
    machine.make("/proc/7/mountinfo", OTHER_MOUNT)
    del machine.servers
    assert machine.servers == []


def test_daemon_with_hidden_descriptors(machine: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(path: str) -> list[str]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    machine.run(5, "/dev/cuse", command="init")
    machine.run(6, command="another serve")
    machine.run(7, "/dev/cuse")
    machine.run(8, "/dev/cuse", command="memnotify serve --config /etc/other.toml")
    names = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: forbid(path) if path.endswith("/fd") else names(path))
    assert [(server.pid, server.fds) for server in machine.servers] == [(7, None)]
    assert machine.unseen


@pytest.mark.parametrize(
    ("name", "status", "state", "found"),
    [
        ("daemon", {}, OK, "process 7 serves"),
        ("daemon", {"State": "T (stopped)"}, FAILED, "kill -CONT 7"),
        ("privileges", {}, WARNING, "user root"),
        ("privileges", {"Uid": "1\t1\t1\t1"}, OK, "user daemon, capabilities 0, cannot gain"),
        (
            "privileges",
            {"Uid": "1\t1\t1\t1", "CapEff": "0000004001000000", "NoNewPrivs": "0"},
            OK,
            "capabilities 4001000000, may gain",
        ),
        ("locked memory", {}, OK, "92 MiB"),
        ("locked memory", {"VmLck": "       0 kB"}, WARNING, "RLIMIT_MEMLOCK"),
    ],
)
def test_state_of_the_daemon(
    machine: Made, name: str, status: Mapping[str, str], state: str, found: str
) -> None:
    machine.run(7, "/dev/cuse", **status)
    assert found in report(machine, name, state)


# All checks


def test_check_without_permission(machine: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(_: Machine) -> Finding:
        raise PermissionError(errno.EACCES, "Permission denied", "/etc/secret")

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(checks, "CHECKS", {"secret": forbidden})
    assert dict(examine(machine)) == {
        "secret": Finding(
            WARNING,
            "cannot be checked: [Errno 13] Permission denied: '/etc/secret'",
            "run it as root to see that",
        )
    }


@pytest.mark.parametrize(("states", "code"), [((OK, WARNING, NOT_APPLICABLE), 0), ((OK, FAILED), 1)])
def test_json_and_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], states: tuple[str, ...], code: int
) -> None:
    def make(state: str) -> Callable[[Machine], Finding]:
        return lambda _: Finding(state, f"is {state}", "do it" if state == FAILED else "")

    monkeypatch.setattr(checks, "CHECKS", {f"check of {state}": make(state) for state in states})
    assert main(["doctor", "--path", "/nowhere/memnotify"]) == code
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if "check of" in line] == [
        "-" if state == NOT_APPLICABLE else state for state in states
    ]
    assert ("-> do it" in "".join(lines)) == (code == 1)
    assert main(["doctor", "--json", "--path", "/nowhere/memnotify"]) == code
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    result = json.loads(out)
    assert result.pop("version")
    assert result == {
        "path": "/nowhere/memnotify",
        "healthy": code == 0,
        "checks": [
            {
                "name": f"check of {state}",
                "state": state,
                "found": f"is {state}",
                "advice": "do it" if state == FAILED else "",
            }
            for state in states
        ],
    }


def test_an_ordinary_user_has_no_traceback(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        unavailable("to become another user the tests must run as root")
    # Import as root: the modules and the interpreter may lie in directories of root alone.
    code = (
        "import contextlib, io, os, sys; from memnotify.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()): main(sys.argv[1:])\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); sys.exit(main(sys.argv[1:]))"
    )
    command = [PROGRAM[0], "-c", code, "doctor", "--path", str(tmp_path / "none"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert list(found) == list(CHECKS)
    assert found["node"]["state"] == FAILED
