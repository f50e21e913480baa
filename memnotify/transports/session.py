# SPDX-License-Identifier: MIT
"""A binding of CUSE and of one-file FUSE mounts: the request loop over one descriptor.

It hands requests to an Operations object and replies with what that returns. Only this module and
kernel.syscalls import the compiled shim.
"""

import errno
import logging
import os
from array import array
from collections.abc import Callable
from itertools import count
from types import TracebackType
from typing import Any, Protocol, Self

from memnotify._shim import ffi, lib
from memnotify.kernel.syscalls import end_without_memory
from memnotify.logs import LIMITED

log = logging.getLogger(__name__)


class Operations(Protocol):
    """What a device does. Called from the thread that serves, one call at a time.

    OSError refuses a request with its errno; MemoryError ends the process; any other exception is logged and
    answered EIO. No method may wait: until the reply its client cannot be killed.
    """

    def open(self, opener: int, /) -> int:
        """Return the new open file's number, fh: positive and not in use.

        ``opener`` is the process's pid, 0 if it is not known, in the bits above 32, its user below.
        """

    def read(self, fh: int, /) -> bytes:
        """Return the bytes to read; a client with a shorter buffer gets the first of them."""

    def write(self, fh: int, data: bytes, pid: int, /) -> int:
        """Return how many bytes were taken; ``pid`` is the writer's, 0 if it is not known here."""

    def poll(self, fh: int, events: int, handle: int, /) -> int:
        """Return the revents.

        ``handle``, if not 0, wakes the clients that wait on this open file, by Session.notify, until its
        release. ENOSYS would switch poll off for every file of the connection.
        """

    def give_back(self, fh: int, /) -> int:
        """Undo the acknowledgement of the last read or poll: its reply has failed.

        Return the handle by which to notify the clients that wait, or 0.
        """

    def release(self, fh: int, /) -> int:
        """Forget the open file; the result has no meaning."""


class Session:
    """One connection with the FUSE protocol, over the descriptor to which it is attached.

    Life: ``attach``, ``handshake`` or ``resume``, ``serve`` until it returns, ``close``. Threads: ``notify``
    and ``interrupt`` may be called from any thread until ``close``; of the others one runs at a time.
    """

    def __init__(self, operations: Operations, new_shim: Callable[[int], Any]) -> None:
        """Serve ``operations``; the two constructors below say how."""
        self.operations = operations
        self._number = next(_numbers)
        self._shim = new_shim(self._number)
        if self._shim == ffi.NULL:
            raise OSError(errno.EINVAL, "libfuse3 refused the session, see its message above")
        _sessions[self._number] = self
        self._kept: Any = None
        self._reply = lib.shim_reply(self._shim)
        self.replied: bytes | None = None
        """The content of the shim's reply buffer: the same bytes again need not be copied."""
        self.unmounts = True
        """False if ``close`` must not unmount: the mount is gone, and another one may be in its place."""

    @classmethod
    def cuse(cls, name: str, operations: Operations) -> Self:
        """Return a session that will register the character device ``name`` (at most 240 bytes)."""
        return cls(operations, lambda number: lib.shim_new_cuse(os.fsencode(name), number))

    @classmethod
    def file(cls, operations: Operations, *, mode: int, mount_options: str) -> Self:
        """Return a session for a mount whose root is one regular file with the permissions ``mode``."""
        options = os.fsencode(mount_options)
        return cls(operations, lambda number: lib.shim_new_file(options, mode, number))

    def attach(self, where: str) -> None:
        """Mount at ``where``, or take over an open descriptor given as ``/dev/fd/N``.

        Raises OSError if that fails; libfuse has then written the reason to stderr.
        """
        if lib.shim_attach(self._shim, os.fsencode(where)) != 0:
            raise OSError(errno.EIO, "libfuse3 could not attach, see its message above", where)

    def handshake(self) -> None:
        """Serve until the connection is initialised.

        Raises ConnectionRefusedError if the kernel did not make the device, OSError if the connection ended.
        """
        self._check(lib.shim_handshake(self._shim))

    @property
    def first_request(self) -> bytes:
        """The request that initialised the connection; only valid just after ``handshake``."""
        size = ffi.new("size_t *")
        data = lib.shim_request(self._shim, size)
        return ffi.unpack(data, size[0])  # type: ignore[no-any-return]  # cffi's

    def resume(self, first_request: bytes) -> None:
        """Take over the attached connection from an earlier process, whose first request this was.

        Raises OSError if libfuse does not understand the request.
        """
        self._check(lib.shim_resume(self._shim, first_request, len(first_request)))

    def keep(self, words: memoryview) -> None:
        """Keep in ``words`` what outlives the process, and take over what is there (see shim.h)."""
        self._kept = ffi.from_buffer("struct shim_kept *", words, require_writable=True)
        lib.shim_keep(self._shim, self._kept)

    def fileno(self) -> int:
        """Return the descriptor of the connection."""
        return lib.shim_fd(self._shim)  # type: ignore[no-any-return]  # cffi's

    def serve(self) -> bool:
        """Serve until ``interrupt`` (True) or until the other side ends the connection (False).

        Raises OSError if the descriptor fails.
        """
        result = lib.shim_serve(self._shim)
        if result != -errno.EINTR:
            self._check(result)
        return bool(result)

    def interrupt(self) -> None:
        """Let ``serve`` return, or its next call if none is running. Any thread, until ``close``."""
        lib.shim_interrupt(self._shim)

    def notify(self, handles: "array[int]", count: int) -> None:
        """Wake the clients that wait by the first ``count`` handles. One C call, no GIL. Any thread."""
        lib.shim_notify(self._shim, ffi.from_buffer("uint64_t[]", handles), count)

    def close(self) -> None:
        """End the connection; unmount what ``attach`` mounted, if this process is still the same user."""
        if self._shim != ffi.NULL:
            lib.shim_destroy(self._shim, self.unmounts)
            self._shim = ffi.NULL
            del _sessions[self._number]
            # Now: Python 3.11 may crash where its collector clears a memoryview that is exported (gh-77894).
            self._kept = None

    def reply(self, data: bytes) -> None:
        """Copy the reply to a read into the shim's buffer."""
        ffi.memmove(self._reply, data, min(len(data), lib.SHIM_REPLY_MAX))
        self.replied = data

    @staticmethod
    def _check(result: int) -> None:
        if result < 0:
            raise OSError(-result, os.strerror(-result))


# By the number that C has instead of a pointer: for that, cffi would make an object at each request.
_sessions: dict[int, Session] = {}
_numbers = count()


def _refusal(_type: type[BaseException], error: BaseException, trace: TracebackType) -> int:
    """Turn a callback's exception into its answer."""
    if isinstance(error, MemoryError):
        end_without_memory()
    if isinstance(error, OSError) and error.errno and error.errno != errno.ENOSYS:
        return -error.errno
    log.error("a request failed", exc_info=(type(error), error, trace), extra=LIMITED)
    return -errno.EIO


def _callback(function: Callable[..., int]) -> Callable[..., int]:
    """Make ``_on_read`` the shim's callback ``shim_on_read``. No exception leaves it."""
    name = f"shim{function.__name__}"
    return ffi.def_extern(name=name, error=lib.SHIM_FAILED, onerror=_refusal)(function)  # type: ignore[no-any-return]  # cffi's


@_callback
def _on_open(session: int, opener: int) -> int:
    return _sessions[session].operations.open(opener)


@_callback
def _on_read(session: int, fh: int) -> int:
    self = _sessions[session]
    data = self.operations.read(fh)
    if data is not self.replied:
        self.reply(data)
    return len(data)


@_callback
def _on_write(session: int, fh: int, data: Any, size: int, pid: int) -> int:
    return _sessions[session].operations.write(fh, ffi.unpack(data, size), pid)


@_callback
def _on_poll(session: int, fh: int, events: int, handle: int) -> int:
    return _sessions[session].operations.poll(fh, events, handle)


@_callback
def _on_give_back(session: int, fh: int) -> int:
    return _sessions[session].operations.give_back(fh)


@_callback
def _on_release(session: int, fh: int) -> int:
    return _sessions[session].operations.release(fh)
