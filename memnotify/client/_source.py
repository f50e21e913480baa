# SPDX-License-Identifier: MIT
"""The base of all sources of events: they can be polled, waited for, and iterated over, ``async`` too."""

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Generic, NoReturn, Self, TypeVar

T = TypeVar("T")


class Source(ABC, Generic[T]):
    """A source of events with a descriptor to poll for POLLIN.

    Any thread may use it, one at a time. In an ``async for``, under asyncio or trio (and so anyio), the
    loop watches the descriptor itself: it needs no thread, does not keep the loop alive, and loses no
    event when the task is cancelled. One task at a time may wait.
    """

    def __init__(self) -> None:
        self._closed = False
        self._wake_task: Callable[[], object] | None = None
        # The process whose task waits. A forked child must not touch it: it shares the epoll of the parent's
        # loop.
        self._wake_pid = 0

    @property
    def closed(self) -> bool:
        """True once ``close`` was called."""
        return self._closed

    @abstractmethod
    def fileno(self) -> int:
        """Return the descriptor. It stays the same until ``close``, except in a forked child."""

    @abstractmethod
    def wait(self, timeout: float | None = None) -> T | None:
        """Return the next event, or None if there is none within ``timeout`` seconds."""

    def close(self) -> None:
        """Close the source, and end an ``async for`` over it. May be called again."""
        self._closed = True
        wake, self._wake_task = self._wake_task, None
        if wake is not None and self._wake_pid == os.getpid():
            wake()

    def __iter__(self) -> Self:
        """Iterate over the events until the source is closed."""
        return self

    def __next__(self) -> T:
        """Return the next event."""
        while not self._closed:
            event = self.wait()
            if event is not None:
                return event
        raise StopIteration

    def __aiter__(self) -> Self:
        """Iterate over the events until the source is closed."""
        return self

    async def __anext__(self) -> T:
        """Return the next event. Raises RuntimeError if another task waits, or if no loop runs."""
        while not self._closed and await self._readable():
            event = self.wait(0)
            if event is not None:
                return event
        raise StopAsyncIteration

    def __enter__(self) -> Self:
        """Return the source; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the source."""
        self.close()

    def __reduce__(self) -> NoReturn:
        """Refuse to be sent to another process. Raises TypeError."""
        raise TypeError(f"a {type(self).__name__} belongs to its process: open it in the child")

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"this {type(self).__name__} is closed")

    async def _readable(self) -> bool:
        """Wait until the descriptor is readable, and return True; False if the source was closed."""
        if self._wake_task is not None and self._wake_pid == os.getpid():
            raise RuntimeError(f"another task waits for this {type(self).__name__}: open one for each task")
        self._wake_pid = os.getpid()
        # A program in which trio or asyncio runs has imported it, so nothing is imported here.
        trio = sys.modules.get("trio")
        if trio is not None and _runs_trio(trio):
            return await self._readable_in_trio(trio)
        asyncio = sys.modules.get("asyncio")
        if asyncio is None:
            raise RuntimeError("neither asyncio nor trio is running")
        return await self._readable_in_asyncio(asyncio)

    async def _readable_in_trio(self, trio: ModuleType) -> bool:
        fd = self.fileno()
        self._wake_task = partial(trio.lowlevel.notify_closing, fd)
        try:
            await trio.lowlevel.wait_readable(fd)
        except trio.ClosedResourceError:
            return False
        finally:
            self._wake_task = None
        return not self._closed

    async def _readable_in_asyncio(self, asyncio: ModuleType) -> bool:
        loop = asyncio.get_running_loop()
        fd = self.fileno()
        woken = loop.create_future()

        def wake(*, readable: bool) -> None:
            # Before the descriptor is closed: its number may be reused at once.
            loop.remove_reader(fd)
            if not woken.done():
                woken.set_result(readable)

        try:
            self._wake_task = partial(wake, readable=False)
            loop.add_reader(fd, partial(wake, readable=True))
            return bool(await woken) and not self._closed
        finally:
            if self._wake_task is not None:
                self._wake_task = None
                if self._wake_pid == os.getpid():
                    loop.remove_reader(fd)


def _runs_trio(trio: ModuleType) -> bool:
    """Return True if the caller is a task of trio."""
    try:
        trio.lowlevel.current_task()
    except (AttributeError, RuntimeError):  # AttributeError while trio is being imported
        return False
    return True
