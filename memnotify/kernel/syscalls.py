# SPDX-License-Identifier: MIT
"""System calls that Python does not offer."""

import os
import resource
from collections.abc import Collection
from contextlib import suppress
from typing import NamedTuple, NoReturn

from memnotify._shim import ffi, lib

CAP_DAC_OVERRIDE = 1  # linux/capability.h
_CAP_IPC_LOCK = 14
CAP_SYS_ADMIN = 21
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000  # linux/sched.h
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_SLAVE = 2, 4, 4096, 16384, 1 << 19  # linux/mount.h
# With a higher limit, one user alone could make the daemon use up memory by connections to its socket.
_DESCRIPTORS_MAX = 16_384
OUT_OF_MEMORY: int = lib.SYSTEM_OUT_OF_MEMORY
"""The exit code of a daemon that had no memory left."""
_TRACEFS = "/sys/kernel/tracing"
_OOM_SCORE_ADJ = "/proc/self/oom_score_adj"


def lock_memory(*, stays_root: bool = True) -> bool:
    """Lock this process's memory, now and later, so that it can serve when memory is short.

    Return False if that is not permitted. Below a limit (RLIMIT_MEMLOCK) each later mmap could fail. So the
    limit must be unlimited, unless the process keeps CAP_IPC_LOCK (``stays_root``).
    """
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, unlimited)
    if resource.getrlimit(resource.RLIMIT_MEMLOCK) != unlimited and not (
        stays_root and int(process_status()["CapEff"], 16) >> _CAP_IPC_LOCK & 1
    ):
        return False
    return lib.system_lock_memory() == 0  # type: ignore[no-any-return]  # cffi's


def lower_oom_score(wanted: int) -> int:
    """Make this process's oom_score_adj ``wanted`` if it is higher and may be lowered; return what it is.

    0, the kernel's default, if it cannot be read.
    """
    now = 0
    # A process that became another user has no right to its own file. Without CAP_SYS_RESOURCE the value may
    # only be raised (fs/proc/base.c:__set_oom_adj). A container may mask the file.
    with suppress(OSError, ValueError):
        with open(_OOM_SCORE_ADJ, "rb") as file:
            now = int(file.read())
        if now > wanted:
            with open(_OOM_SCORE_ADJ, "wb", buffering=0) as file:
                file.write(b"%d" % wanted)
            now = wanted
    return now


def avoid_huge_pages() -> None:
    """Disable transparent huge pages for this process.

    If they are enabled for all memory, khugepaged turned 140 KiB into 2 MiB within seconds (Linux 6.1).
    """
    lib.system_no_huge_pages()


def trim_memory() -> None:
    """Give memory that was freed back to the kernel; malloc keeps it otherwise."""
    lib.system_trim_memory()


def end_without_memory() -> NoReturn:
    """End this process at once with OUT_OF_MEMORY, after one line on stderr.

    After a MemoryError a structure may be damaged: an entry added to a set whose resize failed is looked for
    without an end (Objects/setobject.c, Python 3.11). Any thread; allocates nothing.
    """
    lib.system_end_without_memory()
    raise AssertionError  # it does not return


def process_status() -> dict[str, str]:
    """Return the fields of /proc/self/status (proc_pid_status(5))."""
    with open("/proc/self/status", encoding="utf-8", errors="replace") as status:
        pairs = (line.split(":", 1) for line in status)
        return {name: value.strip() for name, value in pairs}


def limit_capabilities(kept: int = 0) -> None:
    """Limit the capabilities that this thread and its children can gain to ``kept``, bits 1 << CAP_....

    Those that it has stay. Raises OSError: PermissionError without CAP_SETPCAP.
    """
    _checked(lib.system_limit_capabilities(kept))


def keep_capabilities(kept: int = 0) -> None:
    """Give up this thread's capabilities except ``kept``. Raises OSError."""
    _checked(lib.system_keep_capabilities(kept))


def forbid_new_privileges() -> None:
    """Prevent this thread from gaining privileges by executing a program. Raises OSError."""
    _checked(lib.system_no_new_privileges())


def unshare(flags: int) -> None:
    """Give this process the namespaces of its own that ``flags`` name, CLONE_NEW... Raises OSError."""
    _checked(lib.system_unshare(flags))


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Mount a file system, or bind a part of one, as ``flags`` say. Raises OSError."""
    words = (os.fsencode(word) for word in (source, target, kind))
    _checked(lib.system_mount(*words, flags, os.fsencode(data)))


def set_timer_slack(slack_s: float) -> None:
    """Let the kernel end the calling thread's timed sleeps up to ``slack_s`` late, with other wake-ups.

    0 restores the thread's default, usually 50 us (prctl(2), PR_SET_TIMERSLACK).
    """
    lib.system_timer_slack(round(slack_s * 1e9))


def signal_fd(signals: Collection[int]) -> int:
    """Return a descriptor that polls POLLIN while one of the signals, which must be blocked, is pending.

    Raises OSError.
    """
    return _checked(lib.system_signal_fd(list(signals), len(signals)))


class FileWatches:
    """Notices writes to files, even with the same content; ``fileno`` polls POLLIN then (inotify(7))."""

    def __init__(self) -> None:
        """Watch no file yet. Raises OSError: the number of these is limited for each user."""
        self._fd = _checked(lib.system_watches())

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._fd

    def add(self, path: str) -> int:
        """Watch a file; return its watch, the same one for the same file. Raises OSError."""
        return _checked(lib.system_watch(self._fd, os.fsencode(path)))

    def remove(self, watch: int) -> None:
        """End a watch, which has ended by itself if its file is gone."""
        lib.system_unwatch(self._fd, watch)

    def read(self) -> set[int]:
        """Return the watches of the files that were written to since; -1 for any that may be missing."""
        found: set[int] = set()
        with suppress(BlockingIOError):
            while True:
                # The watch is the first of four numbers, and a watch of a file has no name after them.
                found.update(memoryview(os.read(self._fd, 4096)).cast("i")[::4])
        return found

    def close(self) -> None:
        """Close the descriptor, and so end all watches."""
        os.close(self._fd)


def raise_fd_limit() -> None:
    """Raise this process's limit of descriptors as far as permitted, up to _DESCRIPTORS_MAX."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, _DESCRIPTORS_MAX)), hard))


class Tracepoint(NamedTuple):
    """One of the kernel's tracepoints."""

    number: int
    has_order: bool
    """Whether a condition may refer to its ``order``."""


def tracepoint(name: str, tracefs: str = _TRACEFS) -> Tracepoint:
    """Return a tracepoint such as ``kmem/mm_page_alloc``.

    If tracefs is not mounted, read it without mounting it anywhere. Raises OSError: FileNotFoundError if the
    kernel has no such tracepoint, PermissionError without CAP_SYS_ADMIN.
    """
    path = f"events/{name}"
    try:
        directory = os.open(f"{tracefs}/{path}", os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        root = _checked(lib.system_tracefs())
        try:
            directory = os.open(path, os.O_PATH | os.O_CLOEXEC, dir_fd=root)
        finally:
            os.close(root)
    try:
        number, fields = (_read(file, directory) for file in ("id", "format"))
    finally:
        os.close(directory)
    return Tracepoint(int(number), has_order=b" order;" in fields)


def hold_tracepoint(number: int) -> int:
    """Return a descriptor that counts nothing; while any process has it open, the tracepoint is in use.

    Raises OSError as TracepointCounter does.
    """
    return _checked(lib.system_hold_tracepoint(number, min(os.sched_getaffinity(0))))


class TracepointCounter:
    """Counts on one CPU how often the kernel passes a tracepoint; polls POLLIN each time a number is reached.

    ``condition`` restricts it by the tracepoint's fields, as in ``order==0``; empty, all count. The
    poll that sees POLLIN consumes it. If ``polled`` is given, a counter of the same CPU, that one polls
    POLLIN for both: it saves 8 KiB of resident memory. Raises OSError: PermissionError without
    CAP_PERFMON, ENODEV for a CPU that is not there.
    """

    def __init__(
        self, tracepoint: int, condition: str, cpu: int, polled: "TracepointCounter | None" = None
    ) -> None:
        """Begin with nothing armed."""
        error = ffi.new("int *")
        polled_fd = polled.fileno() if polled else -1
        self._counter = lib.counter_new(tracepoint, os.fsencode(condition), cpu, polled_fd, error)
        if self._counter == ffi.NULL:
            raise OSError(error[0], os.strerror(error[0]))

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return lib.counter_fd(self._counter)  # type: ignore[no-any-return]  # cffi's

    def arm(self, events: int) -> None:
        """Count from now on, to ``events`` and each time to as many again; 0 stops. Raises OSError."""
        _checked(lib.counter_arm(self._counter, events))

    def close(self) -> None:
        """End it, once."""
        lib.counter_free(self._counter)
        self._counter = ffi.NULL


def _read(file: str, directory: int) -> bytes:
    with open(os.open(file, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory), "rb") as opened:
        return opened.read()


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result
