# SPDX-License-Identifier: MIT
"""A thread that calls a function for each event."""

import os
import select
import sys
import threading
from collections.abc import Callable
from typing import Generic, Self, TypeVar

from memnotify.client._source import Source

T = TypeVar("T")


class Observer(Generic[T]):
    """A thread that waits for the events of a source and calls ``callback`` with each, one at a time.

    The source belongs to the thread from ``start`` until ``stop`` has returned; it is not closed. An
    exception of the callback goes to ``threading.excepthook``, and the thread goes on. An exception of
    the source's ``wait`` goes there too, and ends the thread. The thread is a daemon thread: it does not
    keep the program alive.
    """

    def __init__(self, source: Source[T], callback: Callable[[T], object]) -> None:
        self._source = source
        self._callback = callback
        self._thread = threading.Thread(target=self._run, name="memnotify-observer", daemon=True)
        self._stopping = False
        self._wake_fd = -1
        self._lock = threading.Lock()  # of _wake_fd, which the thread closes

    def start(self) -> None:
        """Start the thread. Raises RuntimeError if it was started before, OSError as the source does."""
        if self._thread.ident is not None:
            raise RuntimeError("an observer is started once: create another")
        self._source.fileno()  # its errors belong to the caller, not to the thread
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            self._thread.start()
        except RuntimeError:
            os.close(self._wake_fd)
            raise

    def stop(self) -> None:
        """End the thread. When this returns the callback is not running and is not called again.

        Any thread may call this, also more than once. From the callback itself it returns at once, and
        that call is the last. It deadlocks if the caller holds a lock that the callback waits for.
        """
        if self._thread.ident is None:  # not started yet; it may be started later
            return
        self._stopping = True
        # In a forked child the thread does not run, and the descriptor belongs to the parent.
        if not self._thread.is_alive():
            return
        with self._lock:
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)
        if self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> Self:
        """Start the thread; leaving the block stops it."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the thread."""
        self.stop()

    def _run(self) -> None:
        try:
            poller = select.poll()
            poller.register(self._wake_fd, select.POLLIN)
            poller.register(self._source.fileno(), select.POLLIN)
            while not (self._stopping or self._source.closed):
                poller.poll()
                event = self._source.wait(0)
                if event is not None:
                    self._call(event)
        finally:
            with self._lock:
                os.close(self._wake_fd)
                self._wake_fd = -1

    def _call(self, event: T) -> None:
        try:
            self._callback(event)
        except Exception:  # noqa: BLE001 - any error of the callback is reported as a thread's
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), self._thread)))
