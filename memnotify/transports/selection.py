# SPDX-License-Identifier: MIT
"""The choice of the transport."""

import logging
import os

from memnotify.abi.paths import user_path
from memnotify.transports import Transport, TransportError, TransportUnavailableError
from memnotify.transports.cuse import CuseTransport
from memnotify.transports.fuse import FuseTransport

log = logging.getLogger(__name__)


def select_transport(kind: str, name: str, path: str | None) -> Transport:
    """Return the transport that ``kind`` asks for, at /dev/NAME unless a path is given.

    ``auto`` takes CUSE if this process can use it, unless a path asks for a file. Without a path, the file of
    an ordinary user is $XDG_RUNTIME_DIR/NAME. Raises TransportError.
    """
    node = f"/dev/{name}"
    if kind == "cuse" or (kind == "auto" and path in (None, node)):
        if path not in (None, node):
            raise TransportError(
                f"CUSE makes {node} and nothing else: leave --path out, or use --transport fuse"
            )
        try:
            transport = CuseTransport(name)
        except TransportUnavailableError as why:
            if kind == "cuse":
                raise TransportError(f"{why}; --transport fuse serves a file instead") from why
            log.info("no CUSE (%s): serving a FUSE file", why)
        else:
            if kind == "auto":
                log.info("CUSE is available: serving a character device")
            return transport
    elif kind == "auto":
        log.info("a path was given: serving a FUSE file")
    if path is None and os.geteuid() != 0:
        path = user_path(name)
        if path is None:
            raise TransportError(
                f"only root can serve {node}, and XDG_RUNTIME_DIR is not set: give a --path of your own,"
                f" such as --path ~/.{name}"
            )
        log.info("only root can serve %s: serving %s, which clients of this user find", node, path)
    return FuseTransport(node if path is None else path)
