# SPDX-License-Identifier: MIT
"""The daemon: puts the rooms together and lives from the first request to the last signal."""

import gc
import logging
import signal
import threading
from array import array
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from memnotify.config import Settings
from memnotify.device import Device
from memnotify.figures import PAGE_SIZE, Meter
from memnotify.kick import open_kicks
from memnotify.observers import Table
from memnotify.pace import Pace
from memnotify.pressure import open_trigger
from memnotify.sampler import Sampler
from memnotify.session import Session
from memnotify.system import lock_memory, raise_fd_limit
from memnotify.transports import Transport, TransportError

if TYPE_CHECKING:
    import socket

    from memnotify.sockets import SocketServer

log = logging.getLogger(__name__)

# nohup has its way.
_STOP = {signal.SIGTERM, signal.SIGINT} | (
    set() if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else {signal.SIGHUP}
)


def serve(transport: Transport, settings: Settings, listener: "socket.socket | None" = None) -> bool:
    """Serve until a signal asks to stop (True), or until the device is lost (False).

    The clients that connect to ``listener``, if there is one, are served as well. Main thread only, and
    once in a process. Closes ``transport``. Raises TransportError if the device cannot be registered,
    MeterError or OSError if the kernel's memory files cannot be read.
    """
    # Until the session can take them and what was made is cleaned up after them.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    # A dozen counters and more for each CPU, a connection for each client of the socket: 1,024 do not last.
    raise_fd_limit()
    table = Table()
    sockets: SocketServer | None = None

    def notify(handles: "array[int]", count: int) -> None:
        others = Session.notify(handles, count)
        if sockets is not None and others:
            sockets.wake(handles[:others])

    with ExitStack() as undo:
        undo.callback(transport.close)
        meter = undo.enter_context(Meter(pcp_is_free=settings.pcp_is_free))
        meter.exact()  # if it cannot be read, say so before anybody is served
        sampler = Sampler(
            table,
            meter,
            Pace(
                settings.update_period_ms / 1000,
                settings.max_update_period_ms / 1000,
                min_update_period_s=settings.min_update_period_ms / 1000,
                fill_rate_pages_s=settings.fill_rate_mib_s * 2**20 / PAGE_SIZE,
            ),
            notify,
            update_space_kib=settings.update_space_kib,
            pressure_fd=open_trigger(),
            kicks=open_kicks(pcp_is_free=settings.pcp_is_free) if settings.count_pages else None,
        )
        session = transport.connect(Device(table, sampler, poll_acknowledges=settings.poll_acknowledges))
        # From the last to the first: no socket's client asks for anything, nobody notifies any more, nobody
        # holds a handle, the clients are let go.
        undo.callback(session.close)
        undo.callback(lambda: Session.discard(table.close_all()))
        if listener is not None:
            sockets = _socket_server(Device(table, sampler), listener)
            undo.callback(sockets.close)
        undo.callback(sampler.stop)
        if sockets is not None:
            undo.callback(sockets.stop)
        return _live(session, transport, [sampler] if sockets is None else [sampler, sockets])


def _socket_server(device: Device, listener: "socket.socket") -> "SocketServer":
    # Here, as the daemon keeps in memory what it imports, and most have no socket.
    from memnotify.sockets import SocketServer  # noqa: PLC0415

    return SocketServer(device, listener)


def _live(session: Session, transport: Transport, threads: "Sequence[Sampler | SocketServer]") -> bool:
    session.catch(*_STOP)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP)
    try:
        session.handshake()
    except InterruptedError:
        return True
    except ConnectionRefusedError as error:
        raise TransportError(
            f"the kernel did not register {transport.path}: another process has just taken that name"
        ) from error
    transport.verify()
    main = threading.get_ident()
    failed = threading.Event()

    def fail() -> None:
        failed.set()
        signal.pthread_kill(main, signal.SIGTERM)

    if not lock_memory():
        log.info("memory is not locked: run as root, or raise RLIMIT_MEMLOCK")
    gc.freeze()
    for thread in threads:
        thread.start(fail)
    log.info("ready: %s, a %s", transport.path, transport.kind)
    if session.serve():
        names = ", ".join(signal.Signals(number).name for number in session.caught())
        if failed.is_set():
            return False
        log.info("%s: ending", names)
        return True
    log.error("%s is gone: the connection was ended from outside (umount, or abort in sysfs)", transport.path)
    return False
