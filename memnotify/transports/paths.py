# SPDX-License-Identifier: MIT
"""The directory in which a device or a socket is made: who else may change it, and one of us at a time."""

import fcntl
import logging
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager

from memnotify.transports import TransportError

log = logging.getLogger(__name__)

# Whoever may read a directory may lock it, for ever: among ourselves it takes some ms.
_LOCK_S = 3.0
_LOCK_LOOK_S = 0.02


@contextmanager
def directory_locked(path: str) -> Iterator[None]:
    """Keep others of us from mounting and unmounting in the same directory meanwhile."""
    try:
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise TransportError(f"cannot use {path}: its directory: {error.strerror}") from error
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
            time.sleep(_LOCK_LOOK_S)
        else:
            return


def refuse_foreign_directory(path: str) -> None:
    """Raise TransportError if root is to serve where others could exchange what it mounts on or removes."""
    directory = path
    while os.geteuid() == 0 and directory != "/":
        directory = os.path.dirname(directory)
        try:
            status = os.stat(directory)
        except OSError as error:
            raise TransportError(f"cannot use {path}: its directory: {error.strerror}") from error
        if status.st_uid != 0 or (status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX):
            raise TransportError(
                f"others than root can change {directory}: choose a place for {path} where they cannot,"
                " or start as the directory's owner"
            )
