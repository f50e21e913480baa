# SPDX-License-Identifier: MIT
"""Where the metrics go: to HTTP clients, or to a file."""

import contextlib
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, generate_latest, make_wsgi_app
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from memnotify.cli.common import report
from memnotify.cli.exporter import metrics
from memnotify.cli.status import METHOD
from memnotify.cli.varlink import CallError, Connection

# Prometheus waits for 10 s by default.
_ASK_S = 5.0
_CLIENT_S = 10.0


class DaemonCollector(Collector):
    """Asks the daemon for each collection. Threads: any; one asks at a time, as connections are limited."""

    def __init__(self, socket_path: str) -> None:
        self._path = socket_path
        self._lock = threading.Lock()
        self._failure = ""

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics; report on stderr when the daemon stops to answer, and when it answers again."""
        found, failure = [], ""
        with self._lock:
            try:
                with Connection(self._path, _ASK_S) as connection:
                    status = connection.call(METHOD, observers=False)
                found = list(metrics.families(status))
            except CallError as error:
                failure = str(error)
            except (KeyError, TypeError) as error:
                failure = f"{self._path}: the status of another version of the daemon: {error}"
            if failure != self._failure:
                report("exporter", failure or f"{self._path}: the daemon answers")
            self._failure = failure
        yield metrics.up(answers=not failure)
        yield from found


def registry_of(socket_path: str) -> CollectorRegistry:
    """Return a registry with the metrics of the daemon and no others."""
    # Without auto_describe, to register asks nothing.
    registry = CollectorRegistry(auto_describe=False)
    registry.register(DaemonCollector(socket_path))
    return registry


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each client, so that a client that does not read delays no other."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that ends early is no error."""


class _Handler(WSGIRequestHandler):
    timeout = _CLIENT_S

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - its name there
        """Say nothing of a scrape."""


def serve(address: tuple[str, int], socket_path: str) -> None:
    """Serve HTTP until a signal. Raises OSError."""
    with _Server(address) as server:
        server.set_app(make_wsgi_app(registry_of(socket_path)))
        host, port = server.server_address[:2]
        shown = f"[{host!s}]" if server.address_family == socket.AF_INET6 else host
        report("exporter", f"ready: http://{shown!s}:{port}/metrics")
        server.serve_forever()


def write(path: str, socket_path: str, interval_s: float | None) -> None:
    """Write the metrics to a file, once, or every ``interval_s`` until a signal. Raises OSError."""
    registry = registry_of(socket_path)
    while True:
        _replace(path, generate_latest(registry))
        if interval_s is None:
            return
        time.sleep(interval_s)


def _replace(path: str, text: bytes) -> None:
    """Write a file; a reader finds the old one or the new one, whole. Raises OSError."""
    directory, name = os.path.split(path)
    # node_exporter ignores the name, which does not end in .prom.
    fd, new = tempfile.mkstemp(prefix=f"{name}.", dir=directory or ".")
    try:
        with open(fd, "wb") as file:
            file.write(text)
            os.fchmod(fd, 0o644)
        os.replace(new, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise
