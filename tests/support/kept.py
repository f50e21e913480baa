# SPDX-License-Identifier: MIT
"""A daemon under a service manager that keeps its descriptors, and many clients, which it must not lose."""

import os
import select
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from support.daemon import Daemon, ready
from support.fake_manager import UNIT, FakeManager
from support.waiting import eventually


class Clients:
    """Open files with a threshold, polled by epoll from the beginning; none is opened again."""

    def __init__(self, path: str, count: int, threshold: bytes = b"used 60%") -> None:
        # The answer to its FUSE_FLUSH is ENOSYS, so later a close(), of a child as well, waits for no daemon.
        os.close(os.open(path, os.O_RDWR))
        self.epoll = select.epoll()
        self.fds = [os.open(path, os.O_RDWR) for _ in range(count)]
        for fd in self.fds:
            os.write(fd, threshold)
            self.epoll.register(fd, select.EPOLLIN | select.EPOLLET)

    def told(self) -> bool:
        """Wait until each client has an event, and read; return True if each had one and no other."""
        events = dict.fromkeys(self.fds, 0)

        def read() -> bool:
            found = self.epoll.poll(0)
            for fd, what in found:
                assert what == select.EPOLLIN
                assert b" used " in os.read(fd, 256)
                events[fd] += 1
            return bool(found)

        # A deadline for the next event, as ten thousand take a guest longer than one.
        while missing := list(events.values()).count(0):
            eventually(read, f"another client has an event, of {missing}")
        return set(events.values()) == {1} and self.silent()

    def silent(self) -> bool:
        """Return True if no client has an event."""
        return all(not ready(fd, timeout_s=0) & select.POLLIN for fd in self.fds)

    def close(self) -> None:
        """Close all."""
        for fd in self.fds:
            os.close(fd)
        self.epoll.close()


@contextmanager
def clients_of(daemon: Daemon, count: int) -> Iterator[Clients]:
    """Give clients, and close them."""
    clients = Clients(daemon.path, count)
    try:
        yield clients
    finally:
        clients.close()


class Service:
    """The daemon under a service manager that has a store of descriptors."""

    def __init__(self, program: Sequence[str], directory: Path, *arguments: str, name: str) -> None:
        self.manager = FakeManager()
        self.manager.offer_store(directory)
        self.jobs = directory / "jobs"
        self._program = program
        self._name = name
        self._arguments = arguments
        self.daemon = self.start()

    def start(self, *arguments: str) -> Daemon:
        """Start a process of the service; it has what is stored."""
        program, environment = self.manager.passing(self._program)
        fds = [*self.manager.stored.values(), *self.manager.clients]
        try:
            self.daemon = Daemon(
                *self._arguments,
                *arguments,
                name=self._name,
                program=program,
                environment=environment,
                fds=fds,
            )
        except AssertionError:
            # Nothing serves what is stored: a client's close() would wait for it.
            self.manager.drop()
            raise
        return self.daemon

    def restart(self, number: int = signal.SIGTERM, *arguments: str) -> None:
        """End the process by a signal and start the next one."""
        self.daemon.end(number)
        self.start(*arguments)

    def stop(self) -> None:
        """End the process as ``systemctl stop`` does; the store is emptied then."""
        self.jobs.write_text(f"123 {UNIT} stop running\n")
        self.daemon.end()
        self.manager.drop()

    def close(self) -> None:
        """Stop, if the service runs, and check what it has logged."""
        if self.daemon.process.poll() is None:
            self.stop()
        self.manager.close()
        assert "Traceback" not in self.daemon.log, self.daemon.log
