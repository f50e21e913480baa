# SPDX-License-Identifier: MIT
"""The daemon: puts the rooms together and lives from the first request to the last signal."""

import gc
import logging
import os
import signal
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from memnotify.abi.figures import NAMES, select_extra_figures
from memnotify.config.settings import Settings
from memnotify.daemon.cleanup import CleanupProcess
from memnotify.daemon.lifecycle import ServiceStatus
from memnotify.daemon.privileges import User, become
from memnotify.daemon.reload import ConfigReloader, sampling_parameters
from memnotify.daemon.systemd import SystemdNotifier
from memnotify.engine.device import Device
from memnotify.engine.sampler import Sampler, WakeSources
from memnotify.engine.table import ObserverTable
from memnotify.kernel.meminfo import MemInfoReader
from memnotify.kernel.page_counters import PageCounter, open_page_counters
from memnotify.kernel.psi import open_trigger
from memnotify.kernel.syscalls import avoid_huge_pages, lock_memory, raise_fd_limit
from memnotify.transports import Transport, TransportError
from memnotify.transports.session import Session
from memnotify.worker import Worker

if TYPE_CHECKING:
    import socket

    from memnotify.transports.unix_listener import Listener
    from memnotify.transports.unix_server import SocketServer
    from memnotify.worker import Worker

log = logging.getLogger(__name__)

_STOP = frozenset({signal.SIGTERM, signal.SIGINT})
# nohup has its way.
_HANGUP = frozenset(() if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else {signal.SIGHUP})


def serve(
    transport: Transport,
    settings: Settings,
    listener: "Listener | None" = None,
    *,
    user: User | None = None,
    read: Callable[[], Settings],
) -> bool:
    """Serve until a signal asks to stop (True), or until the device is lost (False).

    The clients that connect to ``listener``, if there is one, are served as well. ``user`` is who root
    becomes before anybody is served. On SIGHUP the settings that ``read`` returns hold, as far as they
    can, see Reload; if it says that the terminal is gone it ends. Main thread only, and once in a process.
    Closes ``transport``. Raises TransportError if the device cannot be registered, PrivilegesError if root
    cannot be given up, MemInfoError or OSError if the kernel's memory files cannot be read.
    """
    # Until the session can take them and what was made is cleaned up after them.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP | _HANGUP)
    avoid_huge_pages()
    # A dozen counters and more for each CPU, a connection for each client of the socket: 1,024 do not last.
    raise_fd_limit()
    further = select_extra_figures(settings.figures)
    table = ObserverTable(len(NAMES) + len(further))
    sockets: SocketServer | None = None
    with ExitStack() as undo:
        last = undo.enter_context(ExitStack())
        undo.callback(transport.close)
        reader = undo.enter_context(MemInfoReader(pcp_is_free=settings.pcp_is_free, further=further))
        reader.read_exact()  # if it cannot be read, say so before anybody is served
        sampler = Sampler(
            table,
            reader,
            Session.notify,
            sampling_parameters(settings),
            sources=WakeSources(open_trigger(), _counters(settings)),
        )
        device = Device(table, sampler, poll_acknowledges=settings.poll_acknowledges)
        session = transport.connect(device)
        # From the last to the first: no socket's client asks for anything, nobody notifies any more, nobody
        # holds a handle, the clients are let go.
        undo.callback(session.close)
        undo.callback(lambda: Session.discard(table.close_all()))
        if listener is not None:
            sockets = _socket_server(table, sampler, listener.socket)
            undo.callback(sockets.close)
        undo.callback(sampler.stop)
        if sockets is not None:
            undo.callback(sockets.stop)
        threads = [sampler.worker] if sockets is None else [sampler.worker, sockets.worker]

        def settle_in() -> None:
            if not lock_memory(stays_root=user is None):
                log.info("memory is not locked: that takes RLIMIT_MEMLOCK without a limit")
            gc.collect()
            gc.freeze()
            if user is not None:
                made: list[Transport | Listener] = [transport] if listener is None else [transport, listener]
                removals = [removal for maker in made if (removal := maker.hand_over())]
                if removals:
                    last.callback(CleanupProcess(removals).close)
                become(user)

        reload = ConfigReloader(settings, read, sampler, device)
        return _live(session, transport, table, threads, settle_in=settle_in, reload=reload)


def _counters(settings: Settings) -> "tuple[PageCounter, PageCounter] | None":
    return open_page_counters(pcp_is_free=settings.pcp_is_free) if settings.count_pages else None


def _socket_server(table: ObserverTable, sampler: Sampler, listener: "socket.socket") -> "SocketServer":
    # Here, as the daemon keeps in memory what it imports, and most have no socket.
    from memnotify.transports.unix_server import SocketServer  # noqa: PLC0415

    return SocketServer(table, sampler, listener)


def _live(
    session: Session,
    transport: Transport,
    table: ObserverTable,
    threads: Sequence[Worker],
    *,
    settle_in: Callable[[], None],
    reload: ConfigReloader,
) -> bool:
    terminal = _has_terminal()
    if not _registered(session, transport):
        return True
    main = threading.get_ident()
    failed = threading.Event()

    def fail() -> None:
        failed.set()
        signal.pthread_kill(main, signal.SIGTERM)

    manager = SystemdNotifier()
    # All else that takes rights is in hand, and there is no other thread yet.
    settle_in()
    for thread in threads:
        thread.start(fail)
    what = f"{transport.path}, a {transport.kind}"
    service = ServiceStatus(manager, what, table.__len__, settled=transport.settled, threads=threads)
    if manager.listens:
        table.changed = service.changed
    session.catch(*_HANGUP, signal.SIGALRM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*_HANGUP, signal.SIGALRM})
    service.begin()
    ended_by = _loop(session, service, reload, terminal=terminal)
    table.changed = None
    service.end()
    if failed.is_set():
        return False
    if ended_by:
        log.info("%s: ending", ", ".join(sorted(number.name for number in ended_by)))
        return True
    log.error("%s is gone: the connection was ended from outside (umount, or abort in sysfs)", transport.path)
    return False


def _registered(session: Session, transport: Transport) -> bool:
    """Make the device; False if a signal has come meanwhile. Raises TransportError."""
    session.catch(*_STOP)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP)
    try:
        session.handshake()
    except InterruptedError:
        return False
    except ConnectionRefusedError as error:
        raise TransportError(
            f"the kernel did not register {transport.path}: another process has just taken that name"
        ) from error
    transport.verify()
    return True


def _loop(
    session: Session, service: ServiceStatus, reload: ConfigReloader, *, terminal: bool
) -> Collection[signal.Signals]:
    """Serve until signals have come that end it, and return them, or until the device is gone: none."""
    while session.serve():
        caught = {signal.Signals(number) for number in session.caught()}
        if ends := caught & _STOP:
            return ends
        if signal.SIGHUP in caught:
            if terminal and not _has_terminal():
                return {signal.SIGHUP}
            service.reload(reload.reload)
        if signal.SIGALRM in caught:
            service.alarm()
    return ()


def _has_terminal() -> bool:
    """Whether there is a terminal in which this was started; a hang-up takes it away before the signal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True
