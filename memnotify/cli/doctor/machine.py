# SPDX-License-Identifier: MIT
"""The machine as ``memnotify doctor`` sees it: files, the device, its daemon and clients, the unit."""

import contextlib
import errno
import fnmatch
import os
import re
import socket
import stat
import struct
import subprocess
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from typing import NamedTuple

from memnotify.cli.doctor.probe import Attempt, Step, attempt
from memnotify.kernel.mounts import FUSE_FILE, Mount, canonical_path, read_mounts

UNIT = "memnotify.service"
_UCRED = struct.Struct("3i")
"""pid, uid and gid, as SO_PEERCRED returns them."""
BARE_MODE = 0o200
"""The mode of a mount point on which nothing is mounted (memnotify/transports/fuse.py)."""
_SYSTEMCTL_S = 5.0
# Where poll(2) and select(2) sleep (fs/select.c); the compiler may inline poll_schedule_timeout.
_POLL_WCHANS = ("poll_schedule_timeout", "do_sys_poll", "do_poll", "do_select", "core_sys_select")
# The process that keeps root's rights beside a daemon with --user, with the same command line
# (memnotify/daemon/cleanup.py).
_REMOVER = "memnotify-rm"


class Node(NamedTuple):
    """The file at the device's path."""

    error: int
    """The errno if lstat fails, or open where it is a mount; else 0."""
    mode: int = 0
    uid: int = 0
    gid: int = 0
    device: str = ""
    """MAJOR:MINOR, of a character device."""
    usable: bool = False
    """Whether this user may read and write it."""
    listener_pid: int = 0
    """The process that listens, if it is a socket; 0 if that process is not seen from here."""


class Server(NamedTuple):
    """A process that serves the device."""

    pid: int
    status: Mapping[str, str]
    """/proc/PID/status"""
    fds: Sequence[str] | None
    """The targets of its descriptors; None if this user may not see them."""
    words: Sequence[str] = ()
    """Its command line."""


class Machine:
    """The subject of the checks. Tests pass a directory as ``root``, which precedes every system path."""

    def __init__(self, name: str, path: str | None, timeout_s: float, root: str = "") -> None:
        self.name = name
        self.is_default = path in (None, f"/dev/{name}")
        self.path = canonical_path(path or f"/dev/{name}")
        self.timeout_s = timeout_s
        self._root = root
        self.unseen = False
        """Whether this user may not see the descriptors of some process, which may be the server."""

    def place(self, path: str) -> str:
        """Return the location of a system path."""
        return self._root + path

    def exists(self, path: str) -> bool:
        """Return True if the path exists."""
        return os.path.exists(self.place(path))

    def text(self, path: str) -> str:
        """Return the text of a file. Raises OSError."""
        with open(self.place(path), encoding="utf-8", errors="replace") as file:
            return file.read()

    def files(self, directories: Sequence[str], pattern: str) -> list[str]:
        """Return the files of configuration directories by name; of two with one name the first."""
        found: dict[str, str] = {}
        for directory in directories:
            with contextlib.suppress(FileNotFoundError):
                for name in fnmatch.filter(os.listdir(self.place(directory)), pattern):
                    found.setdefault(name, f"{directory}/{name}")
        return [found[name] for name in sorted(found)]

    def mount(self, path: str) -> Mount | None:
        """Return the topmost mount at a path, None if there is none."""
        mounts = read_mounts(path, self.place("/proc/self/mountinfo"))
        return mounts[-1] if mounts else None

    @cached_property
    def device_mount(self) -> Mount | None:
        """The mount of a device at the path, whether its daemon lives or not."""
        mount = self.mount(self.path)
        return mount if mount and mount.type == FUSE_FILE else None

    @property
    def is_mount(self) -> bool:
        """Whether a device is mounted at the path, whether its daemon lives or not."""
        return self.device_mount is not None

    @cached_property
    def inspection(self) -> Attempt:
        """The attempt to inspect the path, in a child process because the daemon may have to answer."""
        return attempt(self._inspect, self.timeout_s)

    @property
    def node(self) -> Node | None:
        """The file at the path; None if the daemon did not answer in time."""
        return None if self.inspection.result is None else Node(*self.inspection.result)

    @property
    def is_socket(self) -> bool:
        """Whether the path is a socket, such as the daemon's, and not the mount point of a FUSE file."""
        there = self.node
        return there is not None and not self.is_mount and _is_socket(there.mode)

    @property
    def is_device(self) -> bool:
        """Whether the file is a device, or a socket in its place. Any other file must not be written to."""
        there = self.node
        return (
            there is not None
            and not there.error
            and (self.is_mount or self.is_socket or stat.S_ISCHR(there.mode))
        )

    def _inspect(self, step: Step) -> Node:
        path = self.place(self.path)
        try:
            step("stat")
            status = os.lstat(path)
            if self.is_mount:
                # The kernel answers stat from its cache, even if the daemon has ended.
                step("open")
                with contextlib.suppress(PermissionError):
                    os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            usable = os.access(path, os.R_OK | os.W_OK)
            listener_pid = 0
            if _is_socket(status.st_mode) and usable and not self.is_mount:
                step("connect")
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(path)
                    peer = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
                    listener_pid = _UCRED.unpack(peer)[0]
        except OSError as error:
            return Node(error.errno or errno.EIO)
        device = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        return Node(0, status.st_mode, status.st_uid, status.st_gid, device, usable, listener_pid)

    @property
    def _pids(self) -> list[int]:
        return sorted(int(name) for name in os.listdir(self.place("/proc")) if name.isdigit())

    @cached_property
    def servers(self) -> list[Server]:
        """The processes that serve the device, usually one."""
        named: list[Server] = []
        holding: list[Server] = []
        guessed: list[Server] = []
        for pid in self._pids:
            # Each process may end in the meantime.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                server = self._server(pid)
                if server is not None:
                    is_named = self._names_device(server.words)
                    (guessed if server.fds is None else named if is_named else holding).append(server)
        # Several may hold /dev/cuse, each for its own name: without such a device none serves this one.
        may_hold = (
            self.is_mount or self.is_socket or self.node is None or self.exists(f"{self.sysfs_directory}/dev")
        )
        found = named or (holding if may_hold else []) or guessed
        found = [server for server in found if not self._serves_other_mount(server.pid)]
        # A container may have a mount at the same path; a unit in a mount namespace of its own serves here.
        ours = self._namespace("self")
        return [server for server in found if self._namespace(server.pid) == ours] or found

    def _serves_other_mount(self, pid: int) -> bool:
        """Return True if a process sees FUSE files, but not the one at the path."""
        if self.device_mount is None:
            return False
        try:
            mounts = read_mounts(None, self.place(f"/proc/{pid}/mountinfo"))
        except OSError:
            return False
        devices = {mount.device for mount in mounts if mount.type == FUSE_FILE}
        return bool(devices) and self.device_mount.device not in devices

    def _server(self, pid: int) -> Server | None:
        """Return the process if it may serve the device, else None."""
        fds = self._fds(f"/proc/{pid}/fd")
        if fds is not None and not self._serves(pid, set(fds)):
            return None
        words = self.text(f"/proc/{pid}/cmdline").split("\0")
        is_named = self._names_device(words)
        if fds is None and not is_named:
            self.unseen = True
            return None
        lines = self.text(f"/proc/{pid}/status").splitlines()
        status = dict(line.split(":\t", 1) for line in lines)
        is_daemon = "serve" in words
        # Without these options, the daemon's configuration may name this device.
        names_other = not is_named and bool(option(words, "--name") or option(words, "--path"))
        if self.is_socket:
            is_other = not is_daemon  # systemd listens too, for a daemon that it starts
        elif self.is_mount:
            is_other = not is_daemon or names_other  # other FUSE file systems hold /dev/fuse too
        else:
            is_other = is_daemon and names_other
        return None if status.get("Name") == _REMOVER or is_other else Server(pid, status, fds, words)

    def _serves(self, pid: int, fds: AbstractSet[str]) -> bool:
        """Return True if a process with these descriptors may serve the device."""
        if self.is_socket:
            return bool(fds & self._listeners) or (self.node is not None and pid == self.node.listener_pid)
        return ("/dev/fuse" if self.is_mount else "/dev/cuse") in fds

    @cached_property
    def _listeners(self) -> AbstractSet[str]:
        """The sockets that are bound to the path, as descriptors show them.

        The file has those of this network namespace, which is not that of memnotify.service.
        """
        with contextlib.suppress(OSError):
            lines = [line.split(maxsplit=7) for line in self.text("/proc/net/unix").splitlines()]
            return {f"socket:[{words[6]}]" for words in lines if words[7:] == [self.path]}
        return set()

    @property
    def sysfs_directory(self) -> str:
        """The directory of the CUSE device in sysfs, which writes '!' for a slash in a name."""
        return f"/sys/class/cuse/{self.path.removeprefix('/dev/').replace('/', '!')}"

    @cached_property
    def holders(self) -> list[int]:
        """The processes that have the file at the path open, of those whose descriptors this user may see."""
        found = []
        for pid in self._pids:
            # Each process may end in the meantime.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if self.path in (self._fds(f"/proc/{pid}/fd") or ()):
                    found.append(pid)
        return found

    @property
    def pollers(self) -> list[int]:
        """The clients with a thread that sleeps in poll(2) or select(2)."""
        found = []
        # A daemon has the mount point of its own FUSE file open.
        servers = {server.pid for server in self.servers}
        for pid in (pid for pid in self.holders if pid not in servers):
            # epoll_wait(2) sleeps in ep_poll: its wake-up by the freezer asks no daemon.
            with contextlib.suppress(OSError):
                tasks = os.listdir(self.place(f"/proc/{pid}/task"))
                places = [self.text(f"/proc/{pid}/task/{task}/wchan") for task in tasks]
                if any(place.startswith(_POLL_WCHANS) for place in places):
                    found.append(pid)
        return found

    @property
    def removers(self) -> list[int]:
        """The cleanup processes of the servers."""
        found = []
        for server in self.servers:
            with contextlib.suppress(OSError):
                children = self.text(f"/proc/{server.pid}/task/{server.pid}/children").split()
                found += [int(pid) for pid in children if self.text(f"/proc/{pid}/comm").strip() == _REMOVER]
        return found

    @property
    def memory_limit_bytes(self) -> int | None:
        """The lowest limit on the way from the daemon's cgroup (v2), or this process's, to the root."""
        limits = []
        with contextlib.suppress(FileNotFoundError):
            pid = self.servers[0].pid if self.servers else "self"
            group = re.search(r"^0::(/.*)$", self.text(f"/proc/{pid}/cgroup"), re.MULTILINE)
            path = group[1] if group else ""
            while path:
                for name in ("memory.high", "memory.max"):
                    with contextlib.suppress(FileNotFoundError):
                        limits.append(self.text(f"/sys/fs/cgroup{path}/{name}").strip())
                path = os.path.dirname(path) if path != "/" else ""
        return min((int(limit) for limit in limits if limit.isdigit()), default=None)

    def installations(self) -> list[str]:
        """Return the distinct ``memnotify`` programs on PATH, in its order."""
        found: dict[str, str] = {}
        for directory in filter(os.path.isabs, os.environ.get("PATH", os.defpath).split(os.pathsep)):
            program = os.path.join(directory, "memnotify")
            if os.path.isfile(self.place(program)) and os.access(self.place(program), os.X_OK):
                found.setdefault(self.resolve(program), program)
        return list(found.values())

    def resolve(self, path: str) -> str:
        """Return the path without links, to compare two paths."""
        return os.path.realpath(self.place(path))

    def _namespace(self, pid: int | str) -> str:
        with contextlib.suppress(OSError):
            return os.readlink(self.place(f"/proc/{pid}/ns/mnt"))
        return ""

    def _fds(self, directory: str) -> list[str] | None:
        found = []
        try:
            for name in os.listdir(self.place(directory)):
                with contextlib.suppress(FileNotFoundError):
                    found.append(os.readlink(self.place(f"{directory}/{name}")))
        except PermissionError:
            return None
        return found

    def _names_device(self, words: Sequence[str]) -> bool:
        """Return True if a command line serves this device."""
        before = words[: words.index("serve")] if "serve" in words else ()
        # As a program, or in Python.
        if not any("memnotify" in word for word in before):
            return False
        path, name = option(words, "--path"), option(words, "--name")
        if not path and not name and option(words, "--config"):
            return False  # the configuration names it
        return os.path.abspath(path or f"/dev/{name or 'memnotify'}") == self.path

    @cached_property
    def unit(self) -> Mapping[str, str] | None:
        """The unit's properties; None where systemd does not run. Raises OSError."""
        if not self.exists("/run/systemd/system"):
            return None
        properties = "LoadState,UnitFileState,ActiveState,SubState,MainPID,Result,ExecStart"
        try:
            done = subprocess.run(  # noqa: S603 - no argument comes from a user
                ["systemctl", "show", UNIT, f"--property={properties}"],  # noqa: S607 - as a user would
                capture_output=True,
                text=True,
                timeout=_SYSTEMCTL_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), "systemctl") from None
        if done.returncode:
            raise OSError(errno.EIO, done.stderr.strip() or f"it ended with {done.returncode}", "systemctl")
        return dict(line.split("=", 1) for line in done.stdout.splitlines())


def _is_socket(mode: int) -> bool:
    return stat.S_ISSOCK(mode) and stat.S_IMODE(mode) != BARE_MODE


def option(words: Sequence[str], name: str) -> str:
    """Return the value of an option on a command line, empty if it is absent."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == name:
            return following
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return ""
