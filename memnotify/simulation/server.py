# SPDX-License-Identifier: MIT
"""A device whose figures are made up, served until a socket to the process that moves them is closed."""

import json
import os
import select
import socket
import sys
import time
from array import array
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from threading import Condition

from memnotify.simulation.amounts import SimulatedFigures
from memnotify.simulation.memory import Memory
from memnotify.simulation.script import START, Course
from memnotify.transports import Transport, TransportError
from memnotify.transports.selection import select_transport
from memnotify.transports.unix_listener import Listener
from memnotify.transports.unix_server import SocketServer
from memnotify.worker import Worker

READY = b"ready"
"""What ``serve`` sends once clients can open the device. Anything else is why they never will."""


Move = Callable[[SimulatedFigures], object]
"""Changes the figures. When it returns, each client with a threshold that crossed is notified."""


def serve(
    make: Callable[[], Transport],
    simulated: SimulatedFigures,
    control: socket.socket,
    follow: Callable[[Move], None],
) -> None:
    """Serve while ``follow`` runs, by the transport that ``make`` returns.

    Before that, send a message on ``control``: READY, or what is wrong.
    """

    def notify(handles: "array[int]", count: int) -> None:
        session.notify(handles, count)

    with ExitStack() as cleanup:
        memory = Memory(simulated, notify)
        cleanup.callback(memory.close)
        try:
            transport = make()
            cleanup.callback(transport.close)
            session = transport.connect(memory.device)
            cleanup.callback(session.close)
            session.handshake()
            transport.verify()
        except (TransportError, OSError) as error:
            control.send(str(error).encode())
            return
        worker = Worker("session", session.serve, session.interrupt)
        cleanup.callback(worker.close)
        cleanup.callback(worker.stop)
        # The device is gone, which this process's clients see by themselves.
        worker.start(lambda: None)
        # Until its attributes are asked for, the file is user 0's. In a user namespace without user 0, the
        # kernel refuses to open it for writing (fs/namei.c:inode_permission, HAS_UNMAPPED_ID).
        os.stat(transport.path)
        control.send(READY)
        follow(memory.move)


def serve_socket(
    path: str, simulated: SimulatedFigures, control: socket.socket, follow: Callable[[Move], None]
) -> None:
    """Do the same by a socket at ``path``."""
    with ExitStack() as cleanup:
        try:
            listener = Listener(path)
        except (TransportError, OSError) as error:
            control.send(str(error).encode())
            return
        cleanup.callback(listener.close)
        memory = Memory(simulated, lambda *_: None)
        server = SocketServer(memory.table, memory.sampler, listener.socket)
        memory.prepared(server.device)
        turns = _Turns(server)
        cleanup.callback(server.close)
        cleanup.callback(memory.close)
        cleanup.callback(server.stop)
        cleanup.callback(turns.worker.close)
        cleanup.callback(turns.worker.stop)
        # The process that has the socket then sees that this one has ended.
        turns.worker.start(partial(os._exit, 1))

        def move(simulated: SimulatedFigures) -> None:
            memory.move(simulated)
            turns.await_one()

        control.send(READY)
        follow(move)


class _Turns:
    """Runs the turns of a server in a thread, for which another thread can wait."""

    def __init__(self, server: SocketServer) -> None:
        self.worker = Worker("sockets", self._turn, server.worker.wake)
        self._server = server
        self._changed = Condition()
        self._begun = self._ended = 0

    def await_one(self) -> None:
        """Wait until a turn that has begun after the call has ended."""
        with self._changed:
            wanted = self._begun + 1
            while self._ended < wanted:
                # Again after each turn: one that had begun before may have taken the last wake.
                self._server.worker.wake()
                self._changed.wait()

    def _turn(self) -> None:
        with self._changed:
            self._begun += 1
        self._server.turn()
        with self._changed:
            self._ended = self._begun
            self._changed.notify_all()


def obey(control: socket.socket, move: Move) -> None:
    """Move the figures as each message says, and answer it once the clients are notified."""
    while message := control.recv(4096):
        move(SimulatedFigures(*json.loads(message)))
        control.send(READY)


def play(course: Course, control: socket.socket, move: Move) -> None:
    """Move the figures along ``course`` from the message START on, until ``control`` is closed."""
    if control.recv(len(START)) != START:
        return
    poller = select.poll()
    poller.register(control, select.POLLIN)
    start_s = time.monotonic()
    while True:
        now_s = time.monotonic() - start_s
        move(course.at(now_s))
        next_s = course.next_s(now_s)
        left_s = next_s - (time.monotonic() - start_s)
        timeout_ms = None if next_s == float("inf") else max(0, min(left_s, 86_400) * 1000)
        if poller.poll(timeout_ms):
            return


def main(arguments: list[str]) -> None:
    """Serve for a process that has this one's socket: its descriptor, what to serve, path and figures."""
    fd, kind, path, *figures = arguments
    simulated = SimulatedFigures(*map(int, figures))
    with socket.socket(fileno=int(fd)) as control:
        follow = partial(obey, control)
        if kind == "socket":
            serve_socket(path, simulated, control, follow)
        else:
            serve(partial(select_transport, kind, os.path.basename(path), path), simulated, control, follow)


if __name__ == "__main__":
    main(sys.argv[1:])
