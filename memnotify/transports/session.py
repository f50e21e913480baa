# SPDX-License-Identifier: MIT
"""A binding of CUSE and of one-file FUSE mounts: the request loop over one descriptor.

It hands requests to an Operations object and replies with what that returns. Only this module and
kernel.syscalls import the compiled shim.
"""

import errno
import logging
import os
from array import array
from typing import Any, Protocol, Self

from memnotify._shim import ffi, lib
from memnotify.kernel.syscalls import end_without_memory
from memnotify.logs import LIMITED

log = logging.getLogger(__name__)

# An attribute of `lib` costs more than a global.
_OPEN, _READ, _WRITE = lib.SHIM_OPEN, lib.SHIM_READ, lib.SHIM_WRITE
_POLL, _RELEASE, _GIVE_BACK = lib.SHIM_POLL, lib.SHIM_RELEASE, lib.SHIM_GIVE_BACK


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

    def __init__(self, operations: Operations, shim: Any) -> None:
        """Serve ``operations`` by a shim; the two constructors below make one."""
        if shim == ffi.NULL:
            raise OSError(errno.EINVAL, "libfuse3 refused the session, see its message above")
        self._operations = operations
        self._shim = shim
        self._kept: Any = None
        self._asked = lib.shim_asked(shim)
        self._reply = lib.shim_reply(shim)
        # What is in that buffer: the same bytes again need not be copied.
        self._replied: bytes | None = None
        self.unmounts = True
        """False if ``close`` must not unmount: the mount is gone, and another one may be in its place."""

    @classmethod
    def cuse(cls, name: str, operations: Operations) -> Self:
        """Return a session that will register the character device ``name`` (at most 240 bytes)."""
        return cls(operations, lib.shim_new_cuse(os.fsencode(name)))

    @classmethod
    def file(cls, operations: Operations, *, mode: int, mount_options: str) -> Self:
        """Return a session for a mount whose root is one regular file with the permissions ``mode``."""
        return cls(operations, lib.shim_new_file(os.fsencode(mount_options), mode))

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
        lib.shim_begin(self._shim)
        try:
            kind = self._serve()
        except MemoryError:
            # There is none even to refuse a request, or to log.
            end_without_memory()
        if kind != -errno.EINTR:
            self._check(kind)
        return bool(kind)

    def _serve(self) -> int:
        """Answer requests until the shim ends; return how it did."""
        shim, asked, operations = self._shim, self._asked, self._operations
        answer = 0
        while True:
            try:
                # If the answer is no number for C, this raises and has sent nothing.
                kind = lib.shim_next(shim, answer)
                if kind == _READ:
                    data = operations.read(asked.fh)
                    if data is not self._replied:
                        ffi.memmove(self._reply, data, min(len(data), lib.SHIM_REPLY_MAX))
                        self._replied = data
                    answer = len(data)
                elif kind == _POLL:
                    answer = operations.poll(asked.fh, asked.events, asked.handle)
                elif kind == _WRITE:
                    answer = operations.write(asked.fh, ffi.unpack(asked.data, asked.size), asked.pid)
                elif kind == _OPEN:
                    answer = operations.open(asked.opener)
                elif kind == _RELEASE:
                    answer = operations.release(asked.fh)
                elif kind == _GIVE_BACK:
                    answer = operations.give_back(asked.fh)
                else:
                    return kind  # type: ignore[no-any-return]  # cffi's
            except BaseException as error:  # noqa: BLE001 - as Operations says
                answer = _refusal(error)

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
            # Now: Python 3.11 may crash where its collector clears a memoryview that is exported (gh-77894).
            self._kept = None

    @staticmethod
    def _check(result: int) -> None:
        if result < 0:
            raise OSError(-result, os.strerror(-result))


def _refusal(error: BaseException) -> int:
    """Turn what an operation raised into its answer."""
    if isinstance(error, MemoryError):
        end_without_memory()
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(number, int) and number not in (0, errno.ENOSYS):
        return -number
    log.error("a request failed", exc_info=error, extra=LIMITED)
    return -errno.EIO
