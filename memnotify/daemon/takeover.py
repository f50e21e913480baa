# SPDX-License-Identifier: MIT
"""One daemon goes on where another one ended: the connection to the kernel outlives the process.

The descriptors of the connection and of the saved state are in the service manager's store while the daemon
runs, or the program that replaces the daemon's own inherits them. Both ways they arrive by name, as
sd_listen_fds(3) says.
"""

import fcntl
import gc
import logging
import math
import os
import select
import struct
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from memnotify.abi.figures import NAMES, select_extra_figures
from memnotify.config.settings import Settings
from memnotify.daemon.systemd import DescriptorStore, SystemdNotifier
from memnotify.engine.observer import Group
from memnotify.engine.sampler import Sampler
from memnotify.engine.saved_state import SavedState, SavedStateError
from memnotify.engine.table import ObserverTable, Sample
from memnotify.kernel.mounts import canonical_path
from memnotify.kernel.syscalls import hold_tracepoint
from memnotify.transports import Transport, TransportError
from memnotify.transports.cuse import CuseTransport
from memnotify.transports.fuse import FuseTransport
from memnotify.transports.session import Session
from memnotify.worker import Worker, stop_all

if TYPE_CHECKING:
    from memnotify.transports.kept_connections import KeptConnection
    from memnotify.transports.unix_server import SocketServer

log = logging.getLogger(__name__)

SESSION, STATE, CLEANUP = "memnotify-session", "memnotify-state", "memnotify-cleanup"
CONNECTIONS, CLIENT = "memnotify-connections", "memnotify-client"
STATUS = "memnotify-status"
TRACEPOINT = "memnotify-tracepoint-"
_PREFIX = "memnotify-"
_OURS = {SESSION, STATE, CLEANUP, CONNECTIONS, STATUS}
_PASSED_FD = 3
_CLOSED_MAX_S = 5.0
# linux/fuse.h: FUSE_NOTIFY_RESEND, in the header of a frame without a body.
_RESEND = struct.pack("=IiQ", 16, 7, 0)


class Predecessor(NamedTuple):
    """What another daemon left behind to go on with."""

    transport: Transport
    saved: SavedState
    first_request: bytes
    kept: dict[str, int]
    """Its descriptors by name; ``transport`` and ``saved`` have them as well."""

    def resume(self, session: Session) -> None:
        """Take over its connection. Raises OSError or TransportError."""
        session.resume(self.first_request)
        self.transport.verify()


class Kept(NamedTuple):
    """The descriptors of an earlier daemon that were passed to this process."""

    fds: dict[str, int]
    """By name."""
    clients: list[int]
    """The connections of the socket."""


NOTHING_KEPT = Kept({}, [])


@contextmanager
def watched_groups(
    numbers: Collection[int], table: ObserverTable, sampler: Sampler
) -> Iterator[Mapping[int, Group]]:
    """Give the cgroups with these numbers, for the block that restores their observers."""
    if not numbers:
        yield {}
        return
    # Here, because a daemon without a threshold on a cgroup saves 100 KB.
    from memnotify.kernel.cgroups import find_by_number  # noqa: PLC0415

    # A limit is at most total.
    sampler.refresh()
    groups = [table.hold(Group(source, table.cgroup)) for source in find_by_number(numbers)]
    for group in groups:
        sampler.refresh_group(group)
    yield {group.key: group for group in groups}
    for group in groups:
        # What was crossed meanwhile fires now.
        group.exact_s = -math.inf
        sampler.refresh_group(group)
        table.release(group)


def figure_names(settings: Settings) -> list[str]:
    """Return the names of the figures in their order."""
    return [*NAMES, *select_extra_figures(settings.figures)]


def take_kept(environment: MutableMapping[str, str] = os.environ) -> Kept:
    """Return what was passed to this process.

    Its descriptors follow those of a socket unit, which are left to be taken. Names of another version are
    taken too: else they would count as a socket unit's, and the daemon would not start.
    """
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return Kept({}, [])
    passed = list(enumerate(names, start=_PASSED_FD))
    kept = Kept(
        {name: fd for fd, name in passed if name.startswith(_PREFIX) and name != CLIENT},
        [fd for fd, name in passed if name == CLIENT],
    )
    ours = [*kept.fds.values(), *kept.clients]
    for fd in ours:
        os.set_inheritable(fd, False)  # noqa: FBT003 - it takes no name
    if ours:
        others = len(names) - len(ours)
        environment["LISTEN_FDS"] = str(others)
        if not others:
            for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
                del environment[name]
    return kept


def take_over(kept: dict[str, int], settings: Settings) -> Predecessor | None:
    """Return what an earlier daemon left behind, or None if there is nothing that can be continued."""
    if not {SESSION, STATE} & kept.keys():
        return None
    try:
        return _predecessor(kept, settings)
    except (KeyError, ValueError, SavedStateError, TransportError, OSError) as error:
        log.warning("the clients of the daemon before are lost: %s", error)
        forget(kept)
        return None


def forget(kept: Mapping[str, int]) -> None:
    """Close what an earlier daemon left behind, here and in the service manager's store."""
    notifier = SystemdNotifier()
    lost = kept.keys() & {SESSION, STATE}
    DescriptorStore(notifier).forget(lost)
    for name in lost:
        os.close(kept[name])
    notifier.barrier(_CLOSED_MAX_S)
    notifier.close()


def _predecessor(kept: dict[str, int], settings: Settings) -> Predecessor:
    saved, description = SavedState.take_over(kept[STATE])
    transport = _transport(kept, description, settings)
    session = kept[SESSION]
    if not _resend(session) and _hangs(session, saved, description["path"]):
        raise TransportError(
            "it ended while it had a request in hand, and this kernel cannot send requests again (Linux 6.9)"
        )
    names = figure_names(settings)
    if description["figures"] != names:
        saved = saved.converted([_index(name, description["figures"]) for name in names])
        saved.describe(description | {"figures": names})
    return Predecessor(transport, saved, bytes.fromhex(description["first_request"]), kept)


def _index(name: str, names: list[str]) -> int:
    return names.index(name) if name in names else -1


def _transport(kept: dict[str, int], description: dict[str, Any], settings: Settings) -> Transport:
    node = f"/dev/{settings.name}"
    path, kind = description["path"], description["kind"]
    if path != (canonical_path(settings.path) if settings.path else node):
        raise TransportError(f"it served {path}")
    if settings.transport not in ("auto", kind):
        raise TransportError(f"it served {kind}")
    if kind == "cuse":
        return CuseTransport(settings.name, kept[SESSION])
    return FuseTransport(path, kept[SESSION], ours=description["ours"])


def _resend(session: int) -> bool:
    """Let the kernel send again what was read and not answered. Return False if it cannot."""
    try:
        os.write(session, _RESEND)
    except OSError:
        return False
    return True


def _hangs(session: int, saved: SavedState, path: str) -> bool:
    """Return True if a client waits for the answer to a request that the daemon before had read."""
    if saved.kept[0]:
        return True
    try:
        with open(f"/sys/class/cuse/{path.removeprefix('/dev/')}/waiting", "rb") as file:
            waiting = int(file.read())
    except (OSError, ValueError):
        return False
    poller = select.poll()
    poller.register(session, select.POLLIN)
    # A request that is still unread is served.
    return waiting > 0 and not poller.poll(0)


def _register(session: Session, transport: Transport) -> None:
    """Make the device. Raises TransportError."""
    try:
        session.handshake()
    except ConnectionRefusedError as error:
        raise TransportError(
            f"the kernel did not register {transport.path}: another process has just taken that name"
        ) from error
    transport.verify()


def _describe(saved: SavedState, transport: Transport, session: Session, settings: Settings) -> None:
    """Complete the saved state of a device that is registered now."""
    saved.describe(
        {
            "figures": figure_names(settings),
            "kind": "fuse" if isinstance(transport, FuseTransport) else "cuse",
            "path": transport.path,
            "ours": isinstance(transport, FuseTransport) and transport.ours,
            "first_request": session.first_request.hex(),
        }
    )


class Handover:
    """What the next daemon gets: while this one runs it is in the store, if there is one."""

    def __init__(
        self,
        session: Session,
        saved: SavedState,
        transport: Transport,
        store: DescriptorStore,
        *,
        settings: Settings,
        server: "SocketServer | None" = None,
    ) -> None:
        """``server`` is the socket's, if there is one."""
        self._session = session
        self._saved = saved
        self._transport = transport
        self._store = store
        self._settings = settings
        self._server = server
        self._tracepoints: dict[str, int] = {}

    def fds(self) -> dict[str, int]:
        """Return the descriptors by name; none if the state could not be saved."""
        if self._saved.fd < 0:
            return {}
        return {SESSION: self._session.fileno(), STATE: self._saved.fd, **self._tracepoints}

    @property
    def stored(self) -> bool:
        """Whether the service manager keeps the clients of a process that ends."""
        return self._transport.store is not None

    def begin(
        self, predecessor: Predecessor | None, kept: Kept, table: ObserverTable, sampler: Sampler
    ) -> None:
        """Take over from a predecessor, or register the device; then let the store have everything.

        The clients of the socket that are ``kept`` are taken over too. Raises TransportError, OSError or
        MemInfoError.
        """
        self._sampler = sampler
        if predecessor is None:
            _register(self._session, self._transport)
            _describe(self._saved, self._transport, self._session, self._settings)
        else:
            with self._cancelled_on_error():
                predecessor.resume(self._session)
        with self._cancelled_on_error():
            self._restore(predecessor, kept, table, sampler)
        if predecessor is not None and predecessor.kept[STATE] != self._saved.fd:
            self._store.forget([STATE])
        self._tracepoints = self._hold_tracepoints(kept.fds, sampler.tracepoints)
        if self._store.offered and self.fds():
            self._store.store({SESSION: self._session.fileno(), STATE: self._saved.fd})
            # A perf event without a ring polls POLLHUP (kernel/events/core.c:perf_poll).
            self._store.store(self._tracepoints, polled=False)
            self._transport.store = self._store
            # What is mounted stays, unless the transport removes it.
            self._session.unmounts = False

    def _restore(
        self, predecessor: Predecessor | None, kept: Kept, table: ObserverTable, sampler: Sampler
    ) -> None:
        """Restore all observers, and tell them what was crossed meanwhile."""
        connections = self._kept_connections(kept)
        if predecessor is None and not connections:
            return
        numbers = {connection.record.group for connection in connections.values()}
        if predecessor is not None:
            numbers |= predecessor.saved.groups()

        def restore(sample: Sample) -> None:
            if predecessor is not None:
                pending = table.restore(sample, groups)
                self._session.notify(pending, len(pending))
            for fd, connection in connections.items():
                self._server.adopt(fd, connection, sample, groups)  # type: ignore[union-attr]  # it has some

        # The collector finds nothing in new observers: 10,000 took 94 ms with it, 62 ms without.
        gc.disable()
        try:
            with watched_groups(numbers - {0}, table, sampler) as groups:
                sampler.refresh(restore)
        finally:
            # Else the next allocation makes the collector look at all of them.
            gc.freeze()
            gc.enable()
        log.info("took over %d clients of the daemon before", len(table))

    def _hold_tracepoints(self, kept: Mapping[str, int], numbers: Iterable[int]) -> dict[str, int]:
        """Return descriptors that keep tracepoints in use until the next daemon counts them; reuse ``kept``.

        Else the end of this process takes 36 ms for each of five (see PageCounter._follow_cpus), and its
        clients wait meanwhile.
        """
        held = {}
        for number in numbers:
            name = f"{TRACEPOINT}{number}"
            with suppress(OSError):
                held[name] = kept[name] if name in kept else hold_tracepoint(number)
        unused = kept.keys() - held - _OURS
        self._store.forget(unused)
        for name in unused:
            os.close(kept[name])
        return held

    def _kept_connections(self, kept: Kept) -> "dict[int, KeptConnection]":
        """Return the socket's connections by descriptor; close those of which no observer is known."""
        if CONNECTIONS not in kept.fds and not kept.clients:
            return {}
        self._store.forget([CONNECTIONS, CLIENT])
        # Here, as most daemons have no socket.
        from memnotify.transports.kept_connections import KeptConnectionsError, read  # noqa: PLC0415

        found = {}
        try:
            if self._server is not None:
                connections = read(kept.fds[CONNECTIONS], figure_names(self._settings))
                by_inode = {connection.inode: connection for connection in connections}
                # A client that has ended since is no more in the store.
                found = {
                    fd: by_inode[inode] for fd in kept.clients if (inode := os.fstat(fd).st_ino) in by_inode
                }
        except (KeyError, KeptConnectionsError) as error:
            log.warning("the clients of the socket are lost: %s", error)
        for fd in {*kept.clients, kept.fds.get(CONNECTIONS, -1)} - found.keys() - {-1}:
            os.close(fd)
        return found

    def leave(self, workers: Iterable[Worker]) -> list[tuple[str, int]]:
        """Return what the next daemon gets, by name, and store the socket's connections.

        First stop the ``workers``, which are all. Raises OSError.
        """
        stop_all(workers)
        self._sampler.settle()
        left = {} if self._server is None else self._server.left()
        kept = list(self.fds().items())
        if left:
            # Here, as it is used only at the end of the process.
            from memnotify.transports.kept_connections import write  # noqa: PLC0415

            state = write(left.values(), figure_names(self._settings))
            self._store.store({CONNECTIONS: state})
            self._store.store_all(CLIENT, list(left))
            kept += [(CONNECTIONS, state), *((CLIENT, fd) for fd in left)]
        return kept

    @contextmanager
    def _cancelled_on_error(self) -> Iterator[None]:
        """Empty the store if the block raises: the next process would fail in the same way."""
        try:
            yield
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Empty the store: the device is lost."""
        self._store.forget([SESSION, STATE])
        self._transport.store = None


def works() -> bool:
    """Return True if the program that would replace this one can start with the present configuration."""
    arguments = sys.orig_argv
    at = arguments.index("serve")
    check = [*arguments[:at], "check-config", "--here", *arguments[at + 1 :]]
    try:
        pid = os.posix_spawn(
            sys.executable,
            check,
            os.environ,
            file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
            setsigmask=[],
        )
    except OSError as error:
        log.error("%s cannot be started: %s", sys.executable, error.strerror)  # noqa: TRY400 - not a defect
        return False
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def replace_process(fds: Sequence[tuple[str, int]]) -> NoReturn:
    """Run the program anew in this process, which keeps ``fds``. No other thread may run. Raises OSError."""
    least = _PASSED_FD + len(fds)
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, least) for _, fd in fds]
    for fd, copy in enumerate(copies, start=_PASSED_FD):
        os.dup2(copy, fd)
    environment = os.environ | {
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": str(len(fds)),
        "LISTEN_FDNAMES": ":".join(name for name, _ in fds),
        # For `memnotify upgrade`, which waits until this changes.
        "MEMNOTIFY_REPLACED": str(int(os.environ.get("MEMNOTIFY_REPLACED", "0")) + 1),
    }
    os.execve(sys.executable, sys.orig_argv, environment)  # noqa: S606 - no shell is wanted
