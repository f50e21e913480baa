# SPDX-License-Identifier: MIT
"""The D-Bus service of ``memnotify lowmem-bus``: the only module that needs dbus-fast."""

import asyncio
import contextlib
import signal
from collections.abc import Mapping

from dbus_fast import BusType, ErrorType, Message, MessageType, RequestNameReply
from dbus_fast.aio import MessageBus
from dbus_fast.errors import AuthError, DBusError, InvalidAddressError
from dbus_fast.service import ServiceInterface
from dbus_fast.service import signal as dbus_signal  # the older name, which Debian's releases have

from memnotify.cli.common import NOTHING_WATCHED, echo, explain, holding, loss, report, subscribe
from memnotify.cli.lowmem_bus.levels import LEVELS, WarningLimiter
from memnotify.client import Crossed, Lost, Memnotify, Restored

NAME = "org.freedesktop.LowMemoryMonitor"
PATH = "/org/freedesktop/LowMemoryMonitor"
_GATHER_S = 0.01
"""How long the service waits for other levels: what crosses at once is notified one after the other."""
_SUBSCRIBE_S = 1.0
"""How long what is exceeded at the start waits: GLib's monitor subscribes once the name has appeared."""


class LowMemoryMonitor(ServiceInterface):
    """The object on the bus."""

    def __init__(self) -> None:
        super().__init__(NAME)

    @dbus_signal(name="LowMemoryWarning")
    def warn(self, level: int) -> "y":  # type: ignore[name-defined] # noqa: F821 - D-Bus's byte, for old releases
        """Send the signal."""
        return level


def serve(path: str, thresholds: Mapping[int, str], limiter: WarningLimiter) -> int:
    """Send a warning for each level that is reached, until asked to end; return the exit code."""
    with contextlib.ExitStack() as opened:
        devices: dict[int, Memnotify] = {}
        watched = False
        for level, text in thresholds.items():
            try:
                devices[level] = opened.enter_context(Memnotify(path))
                subscribe("lowmem-bus", devices[level], text)
                echo("lowmem-bus", devices[level], until_reached=False)
            except OSError as error:
                _report(explain(path, error))
                return 2
            watched |= bool(devices[level].thresholds)
        if not watched:
            _report(NOTHING_WATCHED)
            return 2
        return asyncio.run(_Service(path, devices, limiter).run())


async def _connect() -> MessageBus:
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    name = bus.unique_name or ""
    # If the bus refuses the connection, dbus-fast stores the error as the connection's name.
    if not name.startswith(":"):
        bus.disconnect()
        raise DBusError(ErrorType.FAILED, name)
    return bus


class _Service:
    """The service between the devices, by level, and the bus. For one event loop."""

    def __init__(self, path: str, devices: Mapping[int, Memnotify], limiter: WarningLimiter) -> None:
        self._path = path
        self._devices = devices
        self._limiter = limiter
        self._monitor = LowMemoryMonitor()
        self._owned = False
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> int:
        """Serve; return the exit code."""
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        try:
            bus = await _connect()
        except (OSError, InvalidAddressError) as error:
            _report(f"no system bus: {error}; install and start dbus")
            return 1
        except (EOFError, AuthError, DBusError) as error:
            _report(f"the system bus refuses the connection: {str(error) or 'it was closed'}")
            return 1
        lost = asyncio.ensure_future(bus.wait_for_disconnect())  # type: ignore[no-untyped-call] # its own gap
        lost.add_done_callback(self._bus_ended)
        try:
            return await self._serve(bus)
        finally:
            for device in self._devices.values():
                self._loop.remove_reader(device)
            if self._timer is not None:
                self._timer.cancel()
            lost.remove_done_callback(self._bus_ended)
            bus.disconnect()
            # An error of the connection was reported, or does not matter any more.
            await asyncio.wait([lost])
            lost.exception()

    async def _serve(self, bus: MessageBus) -> int:
        bus.export(PATH, self._monitor)
        bus.add_message_handler(self._on_message)
        try:
            reply = await bus.request_name(NAME)
        except DBusError as error:
            _report(f"{error.text}; copy dbus/{NAME}.conf to /etc/dbus-1/system.d")
            return 1
        except (OSError, EOFError):
            return await self._ended
        if reply is RequestNameReply.IN_QUEUE:
            self._begin(f"{NAME} is taken: waiting for it")
        else:
            self._own()
        for level, device in self._devices.items():
            self._limiter.note(level, holding(device, up=True))
            self._loop.add_reader(device, self._take_events)
        self._limiter.hold(self._loop.time(), _SUBSCRIBE_S)
        self._warn()
        return await self._ended

    def _on_message(self, message: Message) -> None:
        """Take over when the bus says so: this connection is in its queue for the name."""
        if (
            message.message_type is MessageType.SIGNAL
            and message.sender == "org.freedesktop.DBus"
            and message.member == "NameAcquired"
            and message.body == [NAME]
        ):
            self._own()

    def _own(self) -> None:
        if not self._owned:
            self._owned = True
            self._begin(f"ready: {NAME} on the system bus")

    def _begin(self, text: str) -> None:
        """Report the state of the name, and from now on end when asked to."""
        # Not before this: while the bus does not answer, the future is not awaited, and the signal itself
        # must end the process. A signal that was ignored at the start stays ignored.
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) != signal.SIG_IGN:
                self._loop.add_signal_handler(number, self._end, 0)
        _report(text)

    def _take_events(self) -> None:
        """Handle the events of all devices: if two levels are reached at once, one warning is sent."""
        for level, device in self._devices.items():
            try:
                event = device.wait(0)
            except OSError as error:  # a new daemon lacks a figure of the old one
                _report(explain(self._path, error))
                self._end(1)
                return
            if isinstance(event, Crossed | Restored):
                self._limiter.note(level, event.changes)
            # All devices have the same daemon: report its end once.
            if device is self._devices[LEVELS["critical"]]:
                if isinstance(event, Lost):
                    _report(f"{self._path}: {loss(event.error)}")
                if isinstance(event, Restored):
                    _report(f"{self._path}: the device is served again")
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(_GATHER_S, self._warn)

    def _warn(self) -> None:
        """Send the warning that is due, and set a timer for the next."""
        now_s = self._loop.time()
        level = self._limiter.take(now_s)
        # Without the name, the service that has it decides.
        if level is not None and self._owned:
            self._monitor.warn(level)
            _report(f"warned: {level}, {next(name for name, number in LEVELS.items() if number == level)}")
        if self._timer is not None:
            self._timer.cancel()
        wait_s = self._limiter.wait_s(now_s)
        self._timer = None if wait_s is None else self._loop.call_later(wait_s, self._warn)

    def _bus_ended(self, _: "asyncio.Future[None]") -> None:
        _report("the system bus has ended")
        self._end(1)

    def _end(self, code: int) -> None:
        if not self._ended.done():
            self._ended.set_result(code)


def _report(text: str) -> None:
    report("lowmem-bus", text)
