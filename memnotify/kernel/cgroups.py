# SPDX-License-Identifier: MIT
"""A process's cgroup (v2), its limit, and its memory that the kernel cannot drop."""

import errno
import os
import re
from collections.abc import Collection, Sequence
from contextlib import suppress

from memnotify.abi.figures import PAGE_SIZE
from memnotify.kernel.mounts import mount_points

_DROPPABLE = re.compile(rb"^(?:active_file|inactive_file|slab_reclaimable) ([0-9]+)$", re.MULTILINE)
_DROPPABLE_FIELDS = 3
_OWN = re.compile(rb"^0::(/.*)$", re.MULTILINE)
# Each CPU charges a batch in advance (mm/memcontrol.c:MEMCG_CHARGE_BATCH).
_STILL_PAGES = 64 * (os.cpu_count() or 1)
_ATTEMPTS = 4
_LIMITS = ("memory.high", "memory.max")


class CgroupUnavailableError(OSError):
    """The cgroup of a process cannot be read; errno is always EOPNOTSUPP."""

    def __init__(self, text: str) -> None:
        super().__init__(errno.EOPNOTSUPP, text)


class CgroupGoneError(OSError):
    """The cgroup was removed, or has no memory controller any more."""


class Cgroup:
    """A cgroup with a memory controller, held by descriptors: a later one of the same name is another one.

    Two descriptors stay open until the object is freed, so a reading in another thread cannot lose them.
    Readings raise CgroupGoneError, or OSError if the kernel has no memory for them.
    """

    def __init__(self, directory: int) -> None:
        """Take over the descriptor of its directory. Raises OSError if it has no memory controller."""
        self._directory = directory
        self._current = -1
        self._value_pages = 0
        self._current = self._open("memory.current")
        # A new directory has a new number (fs/kernfs/dir.c:__kernfs_new_node, 64 bits).
        self.key = os.fstat(directory).st_ino

    def __del__(self) -> None:
        """Close the descriptors."""
        for fd in (self._current, self._directory):
            if fd >= 0:
                os.close(fd)

    def read_current(self) -> int:
        """Return its pages, with those that the kernel can drop: an upper bound. Costs one read."""
        try:
            return int(os.pread(self._current, 32, 0)) // PAGE_SIZE
        except OSError as error:
            raise _gone_or(error) from error

    def read_limit(self) -> int | None:
        """Return the lower of memory.high and memory.max in pages, None if there is none."""
        limits = [text for name in _LIMITS if (text := self._read(name)) != b"max\n"]
        return min(map(int, limits)) // PAGE_SIZE if limits else None

    def limit_files(self) -> Sequence[str]:
        """Return paths of the files with its limits, valid as long as the object."""
        return [f"/proc/self/fd/{self._directory}/{name}" for name in _LIMITS]

    def read_exact(self) -> int:
        """Return its pages without those that the kernel can drop.

        memory.current and memory.stat are not of one moment, so this is repeated until memory.current stays
        within a batch. If that fails, return the possible value nearest to the last one: an uncertain
        movement must not cross a threshold.
        """
        after = self.read_current()
        for _ in range(_ATTEMPTS):
            before = after
            found = _DROPPABLE.findall(self._read("memory.stat"))
            if len(found) != _DROPPABLE_FIELDS:
                raise OSError(errno.EIO, "memory.stat lacks a field")
            droppable_pages = sum(map(int, found)) // PAGE_SIZE
            after = self.read_current()
            if abs(after - before) <= _STILL_PAGES:
                break
        low, high = sorted((max(0, before - droppable_pages), max(0, after - droppable_pages)))
        self._value_pages = max(low, min(self._value_pages, high))
        return self._value_pages

    def _read(self, name: str) -> bytes:
        # Opened for each reading: the kernel keeps a page for each such file that was read (fs/seq_file.c).
        fd = self._open(name)
        try:
            return os.pread(fd, 16384, 0)
        except OSError as error:
            raise _gone_or(error) from error
        finally:
            os.close(fd)

    def _open(self, name: str) -> int:
        try:
            return os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory)
        except OSError as error:
            raise _gone_or(error) from error


class RemovedCgroup:
    """A cgroup that was removed, of which only its number is known."""

    def __init__(self, key: int) -> None:
        self.key = key

    def read_current(self) -> int:
        """Raise CgroupGoneError."""
        raise CgroupGoneError(errno.ENODEV, "removed")

    def read_limit(self) -> int | None:
        """Raise CgroupGoneError."""
        raise CgroupGoneError(errno.ENODEV, "removed")

    read_exact = read_current

    def limit_files(self) -> Sequence[str]:
        """Return none."""
        return ()


def find_by_number(numbers: Collection[int], proc: str = "/proc") -> list[Cgroup | RemovedCgroup]:
    """Return the cgroups with these numbers (their ``key``)."""
    wanted = set(numbers)
    found: list[Cgroup | RemovedCgroup] = []
    directories = list(mount_points("cgroup2", os.path.join(proc, "self/mountinfo")))[:1]
    while directories and wanted:
        directory = directories.pop()
        with suppress(OSError), os.scandir(directory) as entries:
            directories += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
            group = _open_group(directory) if os.stat(directory).st_ino in wanted else None
            if group is not None:
                wanted.discard(group.key)
                found.append(group)
    return found + [RemovedCgroup(number) for number in wanted]


def find_cgroup(pid: int, proc: str = "/proc") -> Cgroup | None:
    """Return the cgroup for a process's thresholds; None if that is the root.

    Among those with a memory controller: the process's own if it has a limit, otherwise the nearest one above
    with a limit, otherwise its own. ``pid`` may be a thread's; 0 means a process of another pid namespace.
    Raises CgroupUnavailableError.
    """
    mount = next(iter(mount_points("cgroup2", os.path.join(proc, "self/mountinfo"))), None)
    if mount is None:
        raise CgroupUnavailableError("there is no cgroup v2 on this machine")
    path = _path(pid, proc)
    own = None
    while True:
        found = _open_group(mount + path)
        own = own or found
        if found is not None and _is_limited(found):
            return found
        if path in ("", "/"):
            break
        path = path.rpartition("/")[0]
    if own is None and b"memory" not in _controllers(mount):
        raise CgroupUnavailableError("cgroup v2 has no memory controller on this machine")
    return own


def _path(pid: int, proc: str) -> str:
    """Return a process's path below the mount of cgroup v2, from its slash. Raises CgroupUnavailableError."""
    if pid <= 0:
        raise CgroupUnavailableError("the process that writes is in another pid namespace")
    try:
        with open(os.path.join(proc, str(pid), "cgroup"), "rb") as file:
            own = _OWN.search(file.read())
    except OSError as error:
        why = f"the cgroup of process {pid} cannot be seen: {error.strerror}"
        raise CgroupUnavailableError(why) from error
    if own is None:
        raise CgroupUnavailableError(f"process {pid} is in no cgroup v2")
    path = os.fsdecode(own[1])
    if path.startswith("/..") or path.endswith(" (deleted)"):
        raise CgroupUnavailableError(f"the cgroup of process {pid} cannot be seen: it is {path}")
    return path


def _open_group(path: str) -> Cgroup | None:
    """Return a cgroup if it has a memory controller. Raises CgroupUnavailableError if it cannot be opened."""
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise CgroupUnavailableError(f"{path} cannot be opened: {error.strerror}") from error
    try:
        return Cgroup(directory)
    except CgroupGoneError:
        return None


def _is_limited(group: Cgroup) -> bool:
    try:
        return group.read_limit() is not None
    except OSError as error:
        raise CgroupUnavailableError(f"a cgroup cannot be read: {error.strerror}") from error


def _controllers(mount: str) -> list[bytes]:
    try:
        with open(os.path.join(mount, "cgroup.controllers"), "rb") as file:
            return file.read().split()
    except OSError:
        return []


def _gone_or(error: OSError) -> OSError:
    """Return CgroupGoneError if the error means that, otherwise the error."""
    if error.errno in (errno.ENODEV, errno.ENOENT):
        return CgroupGoneError(error.errno, error.strerror)
    return error
