# SPDX-License-Identifier: MIT
"""What doctor's checks say of machines that are directories; tests/clients and tests/mount have real ones."""

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
MOUNT = "78 49 0:47 / /dev/memnotify rw - fuse.memnotify memnotify rw\n"
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
    """A machine in a directory: what is not made there is not there, and nothing is mounted."""

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
        """Let this be what is found at the path; None where there is no answer."""
        self.looked = Attempt("open", node, 0)

    def run(self, pid: int, *fds: str, command: str = "memnotify serve", **status: str) -> None:
        """Let a process run that has these descriptors open."""
        self.make(f"/proc/{pid}/cmdline", command.replace(" ", "\0") + "\0")
        self.make(
            f"/proc/{pid}/status", "".join(f"{key}:\t{text}\n" for key, text in (STATUS | status).items())
        )
        (self.directory / f"proc/{pid}/fd").mkdir()
        for number, fd in enumerate(fds):
            (self.directory / f"proc/{pid}/fd/{number}").symlink_to(fd)


@pytest.fixture
def machine(tmp_path: Path) -> Made:
    """Return a machine without anything."""
    return Made(tmp_path)


def said(machine: Machine, name: str, state: str) -> str:
    """Do a check, which must end so; return what it says."""
    finding = CHECKS[name](machine)
    assert finding.state == state, finding
    # Who is told of a trouble is told what to do, and nobody else.
    assert bool(finding.advice) == (state in (WARNING, FAILED))
    return f"{finding.found} -> {finding.advice}"


# The program and the kernel


def test_program(machine: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "can be loaded" in said(machine, "program", OK)
    monkeypatch.setitem(sys.modules, "memnotify.transports", None)
    assert "apt install libfuse3" in said(machine, "program", FAILED)


def test_cuse_and_its_module(machine: Made) -> None:
    assert f"{RELEASE} has no CUSE" in said(machine, "cuse", WARNING)
    said(machine, "module", NOT_APPLICABLE)
    machine.make(
        f"/lib/modules/{RELEASE}/modules.dep", "kernel/fs/fuse/cuse.ko.xz: kernel/fs/fuse/fuse.ko.xz\n"
    )
    assert "as a module" in said(machine, "cuse", OK)
    assert "fuse/cuse.ko.xz" in said(machine, "module", WARNING)
    assert "/etc/modules-load.d" in said(machine, "module", WARNING)
    machine.make("/usr/local/lib/modules-load.d/memnotify.conf", "cuse\n")
    assert "/etc/modules-load.d" not in said(machine, "module", WARNING)
    (machine.directory / "usr/local/lib/modules-load.d/memnotify.conf").unlink()
    machine.make("/usr/lib/modules-load.d/memnotify.conf", "# for memnotify\ncuse\n")
    assert "/etc/modules-load.d" not in said(machine, "module", WARNING)
    machine.make("/sys/class/cuse/version")
    assert "/dev/cuse is not there" in said(machine, "module", FAILED)
    machine.make("/dev/cuse")
    assert "/usr/lib/modules-load.d/memnotify.conf" in said(machine, "module", OK)
    # An empty file of the same name in /etc takes its place.
    machine.make("/etc/modules-load.d/memnotify.conf")
    assert "at boot" not in said(machine, "module", OK)


def test_cuse_that_is_built_in(machine: Made) -> None:
    machine.make("/sys/class/cuse/version")
    said(machine, "cuse", OK)
    assert "built in" in said(machine, "module", NOT_APPLICABLE)


def test_fuse(machine: Made) -> None:
    assert "modprobe fuse" in said(machine, "fuse", FAILED)
    machine.make("/dev/cuse")
    said(machine, "fuse", WARNING)
    machine.make("/dev/fuse")
    said(machine, "fuse", OK)


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
def test_what_wakes_the_daemon(machine: Made, name: str, files: list[str], fd: str) -> None:
    assert "CONFIG_" in said(machine, name, WARNING)
    for file in files:
        machine.make(file)
    machine.has(DEVICE)
    assert "the kernel has" in said(machine, name, OK)
    machine.servers = [Server(7, STATUS, ["/dev/cuse"])]
    assert "does not use" in said(machine, name, WARNING)
    machine.servers = [Server(7, STATUS, ["/dev/cuse", fd])]
    assert "wake the daemon" in said(machine, name, OK)
    machine.servers = [Server(7, STATUS, None)]
    assert "the kernel has" in said(machine, name, OK)


# The device


def test_node_of_cuse(machine: Made) -> None:
    machine.has(DEVICE)
    assert "no CUSE device" in said(machine, "node", FAILED)
    machine.make("/sys/class/cuse/memnotify/dev", "252:0\n")
    assert "CUSE device 252:0" in said(machine, "node", OK)
    machine.make("/sys/class/cuse/memnotify/dev", "251:0\n")
    assert "device 252:0, and the one that is served is 251:0" in said(machine, "node", FAILED)


@pytest.mark.parametrize(
    ("node", "found"),
    [
        (Node(errno.ENOENT), "serve"),
        (Node(errno.EACCES), "Permission denied"),
        (Node(0, stat.S_IFREG | 0o644), "a plain file, and no device -> move it away"),
        (Node(0, stat.S_IFREG | 0o200), "a mount point on which nothing is mounted"),
        (Node(0, stat.S_IFDIR | 0o755), "a directory"),
        (Node(0, stat.S_IFLNK | 0o777), "a link"),
        (Node(0, stat.S_IFSOCK | 0o777), "something else"),
    ],
)
def test_node_that_is_none(machine: Made, node: Node, found: str) -> None:
    machine.has(node)
    assert found in said(machine, "node", FAILED)
    said(machine, "permissions", NOT_APPLICABLE)
    # Nothing may be written to it.
    said(machine, "round trip", NOT_APPLICABLE)


@pytest.mark.parametrize(
    ("number", "found"),
    [
        (errno.ENOTCONN, "umount -l /dev/memnotify"),
        (errno.EACCES, "for himself alone"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_node_of_a_mount(machine: Made, monkeypatch: pytest.MonkeyPatch, number: int, found: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    machine.make("/proc/self/mountinfo", MOUNT)
    machine.has(Node(0, stat.S_IFREG | 0o666, usable=True))
    assert "FUSE file" in said(machine, "node", OK)
    machine.has(Node(number))
    assert found in said(machine, "node", FAILED)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "umount -l" not in said(machine, "node", FAILED)


@pytest.mark.parametrize("name", ["node", "round trip"])
def test_a_daemon_that_does_not_answer(machine: Made, name: str) -> None:
    machine.has(None)
    assert "no answer to 'open' within 5 s -> restart" in said(machine, name, FAILED)
    machine.run(7, "/dev/cuse", State="T (stopped)")
    del machine.servers
    assert "kill -CONT 7" in said(machine, name, FAILED)
    machine.looked = Attempt("open", None, 99)
    assert "process 99 hangs" in said(machine, name, FAILED)


@pytest.mark.parametrize(
    ("mode", "usable", "state", "found"),
    [
        (0o666, True, OK, "0666 root:daemon: everybody"),
        (0o660, True, OK, "0660 root:daemon: the group daemon"),
        (0o600, True, WARNING, "nobody but root"),
        (0o600, False, FAILED, "udev rule"),
        (0o660, False, FAILED, "usermod -aG daemon"),
    ],
)
def test_permissions(machine: Made, *, mode: int, usable: bool, state: str, found: str) -> None:
    machine.has(Node(0, stat.S_IFCHR | mode, 0, grp.getgrnam("daemon").gr_gid, "252:0", usable))
    assert found in said(machine, "permissions", state)
    if not usable:
        assert "may not use it" in said(machine, "round trip", NOT_APPLICABLE)


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
        # Of others, or of nobody
        ({"/etc/udev/rules.d/50-m.rules": OURS.replace("cuse", "usb|net")}, WARNING, "no rule"),
        ({"/etc/udev/rules.d/50-m.rules": f"# {OURS}"}, WARNING, "no rule is for /dev/memnotify"),
        ({"/etc/udev/rules.d/50-m.rules": OURS.replace("memnotify", "other")}, WARNING, "no rule"),
        ({"/etc/udev/rules.d/50-m.rules": OURS.replace("==", "!=", 1)}, WARNING, "no rule"),
        ({"/etc/udev/rules.d/50-m.rules": 'ACTION=="remove", ' + OURS}, WARNING, "no rule"),
        ({"/etc/udev/rules.d/50-m.rules": 'KERNEL=="mem*", MODE="0600"'}, WARNING, "no rule"),
        # The last one wins, and /etc before /usr/lib where the names are the same
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
    said(machine, "udev rule", NOT_APPLICABLE)
    machine.make("/run/udev/control")
    for path, text in files.items():
        machine.make(path, text)
    assert found in said(machine, "udev rule", state)


def test_udev_has_no_say_in_a_mount(machine: Made) -> None:
    machine.make("/run/udev/control")
    machine.make("/proc/self/mountinfo", MOUNT)
    machine.has(Node(0, stat.S_IFREG | 0o666, usable=True))
    said(machine, "udev rule", NOT_APPLICABLE)


# The daemon


def test_config(machine: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "memnotify.toml"
    monkeypatch.setattr("memnotify.config.files.DEFAULT_FILE", str(file))
    assert f"nothing in {file}: the defaults" in said(machine, "config", OK)
    file.write_text("fill_rate = 5\n")
    assert f"{file}: good" in said(machine, "config", OK)
    file.write_text("# m\nfill_rat = 5\n")
    assert f"{file}:2: unknown key" in said(machine, "config", FAILED)
    file.write_text('name = "other"\n')
    assert "doctor --path /dev/other" in said(machine, "config", WARNING)
    # A daemon that runs has told what it reads.
    machine.servers = [Server(7, STATUS, None, ["memnotify", "serve", "--config", str(tmp_path / "own")])]
    assert "own: No such file" in said(machine, "config", FAILED)
    (tmp_path / "own").touch()
    assert "own: the defaults" in said(machine, "config", OK)
    # From its own directory on, if that may be seen.
    machine.servers = [Server(7, STATUS, None, ["memnotify", "serve", "--config", "own"])]
    assert "may not see" in said(machine, "config", WARNING)
    machine.run(7)
    (machine.directory / "proc/7/cwd").symlink_to(tmp_path)
    assert "own: the defaults" in said(machine, "config", OK)


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
        ({"MainPID": "8"}, WARNING, "process 7 serves the device, and not its process 8"),
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
    said(machine, "unit", NOT_APPLICABLE)
    del machine.unit
    machine.make("/run/systemd/system/x")
    lines = "".join(f"{key}={value}\n" for key, value in (SHOWN | changed).items())
    _command(tmp_path, monkeypatch, "systemctl", f"cat <<'END'\n{lines}END")
    machine.servers = [Server(7, STATUS, None)]
    assert found in said(machine, "unit", state)


def test_unit_of_another_device(tmp_path: Path) -> None:
    said(Machine("other", None, 5.0, str(tmp_path)), "unit", NOT_APPLICABLE)
    said(Machine("memnotify", "/tmp/other", 5.0, str(tmp_path)), "unit", NOT_APPLICABLE)  # noqa: S108 - never opened


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


def _examined(machine: Machine) -> dict[str, Finding]:
    return dict(examine(machine))


def test_daemon(machine: Made) -> None:
    machine.has(Node(errno.ENOENT))
    machine.run(5, "/dev/null", command="memnotify wait used")
    machine.run(6, "/dev/cuse", command="memnotify serve --name other")
    machine.run(7, "/dev/cuse", command="a device of another kind")
    assert "nobody serves" in said(machine, "daemon", FAILED)
    machine.has(DEVICE)
    del machine.servers
    assert "container" in said(machine, "daemon", WARNING), "a node that was left behind"
    machine.make("/sys/class/cuse/memnotify/dev", "252:0\n")
    del machine.servers
    assert "process 7 serves it" in said(machine, "daemon", OK)
    del machine.servers
    # What the command line does not say stands in a configuration.
    machine.run(8, "/dev/null", "/dev/cuse")
    machine.run(9, "/dev/cuse", Name="memnotify-rm")
    assert "process 8 serves it" in said(machine, "daemon", OK)
    del machine.servers
    machine.run(10, "/dev/cuse", command="memnotify serve --path=/dev/memnotify", State="T (stopped)")
    assert "process 8, or one of 10, serves it" in said(machine, "daemon", OK)


def test_daemon_whose_name_only_its_file_knows(machine: Made) -> None:
    machine.has(DEVICE)
    machine.path = "/dev/foo"
    machine.make("/sys/class/cuse/foo/dev", "252:0\n")
    machine.run(7, "/dev/cuse")
    machine.run(8, "/dev/cuse", command="memnotify serve --config /etc/foo.toml")
    assert [server.pid for server in machine.servers] == [7, 8]
    del machine.servers
    machine.path = "/dev/memnotify"
    assert [server.pid for server in machine.servers] == [7], "the other one may be anything"


def test_daemon_that_is_not_there(machine: Made) -> None:
    machine.has(Node(errno.ENOENT))
    assert "nobody serves" in said(machine, "daemon", FAILED)
    said(machine, "privileges", NOT_APPLICABLE)
    said(machine, "locked memory", NOT_APPLICABLE)
    machine.has(DEVICE)
    assert "container" in said(machine, "daemon", WARNING)
    machine.unseen = True
    assert "as root" in said(machine, "daemon", WARNING)


def test_daemon_of_a_mount(machine: Made) -> None:
    machine.make("/proc/self/mountinfo", MOUNT)
    machine.run(5, "/dev/fuse", "/home/me/there", command="sshfs")
    machine.run(6, "/dev/memnotify", command="memnotify wait used")
    machine.run(7, "/dev/fuse", "/dev/memnotify", command="python -c from memnotify.cli import main")
    assert [server.pid for server in machine.servers] == [7]


def test_daemon_of_a_mount_that_a_container_has_too(machine: Made) -> None:
    machine.make("/proc/self/mountinfo", MOUNT)
    for pid, namespace in ((6, "mnt:[1]"), (7, "mnt:[2]")):
        machine.run(pid, "/dev/fuse", "/dev/memnotify")
        (machine.directory / f"proc/{pid}/ns").mkdir()
        (machine.directory / f"proc/{pid}/ns/mnt").symlink_to(namespace)
    # None of them is known to be ours: then each may be.
    (machine.directory / "proc/self/ns").mkdir()
    (machine.directory / "proc/self/ns/mnt").symlink_to("mnt:[3]")
    assert [server.pid for server in machine.servers] == [6, 7]
    (machine.directory / "proc/self/ns/mnt").unlink()
    (machine.directory / "proc/self/ns/mnt").symlink_to("mnt:[2]")
    del machine.servers
    assert [server.pid for server in machine.servers] == [7]


def test_daemon_of_which_only_the_command_line_is_seen(
    machine: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
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
def test_what_the_daemon_is(
    machine: Made, name: str, status: Mapping[str, str], state: str, found: str
) -> None:
    machine.run(7, "/dev/cuse", **status)
    assert found in said(machine, name, state)


# All of it


def test_a_check_that_may_not_look_says_so(machine: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(_: Machine) -> Finding:
        raise PermissionError(errno.EACCES, "Permission denied", "/etc/secret")

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(checks, "CHECKS", {"secret": forbidden})
    assert dict(examine(machine)) == {
        "secret": Finding(
            WARNING,
            "cannot be looked at: [Errno 13] Permission denied: '/etc/secret'",
            "run it as root to look at that",
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
    told = json.loads(out)
    assert told.pop("version")
    assert told == {
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
    # What is imported, and what is run, may lie where only root may look.
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
