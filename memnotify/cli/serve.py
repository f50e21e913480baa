# SPDX-License-Identifier: MIT
"""``memnotify serve``: the daemon, in the foreground."""

import argparse
import errno
import logging
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from memnotify import interrupts, logs
from memnotify.cli import EXTRA_MISSING, add_command
from memnotify.cli.loading import obstacle
from memnotify.config import files
from memnotify.config.settings import COMMAND_LINE, SETTINGS, ConfigError, Configuration, Given, Settings

if TYPE_CHECKING:
    from memnotify.daemon.status_socket import StatusSocket
    from memnotify.transports.unix_listener import Listener

log = logging.getLogger(__name__)

_DESCRIPTION = """\
Serve the memnotify device until SIGTERM or SIGINT. On SIGHUP the daemon reads
its configuration again, without loss of a client or an event. If its terminal
closes, the daemon ends.

If the kernel has CUSE and this user may open /dev/cuse, the device is a
character device /dev/NAME (udev sets its mode: 0600 without a rule). Otherwise
it is a FUSE file mounted at the same path, with the same behaviour. An
ordinary user serves such a file at $XDG_RUNTIME_DIR/NAME, or at a --path in
a directory of their own.

With --user, root becomes that user permanently once it has opened the device
and all else that needs root. Clients are served with that user's rights only.

With --socket, programs that cannot open the device (in a sandbox, or services
of systemd without CUSE) connect to an AF_UNIX stream socket instead: they
write one threshold per line, and get a line of figures for each event. A
listening socket that the service manager passes (memnotify.socket) is used
with or without --socket.
"""
_EPILOG = """\
exit codes: 0 asked to end; 1 the device cannot be served, or was lost; 2 invalid settings;
            4 the compiled module, cffi or libfuse3 is missing; 5 no memory was left
"""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand to the parser."""
    parser = add_command(commands, "serve", "serve /dev/memnotify", _DESCRIPTION, _EPILOG)
    add_settings(parser)
    parser.set_defaults(run=run)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add an option for the file and one for each setting; those not given are absent from the result."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="read FILE and FILE.d/*.toml, which have the options as KEY = VALUE"
        f" (default: {files.DEFAULT_FILE})",
    )
    for setting in SETTINGS.values():
        option = f"--{setting.name.replace('_', '-')}"
        text = setting.help.replace("%", "%%")
        if isinstance(setting.default, bool):
            for name, purpose in ((option, text), (setting.alias, f"same as {option}")):
                if name:
                    parser.add_argument(
                        name,
                        dest=setting.name,
                        action=argparse.BooleanOptionalAction,
                        default=argparse.SUPPRESS,
                        help=purpose,
                    )
            continue
        parser.add_argument(
            option,
            type=_texts if isinstance(setting.default, tuple) else type(setting.default),
            choices=setting.choices,
            metavar=setting.metavar,
            default=argparse.SUPPRESS,
            help=text,
        )


def load(options: argparse.Namespace) -> Configuration:
    """Return the configuration from the parsed options and the files. Raises ConfigError."""
    given = {name: Given(value, COMMAND_LINE) for name, value in vars(options).items() if name in SETTINGS}
    return files.load(options.config, given)


def run(options: argparse.Namespace) -> int:
    """Serve; return the exit code."""
    _occupy_standard_fds()
    # Block SIGHUP before the configuration is read: a signal that arrives now makes a reload as soon as the
    # device is served.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        return _serve(options)
    finally:
        signal.sigtimedwait({signal.SIGHUP}, 0)  # a pending one must not end the caller
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _serve(options: argparse.Namespace) -> int:
    logs.begin(sys.stderr)
    try:
        configuration = _Configuration(options)
        settings = configuration.read()
    except ConfigError as error:
        for problem in str(error).splitlines():
            log.error("%s", problem)  # noqa: TRY400 - the user's mistake needs no traceback
        return 2
    logging.getLogger().setLevel(settings.log_level.upper())
    missing = obstacle()
    if missing:
        log.error("%s; %s", *missing)
        return EXTRA_MISSING
    return _serve_device(settings, configuration)


def _serve_device(settings: Settings, configuration: "_Configuration") -> int:
    # Imported here so that the other commands neither load libfuse nor need it.
    from memnotify import daemon  # noqa: PLC0415
    from memnotify.daemon import takeover  # noqa: PLC0415
    from memnotify.daemon.privileges import PrivilegesError, find_user  # noqa: PLC0415
    from memnotify.kernel.meminfo import MemInfoError  # noqa: PLC0415
    from memnotify.transports import TransportError  # noqa: PLC0415
    from memnotify.transports.selection import select_transport  # noqa: PLC0415

    interrupts.raise_again()

    try:
        user = find_user(settings.user) if settings.user else None
    except PrivilegesError as error:
        log.error("%s", error)  # noqa: TRY400 - the user's mistake needs no traceback
        return 2
    try:
        with ExitStack() as undo:
            kept = takeover.take_kept()
            listener = _open_listener(settings, undo, replaces=takeover.SESSION in kept.fds)
            status_socket = _open_status_socket(
                settings, configuration, undo, kept.fds.get(takeover.STATUS, -1)
            )
            predecessor = takeover.take_over(kept.fds, settings)
            serving = daemon.serve(
                predecessor.transport
                if predecessor
                else select_transport(settings.transport, settings.name, settings.path or None),
                settings,
                listener,
                user=user,
                predecessor=predecessor,
                kept=kept,
                read=configuration.read,
                status_socket=status_socket,
            )
            return 0 if serving else 1
    except (TransportError, MemInfoError, PrivilegesError, OSError) as error:
        log.error("%s%s", error, _advice(error))  # noqa: TRY400 - the message says what to do
        return 1


def _advice(error: Exception) -> str:
    """Return what to do about an error of the operating system, if its text does not say so."""
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        return ": raise the limit of open files (ulimit -n, LimitNOFILE= in a unit)"
    if isinstance(error, FileNotFoundError) and str(error.filename).startswith("/proc/"):
        return ": mount /proc (mount -t proc proc /proc)"
    return ""


def _open_listener(settings: Settings, undo: ExitStack, *, replaces: bool) -> "Listener | None":
    """Return the listener at --socket or on the socket that was passed, or None.

    If this program ``replaces`` another one, the socket that was passed served its clients.
    """
    if not settings.socket and "LISTEN_PID" not in os.environ:
        return None
    # Imported here because a daemon without a socket does not need it in memory.
    from memnotify.transports.unix_listener import open_listener  # noqa: PLC0415

    listener = open_listener(settings.socket, int(settings.socket_mode, 8), stays=replaces)
    if listener is None:
        return None
    undo.callback(listener.close)
    log.info("clients may connect to %s too", listener.path)
    return listener


def _open_status_socket(
    settings: Settings, configuration: "_Configuration", undo: ExitStack, kept: int
) -> "StatusSocket | None":
    """Return the status socket, or None. ``kept`` is that of the program before, or -1."""
    if not settings.status_socket:
        if kept >= 0:
            os.close(kept)
        return None
    # Imported here for the same reason.
    from memnotify.daemon.status_socket import StatusSocket  # noqa: PLC0415

    made = StatusSocket(settings.status_socket, lambda: configuration.origins, kept)
    return undo.enter_context(closing(made))


class _Configuration:
    """The configuration as it was read last, with the origins of the settings in force."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self.origins: Mapping[str, str] = {}

    def read(self) -> Settings:
        """Read it, and return the settings. Raises ConfigError."""
        settings, origins = load(self._options)
        self.origins = {
            name: origin if SETTINGS[name].reloads else self.origins.get(name, origin)
            for name, origin in origins.items()
        }
        return settings


def _texts(text: str) -> tuple[str, ...]:
    """Convert an argument: a list separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _occupy_standard_fds() -> None:
    """Keep 0, 1 and 2 from becoming descriptors of the daemon: a library may print to them."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
