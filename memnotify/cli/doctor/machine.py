# SPDX-License-Identifier: MIT
"""The machine as ``memnotify doctor`` sees it: files, the device, who serves it, the unit."""

import contextlib
import errno
import fnmatch
import os
import stat
import subprocess
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from memnotify.cli.doctor.probe import Attempt, Step, attempt
from memnotify.kernel.mounts import FUSE_FILE, mounts_at

UNIT = "memnotify.service"
_SYSTEMCTL_S = 5.0
# What stays root beside a daemon that does not, with the same command line (memnotify/daemon/cleanup.py).
_REMOVER = "memnotify-rm"


class Node(NamedTuple):
    """What is at the device's path."""

    error: int
    """The errno if it cannot be looked at, or opened where it is a mount; 0 if it can."""
    mode: int = 0
    uid: int = 0
    gid: int = 0
    device: str = ""
    """MAJOR:MINOR, of a character device."""
    usable: bool = False
    """Whether this user may read and write it."""


class Server(NamedTuple):
    """A process that serves the device."""

    pid: int
    status: Mapping[str, str]
    """/proc/PID/status"""
    fds: Sequence[str] | None
    """What its descriptors are; None if this user may not see them."""
    words: Sequence[str] = ()
    """Its command line."""


class Machine:
    """What the checks look at. ``root`` stands before every path of the system: a directory, in tests."""

    def __init__(self, name: str, path: str | None, timeout_s: float, root: str = "") -> None:
        self.name = name
        self.is_default = path in (None, f"/dev/{name}")
        directory, file = os.path.split(os.path.abspath(path or f"/dev/{name}"))
        self.path = os.path.join(os.path.realpath(directory), file)
        self.timeout_s = timeout_s
        self._root = root
        self.unseen = False
        """Whether a process that may be the server could not be looked into."""

    def place(self, path: str) -> str:
        """Return where a path of the system is."""
        return self._root + path

    def exists(self, path: str) -> bool:
        """Return whether there is something."""
        return os.path.exists(self.place(path))

    def text(self, path: str) -> str:
        """Return what a file says. Raises OSError."""
        with open(self.place(path), encoding="utf-8", errors="replace") as file:
            return file.read()

    def files(self, directories: Sequence[str], pattern: str) -> list[str]:
        """Return the files of configuration directories, by name; of two with the same name the first."""
        found: dict[str, str] = {}
        for directory in directories:
            with contextlib.suppress(FileNotFoundError):
                for name in fnmatch.filter(os.listdir(self.place(directory)), pattern):
                    found.setdefault(name, f"{directory}/{name}")
        return [found[name] for name in sorted(found)]

    @cached_property
    def is_mount(self) -> bool:
        """Whether a device is mounted at the path, its daemon alive or not."""
        return mounts_at(self.path, self.place("/proc/self/mountinfo"))[-1:] == [FUSE_FILE]

    @cached_property
    def looked(self) -> Attempt:
        """The attempt to look at the path, in another process, as that may ask the daemon."""
        return attempt(self._look, self.timeout_s)

    @property
    def node(self) -> Node | None:
        """What is at the path; None if that could not be found out in time."""
        return None if self.looked.result is None else Node(*self.looked.result)

    @property
    def is_device(self) -> bool:
        """Whether it may be used as the device: nothing else is to be written to."""
        return (
            self.node is not None and not self.node.error and (self.is_mount or stat.S_ISCHR(self.node.mode))
        )

    def _look(self, step: Step) -> Node:
        path = self.place(self.path)
        try:
            step("stat")
            status = os.lstat(path)
            if self.is_mount:
                # The kernel answers stat from its cache, whether or not somebody is there to be asked.
                step("open")
                with contextlib.suppress(PermissionError):
                    os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            usable = os.access(path, os.R_OK | os.W_OK)
        except OSError as error:
            return Node(error.errno or errno.EIO)
        device = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        return Node(0, status.st_mode, status.st_uid, status.st_gid, device, usable)

    @cached_property
    def servers(self) -> list[Server]:
        """The processes that serve the device: as a rule there is one."""
        wanted = {"/dev/fuse", self.path} if self.is_mount else {"/dev/cuse"}
        told: list[Server] = []
        holding: list[Server] = []
        guessed: list[Server] = []
        for pid in sorted(int(name) for name in os.listdir(self.place("/proc")) if name.isdigit()):
            # Any of them may end in the meantime.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                fds = self._fds(f"/proc/{pid}/fd")
                if fds is not None and not wanted <= set(fds):
                    continue
                words = self.text(f"/proc/{pid}/cmdline").split("\0")
                is_told = self._is_told(words)
                if fds is None and not is_told:
                    self.unseen = True
                    continue
                lines = self.text(f"/proc/{pid}/status").splitlines()
                status = dict(line.split(":\t", 1) for line in lines)
                # Without --name its configuration may give it this one.
                others = not self.is_mount and "serve" in words and option(words, "--name") and not is_told
                if status.get("Name") == _REMOVER or others:
                    continue
                server = Server(pid, status, fds, words)
                (guessed if fds is None else told if is_told else holding).append(server)
        # Several may hold /dev/cuse, each for a name of its own: where there is no such device none is ours.
        device = self.path.removeprefix("/dev/").replace("/", "!")
        may_hold = self.is_mount or self.node is None or self.exists(f"/sys/class/cuse/{device}/dev")
        found = told or (holding if may_hold else []) or guessed
        # A container may have a mount at the same path. A unit may have mounts of its own, and serve here.
        ours = self._namespace("self")
        return [server for server in found if self._namespace(server.pid) == ours] or found

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

    def _is_told(self, words: Sequence[str]) -> bool:
        """Return whether a command line is that of a process that serves the device."""
        before = words[: words.index("serve")] if "serve" in words else ()
        if "memnotify" not in map(os.path.basename, before):
            return False
        path, name = option(words, "--path"), option(words, "--name")
        if not path and not name and option(words, "--config"):
            return False  # that file says
        return os.path.abspath(path or f"/dev/{name or 'memnotify'}") == self.path

    @cached_property
    def unit(self) -> Mapping[str, str] | None:
        """What systemd says of the unit; None where it does not run. Raises OSError."""
        if not self.exists("/run/systemd/system"):
            return None
        properties = "LoadState,UnitFileState,ActiveState,SubState,MainPID,Result"
        try:
            done = subprocess.run(  # noqa: S603 - no word of it is a user's
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


def option(words: Sequence[str], name: str) -> str:
    """Return the value of an option on a command line, or nothing."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == name:
            return following
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return ""
