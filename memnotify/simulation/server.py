# SPDX-License-Identifier: MIT
"""A FUSE file whose figures are made up, served until a socket to the process that moves them is closed."""

import json
import os
import select
import socket
import sys
import time
from array import array
from collections.abc import Callable
from contextlib import ExitStack

from memnotify.abi.figures import Figures
from memnotify.simulation.memory import Memory
from memnotify.simulation.script import START, Course
from memnotify.transports import Transport, TransportError
from memnotify.transports.selection import select_transport
from memnotify.worker import Worker

READY = b"ready"
"""What ``serve`` sends once clients can open the device. Anything else is why they never will."""


def serve(
    make: Callable[[], Transport], figures: Figures, control: socket.socket, follow: Callable[[Memory], None]
) -> None:
    """Serve while ``follow`` runs, by the transport that ``make`` returns.

    Before that, send a message on ``control``: READY, or what is wrong.
    """

    def notify(handles: "array[int]", count: int) -> None:
        session.notify(handles, count)

    with ExitStack() as cleanup:
        memory = Memory(figures, notify)
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
        control.send(READY)
        follow(memory)


def obey(control: socket.socket, memory: Memory) -> None:
    """Move the figures as each message says, and answer it once the clients are notified."""
    while message := control.recv(4096):
        memory.move(Figures(*json.loads(message)))
        control.send(READY)


def play(course: Course, control: socket.socket, memory: Memory) -> None:
    """Move the figures along ``course`` from the message START on, until ``control`` is closed."""
    if control.recv(len(START)) != START:
        return
    poller = select.poll()
    poller.register(control, select.POLLIN)
    start_s = time.monotonic()
    while True:
        now_s = time.monotonic() - start_s
        memory.move(course.at(now_s))
        next_s = course.next_s(now_s)
        left_s = next_s - (time.monotonic() - start_s)
        timeout_ms = None if next_s == float("inf") else max(0, min(left_s, 86_400) * 1000)
        if poller.poll(timeout_ms):
            return


def main(arguments: list[str]) -> None:
    """Serve for a process that has this one's socket: its descriptor, the transport, path and figures."""
    fd, kind, path, *figures = arguments
    with socket.socket(fileno=int(fd)) as control:
        serve(
            lambda: select_transport(kind, os.path.basename(path), path),
            Figures(*map(int, figures)),
            control,
            lambda memory: obey(control, memory),
        )


if __name__ == "__main__":
    main(sys.argv[1:])
