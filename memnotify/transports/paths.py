# SPDX-License-Identifier: MIT
"""The directories that hold devices and sockets: which are trusted, and their lock."""

import fcntl
import logging
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager

from memnotify.transports import TransportError

log = logging.getLogger(__name__)

# Any process that may read a directory may lock it for any time; a daemon needs some ms.
_LOCK_S = 3.0
_LOCK_RETRY_S = 0.02


@contextmanager
def directory_locked(path: str) -> Iterator[None]:
    """Prevent other daemons from mounting and unmounting in the directory of ``path``.

    If another process holds the lock for too long, go on without it. Raises TransportError.
    """
    try:
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _cannot_use_directory(path, error) from error
    try:
        _lock(directory, path)
        yield
    finally:
        os.close(directory)


def _lock(directory: int, path: str) -> None:
    due_s = time.monotonic() + _LOCK_S
    while True:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > due_s:
                log.warning("%s: its directory is locked by another process: going on without a lock", path)
                return
            time.sleep(_LOCK_RETRY_S)
        else:
            return


def refuse_untrusted_directory(path: str) -> None:
    """Raise TransportError if this is root and another user could replace ``path`` or a directory above it.

    With a link in its place, that user could make root mount on another file, or remove one.
    """
    directory = path
    while os.geteuid() == 0 and directory != "/":
        directory = os.path.dirname(directory)
        try:
            status = os.stat(directory)
        except OSError as error:
            raise _cannot_use_directory(path, error) from error
        if not belongs_to_root(status) or (status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX):
            raise TransportError(
                f"other users than root can change {directory}: choose a directory for {path} that only root"
                " can change, or start as the directory's owner"
            )


def belongs_to_root(status: os.stat_result) -> bool:
    """Return True if the owner is root, or is not mapped in this user namespace, as the real root.

    stat(2) shows an owner that is not mapped as the overflow uid (user_namespaces(7)).
    """
    if status.st_uid == 0:
        return True
    with open("/proc/sys/kernel/overflowuid", encoding="utf-8") as overflow:
        if status.st_uid != int(overflow.read()):
            return False
    with open("/proc/self/uid_map", encoding="utf-8") as uid_map:
        ranges = [tuple(map(int, line.split())) for line in uid_map]
    return not any(first <= status.st_uid < first + count for first, _, count in ranges)


def _cannot_use_directory(path: str, error: OSError) -> TransportError:
    return TransportError(f"cannot use {path}: its directory: {error.strerror}")
