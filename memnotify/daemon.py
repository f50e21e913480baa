# SPDX-License-Identifier: MIT
"""The daemon: puts the rooms together and lives from the first request to the last signal."""

import gc
import logging
import signal
import threading
from contextlib import ExitStack

from memnotify.config import Parameters
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

log = logging.getLogger(__name__)

# nohup has its way.
_STOP = {signal.SIGTERM, signal.SIGINT} | (
    set() if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else {signal.SIGHUP}
)


def serve(transport: Transport, parameters: Parameters) -> bool:
    """Serve until a signal asks to stop (True), or until the device is lost (False).

    Main thread only, and once in a process. Closes ``transport``. Raises TransportError if the device
    cannot be registered, MeterError or OSError if the kernel's memory files cannot be read.
    """
    # Until the session can take them and what was made is cleaned up after them.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    # Seven counters for each CPU are more than the usual 1,024 on a large machine.
    raise_fd_limit()
    table = Table()
    with ExitStack() as undo:
        undo.callback(transport.close)
        meter = undo.enter_context(Meter(pcp_is_free=parameters.pcp_is_free))
        meter.exact()  # if it cannot be read, say so before anybody is served
        sampler = Sampler(
            table,
            meter,
            Pace(
                parameters.update_period_ms / 1000,
                parameters.max_update_period_ms / 1000,
                min_update_period_s=parameters.min_update_period_ms / 1000,
                fill_rate_pages_s=parameters.fill_rate_mib_s * 2**20 / PAGE_SIZE,
            ),
            Session.notify,
            update_space_kib=parameters.update_space_kib,
            pressure_fd=open_trigger(),
            kicks=open_kicks() if parameters.count_pages else None,
        )
        device = Device(table, sampler, poll_acknowledges=parameters.poll_acknowledges)
        session = transport.connect(device)
        # From the last to the first: nobody notifies any more, nobody holds a handle, the clients are let go.
        undo.callback(session.close)
        undo.callback(lambda: Session.discard(table.close_all()))
        undo.callback(sampler.stop)
        return _live(session, transport, sampler)


def _live(session: Session, transport: Transport, sampler: Sampler) -> bool:
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
    sampler_failed = threading.Event()

    def fail() -> None:
        sampler_failed.set()
        signal.pthread_kill(main, signal.SIGTERM)

    if not lock_memory():
        log.info("memory is not locked: run as root, or raise RLIMIT_MEMLOCK")
    gc.freeze()
    sampler.start(fail)
    log.info("ready: %s, a %s", transport.path, transport.kind)
    if session.serve():
        names = ", ".join(signal.Signals(number).name for number in session.caught())
        if sampler_failed.is_set():
            return False
        log.info("%s: ending", names)
        return True
    log.error("%s is gone: the connection was ended from outside (umount, or abort in sysfs)", transport.path)
    return False
