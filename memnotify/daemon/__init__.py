# SPDX-License-Identifier: MIT
"""The daemon: connects the parts and runs until a signal or the loss of the device ends it."""

import gc
import logging
import math
import os
import select
import signal
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from enum import Enum, auto
from typing import TYPE_CHECKING

from memnotify.abi.figures import NAMES, select_extra_figures
from memnotify.config.settings import Settings
from memnotify.daemon.cleanup import CleanupProcess
from memnotify.daemon.lifecycle import ServiceStatus
from memnotify.daemon.privileges import User, become
from memnotify.daemon.reload import ConfigReloader, sampling_parameters
from memnotify.daemon.running import Engine
from memnotify.daemon.systemd import DescriptorStore, SystemdNotifier
from memnotify.daemon.takeover import (
    CLEANUP,
    NOTHING_KEPT,
    STATUS,
    Handover,
    Kept,
    Predecessor,
    figure_names,
    replace_process,
    works,
)
from memnotify.engine.device import Device
from memnotify.engine.sampler import Sampler, WakeSources
from memnotify.engine.saved_state import SavedState
from memnotify.engine.table import Limits, ObserverTable
from memnotify.kernel.meminfo import MemInfoReader
from memnotify.kernel.page_counters import open_page_counters
from memnotify.kernel.psi import open_trigger
from memnotify.kernel.syscalls import (
    avoid_huge_pages,
    end_without_memory,
    lock_memory,
    lower_oom_score,
    raise_fd_limit,
    signal_fd,
)
from memnotify.transports import Transport, TransportError
from memnotify.transports.session import Session
from memnotify.worker import Worker

if TYPE_CHECKING:
    from memnotify.daemon.status_socket import StatusServer, StatusSocket
    from memnotify.transports.unix_listener import Listener
    from memnotify.transports.unix_server import SocketServer

log = logging.getLogger(__name__)


def _not_ignored(*numbers: int) -> frozenset[int]:
    """Return the signals that were not ignored at the start, by nohup(1) or as a shell's background job."""
    return frozenset(number for number in numbers if signal.getsignal(number) != signal.SIG_IGN)


# Not -1000: if the daemon itself takes the memory, it must be killable.
_OOM_SCORE = -900
# The daemon asks for a restart of its own at most that often, far below the unit's limit of starts.
_RESTART_AFTER_S = 600.0
_STOP = _not_ignored(signal.SIGTERM, signal.SIGINT)
# Sent by a thread to the main thread; any other signal may be ignored.
_FAILED = signal.SIGRTMIN
_SIGNALS = _STOP | _not_ignored(signal.SIGHUP, signal.SIGUSR2) | {_FAILED}


def serve(
    transport: Transport,
    settings: Settings,
    listener: "Listener | None" = None,
    *,
    user: User | None = None,
    predecessor: Predecessor | None = None,
    kept: Kept = NOTHING_KEPT,
    read: Callable[[], Settings],
    status_socket: "StatusSocket | None" = None,
) -> bool:
    """Serve until a signal asks to stop (True), or until the device is lost (False).

    If there is a ``predecessor``, go on with its clients, and with those of the socket that are ``kept``. On
    SIGHUP, what ``read`` returns takes effect as far as ConfigReloader can. On SIGUSR2, the program replaces
    itself. Closes ``transport``. Threads: the main thread, once in a process. Raises TransportError if the
    device cannot be registered, PrivilegesError if root cannot become ``user``, MemInfoError or OSError.
    """
    _prepare_process()
    # In reverse order everything ends: the threads, the session, then the cleanup process.
    with ExitStack() as cleanup:
        after_all = cleanup.enter_context(ExitStack())
        saved = predecessor.saved if predecessor else SavedState.create(len(figure_names(settings)))
        table, sampler, device, session = _connect(transport, settings, saved, cleanup)
        notifier = SystemdNotifier()
        server = _socket_server(table, sampler, listener, cleanup)
        store = DescriptorStore(notifier)
        handover = Handover(session, saved, transport, store, settings=settings, server=server)
        service = Service(session, transport, handover, sampler)
        workers = [sampler.worker, *([server.worker] if server else []), service.worker]
        cleanup.callback(service.worker.stop)
        status = ServiceStatus(notifier, service.what, table.__len__, transport.settled, workers)
        handover.begin(predecessor, kept, table, sampler)
        cleaner = _end_preparation(user, kept, transport, listener, status_socket)
        if cleaner is not None:
            after_all.callback(cleaner.close)
        cleanup.callback(status.end)
        reloader = ConfigReloader(settings, read, sampler, device)
        if status_socket is not None:
            shows = status_socket.serve(Engine(transport, table, sampler, reloader))
            service.attend(cleanup.enter_context(closing(shows)))
        for worker in workers:
            worker.start(service.fail)
        return _end(service.run(status, reloader), handover, workers, (listener, status_socket), cleaner)


def _prepare_process() -> None:
    # Blocked until the end: the main thread waits for them once there is something to serve.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    avoid_huge_pages()
    _survive_memory_pressure()
    # Page counters need a dozen or more for each CPU, a client of the socket one: 1,024 are too few.
    raise_fd_limit()
    # The collector leaves out what the imports made. To collect it takes 3 to 4 ms, and finds 66 objects.
    gc.freeze()


def _survive_memory_pressure() -> None:
    """Be among the last processes that the OOM killer selects, as memnotify.service is."""
    score = lower_oom_score(_OOM_SCORE)
    if score > _OOM_SCORE:
        log.info(
            "oom_score_adj is %d, since %d takes CAP_SYS_RESOURCE: the OOM killer may end the daemon early",
            score,
            _OOM_SCORE,
        )


def _end(
    end: "End",
    handover: Handover,
    workers: Sequence[Worker],
    sockets: "tuple[Listener | None, StatusSocket | None]",
    cleaner: CleanupProcess | None,
) -> bool:
    """Return True if the daemon was asked to end, or replace the program by a new one. Raises OSError."""
    if end is End.LOST:
        return False
    # Else the interpreter looks for cycles at its end: 20 ms with 10,000 observers, for which clients wait.
    gc.freeze()
    fds = handover.leave(workers)
    if end is End.REPLACED:
        log.info("the program replaces itself")
        listener, status_socket = sockets
        if listener is not None and not listener.removes:
            # As a socket unit's: first.
            fds.insert(0, ("memnotify.socket", listener.socket.fileno()))
        if status_socket is not None and not status_socket.removes:
            fds.append((STATUS, status_socket.fileno()))
        for each in sockets:
            if each is not None and each.removes:
                # The program makes its own, which may be at another path.
                each.close()
        if cleaner is not None:
            fds.append((CLEANUP, cleaner.end))
        replace_process(fds)
    return True


def _connect(
    transport: Transport, settings: Settings, saved: SavedState, cleanup: ExitStack
) -> tuple[ObserverTable, Sampler, Device, Session]:
    """Return the engine and its session; the caller must stop the sampler. Raises MemInfoError or OSError."""

    def notify(handles: "array[int]", count: int) -> None:
        session.notify(handles, count)

    cleanup.callback(transport.close)
    extra = select_extra_figures(settings.figures)
    table = ObserverTable(len(NAMES) + len(extra), saved)
    table.limits = Limits(settings.max_observers, settings.max_observers_per_user)
    reader = cleanup.enter_context(MemInfoReader(pcp_is_free=settings.pcp_is_free, extra=extra))
    reader.read_exact()  # raises before any client is served
    counters = open_page_counters(pcp_is_free=settings.pcp_is_free) if settings.count_pages else None
    sources = WakeSources(open_trigger(), counters)
    sampler = Sampler(table, reader, notify, sampling_parameters(settings), sources=sources)
    device = Device(table, sampler, poll_acknowledges=settings.poll_acknowledges)
    session = cleanup.enter_context(closing(transport.connect(device)))
    session.keep(saved.kept)
    return table, sampler, device, session


def _socket_server(
    table: ObserverTable, sampler: Sampler, listener: "Listener | None", cleanup: ExitStack
) -> "SocketServer | None":
    """Return what serves the clients of a ``listener``; ``cleanup`` stops it and the sampler."""
    if listener is None:
        cleanup.callback(sampler.stop)
        return None
    # Here, as the daemon keeps in memory what it imports, and most have no socket.
    from memnotify.transports.unix_server import SocketServer  # noqa: PLC0415

    server = SocketServer(table, sampler, listener.socket)
    # The sampler notifies the server until it has stopped.
    cleanup.callback(server.close)
    cleanup.callback(sampler.stop)
    cleanup.callback(server.stop)
    return server


def _end_preparation(
    user: User | None,
    kept: Kept,
    transport: Transport,
    listener: "Listener | None",
    status_socket: "StatusSocket | None",
) -> CleanupProcess | None:
    """Lock memory and give up root; return the process that removes at the end what only root may remove.

    All that needs root is done, the notifier's socket included, and there is no other thread yet.
    """
    cleaner = CleanupProcess.adopt(kept.fds[CLEANUP]) if CLEANUP in kept.fds else None
    if not lock_memory(stays_root=user is None):
        log.info("memory is not locked: that needs an unlimited RLIMIT_MEMLOCK")
    gc.freeze()
    if user is not None:
        served = [each for each in (transport, listener, status_socket) if each]
        removals = [removal for each in served if (removal := each.hand_over())]
        cleaner = CleanupProcess(removals) if removals else None
        _become(user, serves_status=status_socket is not None)
    elif cleaner is not None:
        transport.hand_over()
    return cleaner


def _become(user: User, *, serves_status: bool) -> None:
    # The user may not be able to read them when the first threshold on a cgroup, or request, needs them.
    import memnotify.engine.groups  # noqa: PLC0415 - a daemon that stays root saves 100 KB

    if serves_status:
        import memnotify.daemon.status  # noqa: F401, PLC0415 - the same

    become(user)


class End(Enum):
    """Why the daemon ends."""

    ASKED = auto()
    LOST = auto()
    REPLACED = auto()


class Service:
    """The running daemon: a thread that serves the session, and the main thread, which waits for signals."""

    def __init__(self, session: Session, transport: Transport, handover: Handover, sampler: Sampler) -> None:
        self._begun_s = time.monotonic()
        self._handover = handover
        self._sampler = sampler
        self.worker = Worker("session", self._turn, session.interrupt)
        self.what = f"{transport.path}, a {transport.kind}"
        self._session = session
        self._transport = transport
        self._poll = select.poll()
        self._poll.register(signal_fd(_SIGNALS), select.POLLIN)
        if transport.changes >= 0:
            self._poll.register(transport.changes, select.POLLPRI)
        self._attended: StatusServer | None = None
        self._terminal = _has_terminal()
        self._main = threading.get_ident()
        self._failed = False
        self._lost = False

    def attend(self, server: "StatusServer") -> None:
        """Serve the clients of ``server`` in ``run``."""
        self._attended = server
        self._poll.register(server, select.POLLIN)

    def fail(self) -> None:
        """Let ``run`` return LOST. Any thread."""
        self._failed = True
        signal.pthread_kill(self._main, _FAILED)

    def run(self, status: ServiceStatus, reloader: ConfigReloader) -> End:
        """Act on signals and on what is due until one ends the daemon or a thread fails."""
        end = End.LOST
        try:
            end = self._run(status, reloader)
        except MemoryError:
            end_without_memory()
        finally:
            if self._attended is not None:
                self._attended.end_injection()
            # A signal that comes twice, or late, must not kill the process when the mask is restored. The
            # program that replaces this one receives it.
            for number in _SIGNALS if end is not End.REPLACED else ():
                signal.signal(number, signal.SIG_IGN)
        return end

    def _run(self, status: ServiceStatus, reloader: ConfigReloader) -> End:
        status.do_due()
        while True:
            caught = self._wait(status.due_in_s)
            if self._lost:
                log.error(
                    "%s is gone: it was unmounted, or its connection was aborted (in sysfs)",
                    self._transport.path,
                )
            if self._lost or self._failed:
                self._handover.cancel()
                return End.LOST
            if caught in _STOP or (caught == signal.SIGHUP and self._terminal and not _has_terminal()):
                log.info("%s: ending", signal.Signals(caught).name)
                return End.ASKED
            if caught == signal.SIGHUP:
                status.reload(reloader.reload)
            if caught == signal.SIGUSR2 and self._may_be_replaced():
                return End.REPLACED
            status.do_due()
            if self._needs_restart():
                log.warning("ending, since only root can count pages: the service manager starts anew")
                return End.ASKED

    def _needs_restart(self) -> bool:
        """Return True if a new process would do better, and clients are kept. The watchdog's time asks."""
        return (
            self._sampler.counters_refused
            and self._handover.stored
            and time.monotonic() - self._begun_s >= _RESTART_AFTER_S
        )

    def _may_be_replaced(self) -> bool:
        if not self._handover.fds():
            log.error("not replaced: the clients' state could not be saved, and they would be lost")
            return False
        if not works():
            log.error(
                "not replaced: 'memnotify check-config --here' fails or cannot run, see the message above"
            )
            return False
        return True

    def _wait(self, timeout_s: float) -> int:
        """Return the next signal; 0 after ``timeout_s``, or if the device may be lost."""
        server = self._attended
        if server is not None:
            timeout_s = min(timeout_s, server.due_in_s)
        timeout_ms = None if math.isinf(timeout_s) else math.ceil(timeout_s * 1000)
        for fd, _ in self._poll.poll(timeout_ms):
            if fd == self._transport.changes:
                self._check_transport()
        if server is not None:
            server.turn()
        caught = signal.sigtimedwait(_SIGNALS, 0)
        return caught.si_signo if caught else 0

    def _check_transport(self) -> None:
        """Find out whether clients can still reach the device.

        If a client has the file open, the connection survives a lazy unmount (umount -l).
        """
        try:
            self._transport.verify()
        except TransportError:
            self._lost = True
            self._session.unmounts = False
        except OSError as error:
            log.warning("cannot check whether %s is still there: %s", self._transport.path, error.strerror)

    def _turn(self) -> bool:
        if self._session.serve():
            return True
        self._lost = True
        self.fail()
        return False


def _has_terminal() -> bool:
    """Return True if the daemon's terminal still exists. A terminal vanishes before its SIGHUP arrives."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True
