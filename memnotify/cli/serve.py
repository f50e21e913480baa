# SPDX-License-Identifier: MIT
"""``memnotify serve``: the daemon, in the foreground."""

import argparse
import logging
import os
import signal
import sys
from contextlib import ExitStack

from memnotify import logs
from memnotify.cli import add_command
from memnotify.config import files
from memnotify.config.settings import COMMAND_LINE, SETTINGS, ConfigError, Configuration, Given

_DESCRIPTION = """\
Serve the memnotify device until SIGTERM or SIGINT. SIGHUP makes the daemon read
its configuration again, without losing a client or an event. If its terminal
closes, the daemon ends.

If the kernel has CUSE and this user may open /dev/cuse, the device is a
character device /dev/NAME (udev sets its mode: 0600 without a rule). Otherwise
it is a FUSE file mounted at the same path, with the same behaviour. An ordinary
user can serve one at a --path that this user may write to.

With --user, root becomes that user for good, once the device and everything
else that needs root is open, before the first client is served.

With --socket, programs that cannot open the device (in a sandbox, or systemd's
services without CUSE) connect to an AF_UNIX stream socket instead: they write
thresholds, one set per line, and read a line of figures for each event.
"""
_EPILOG = """\
exit codes: 0 asked to end; 1 the device cannot be served, or was lost; 2 invalid settings
"""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand to the parser."""
    parser = add_command(commands, "serve", "serve /dev/memnotify", _DESCRIPTION, _EPILOG)
    add_settings(parser)
    parser.set_defaults(run=run)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add --config and an option for each setting. The result has only the settings that are given."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        help=f"read FILE and FILE.d/*.toml, with options as KEY = VALUE (default: {files.DEFAULT_FILE})",
    )
    for setting in SETTINGS.values():
        option = f"--{setting.name.replace('_', '-')}"
        text = setting.help.replace("%", "%%")
        if isinstance(setting.default, bool):
            parser.add_argument(
                option, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text
            )
            continue
        parser.add_argument(
            option,
            type=_texts if isinstance(setting.default, tuple) else type(setting.default),
            choices=setting.about.choices,
            metavar=setting.about.metavar,
            default=argparse.SUPPRESS,
            help=text,
        )


def load(options: argparse.Namespace) -> Configuration:
    """Return the configuration of the parsed options and the files. Raises ConfigError."""
    given = {name: Given(value, COMMAND_LINE) for name, value in vars(options).items() if name in SETTINGS}
    return files.load(options.config, given)


def run(options: argparse.Namespace) -> int:
    """Serve; return the exit code."""
    _occupy_standard_fds()
    # Blocked before the configuration is read: a SIGHUP from now on reads it again once the device is served.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        return _serve(options)
    finally:
        signal.sigtimedwait({signal.SIGHUP}, 0)  # drop a pending one, which would end the process
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _serve(options: argparse.Namespace) -> int:
    logs.begin(sys.stderr)
    log = logging.getLogger(__name__)
    try:
        settings = load(options).settings
    except ConfigError as error:
        for problem in str(error).splitlines():
            log.error("%s", problem)  # noqa: TRY400 - a mistake of the user needs no traceback
        return 2
    logging.getLogger().setLevel(settings.log_level.upper())
    # Here, so that the other commands neither load nor need libfuse.
    from memnotify import daemon  # noqa: PLC0415
    from memnotify.daemon.privileges import PrivilegesError, find_user  # noqa: PLC0415
    from memnotify.kernel.meminfo import MemInfoError  # noqa: PLC0415
    from memnotify.transports import TransportError  # noqa: PLC0415
    from memnotify.transports.selection import select_transport  # noqa: PLC0415

    try:
        user = find_user(settings.user) if settings.user else None
    except PrivilegesError as error:
        log.error("%s", error)  # noqa: TRY400 - a mistake of the user needs no traceback
        return 2
    try:
        with ExitStack() as undo:
            listener = None
            if settings.socket:
                # The daemon keeps in memory what it imports.
                from memnotify.transports.unix_listener import Listener  # noqa: PLC0415

                listener = Listener(settings.socket, int(settings.socket_mode, 8))
                undo.callback(listener.close)
                log.info("clients may connect to %s too", listener.path)
            transport = select_transport(settings.transport, settings.name, settings.path or None)
            serving = daemon.serve(
                transport, settings, listener, user=user, read=lambda: load(options).settings
            )
            return 0 if serving else 1
    except (TransportError, MemInfoError, PrivilegesError, OSError) as error:
        log.error("%s", error)  # noqa: TRY400 - the message says what to do
        return 1


def _texts(text: str) -> tuple[str, ...]:
    """Convert an argument: a list separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _occupy_standard_fds() -> None:
    """Open /dev/null as 0, 1 and 2 where they are closed, so that nothing is printed to another file."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
