# SPDX-License-Identifier: MIT
"""The replies of the status socket: what the daemon does, by the Varlink protocol."""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from memnotify import __version__
from memnotify.config.settings import SETTINGS
from memnotify.daemon.injection import Injection
from memnotify.daemon.running import Engine
from memnotify.daemon.status_observers import ShownObservers
from memnotify.engine.latencies import BOUNDS_S
from memnotify.kernel.meminfo import MemInfoError

INTERFACE = "org.memnotify.Daemon"
_SERVICE = "org.varlink.service"
_UNAVAILABLE = "not available: the log says why"
_ERRORS = {
    "MethodNotFound": "method",
    "InvalidParameter": "parameter",
    "InterfaceNotFound": "interface",
}


class _RefusedError(Exception):
    """A request is answered by an error: its name and the value of its one parameter."""


class StatusSource:
    """Makes the reply for a user. Threads: the main thread."""

    def __init__(
        self, engine: Engine, origins: Callable[[], Mapping[str, str]], description: str, since_s: float
    ) -> None:
        """``since_s`` is when the daemon began to serve, since the epoch."""
        self._engine = engine
        self._origins = origins
        self._description = description
        self._since_s = since_s
        self.injection = Injection(engine.sampler)
        self._observers = ShownObservers(engine.table, [*engine.sampler.names, "cgroup"])

    @property
    def due_in_s(self) -> float:
        """In how many seconds ``do_due`` has something to do; infinite if nothing is due."""
        return min(self.injection.due_in_s, self._observers.due_in_s)

    def do_due(self) -> None:
        """End the injection, and forget the observers, if it is time."""
        self.injection.do_due()
        self._observers.do_due()

    def reply(self, request: Any, uid: int) -> Iterator[bytes]:
        """Return the parts of the reply to a request, without the NUL. Each is made when it is asked for."""
        try:
            method = request["method"]
            parameters = request.get("parameters") or {}
            if method == f"{INTERFACE}.GetStatus":
                observers = parameters.get("observers", True)
                if not isinstance(observers, bool):
                    raise _RefusedError("InvalidParameter", "observers")
                return self._status(uid, observers=observers)
            answer: dict[str, object] = {"parameters": self._call(method, parameters)}
        except _RefusedError as refusal:
            kind, value = refusal.args
            answer = {"error": f"{_SERVICE}.{kind}", "parameters": {_ERRORS[kind]: value}}
        return iter((json.dumps(answer).encode(),))

    def _call(self, method: object, parameters: Mapping[str, object]) -> dict[str, object]:
        if method == f"{_SERVICE}.GetInfo":
            return {
                "vendor": "memnotify",
                "product": "memnotify",
                "version": __version__,
                "url": "",
                "interfaces": [_SERVICE, INTERFACE],
            }
        if method == f"{_SERVICE}.GetInterfaceDescription":
            wanted = parameters.get("interface")
            if wanted != INTERFACE:
                raise _RefusedError("InterfaceNotFound", str(wanted))
            return {"description": self._description}
        raise _RefusedError("MethodNotFound", str(method))

    def _status(self, uid: int, *, observers: bool) -> Iterator[bytes]:
        table = self._engine.table
        status = json.dumps(
            {
                "version": __version__,
                "path": self._engine.transport.path,
                "transport": self._engine.transport.kind,
                "pid": os.getpid(),
                "since": round(self._since_s, 3),
                "figures": self._figures(),
                "settings": self._settings(),
                "sampler": self._sampler(),
                "injection": self.injection.state,
                "thresholds": self._threshold_counts(),
                "observer_count": len(table),
                "events": table.events,
                "refused_writes": table.refused,
                "failed_readings": self._engine.sampler.failures,
            }
        )
        yield f'{{"parameters":{status[:-1]},"observers":['.encode()
        if observers:
            yield from self._observers.parts(uid)
        yield b"]}}"

    def _figures(self) -> list[dict[str, object]]:
        sampler = self._engine.sampler
        try:
            sample = sampler.cached() or sampler.refresh()
        except MemInfoError:
            return []
        return [
            {"name": name, "pages": pages} for name, pages in zip(sampler.names, sample.figures, strict=True)
        ]

    def _settings(self) -> list[dict[str, str]]:
        settings, origins = self._engine.reloader.settings, self._origins()
        return [
            {
                "name": setting.name,
                "value": _as_text(getattr(settings, setting.attribute)),
                "unit": setting.unit,
                "origin": origins.get(setting.name, ""),
            }
            for setting in SETTINGS.values()
        ]

    def _sampler(self) -> dict[str, object]:
        sampler, table = self._engine.sampler, self._engine.table
        interval = sampler.interval
        age_s = time.monotonic() - table.latest.taken_s
        return {
            "watching": table.watching,
            "interval": round(interval.timer_s, 6) if table.watching else None,
            "reason": interval.reason if table.watching else "no observer has a threshold",
            "page_counters": self._page_counters(),
            "pressure_trigger": _UNAVAILABLE if sampler.pressure_window_s is None else "in use",
            "pressure_window": sampler.pressure_window_s,
            "last_sample_age": round(age_s, 6) if math.isfinite(age_s) else None,
            "samples": sampler.samples,
            "wakeups": sampler.wakeups,
            "wake_latencies": self._wake_latencies(),
        }

    def _wake_latencies(self) -> dict[str, object]:
        latencies = self._engine.sampler.latencies
        counts = latencies.counts.tolist()
        classes = [
            {"up_to": bound_s, "count": count} for bound_s, count in zip(BOUNDS_S, counts, strict=False)
        ]
        return {"sum": latencies.total_s, "classes": [*classes, {"up_to": None, "count": counts[-1]}]}

    def _threshold_counts(self) -> list[dict[str, object]]:
        return [
            {
                "name": self._name(each.figure),
                "above": each.above,
                "count": each.armed,
                "crossings": each.crossings,
            }
            for each in self._engine.table.threshold_counts()
        ]

    def _name(self, figure: int) -> str:
        names = self._engine.sampler.names
        return names[figure] if figure < len(names) else "cgroup"

    def _page_counters(self) -> str:
        if self._engine.sampler.has_page_counters:
            return "in use"
        if not self._engine.reloader.settings.count_pages:
            return "off: count_pages is false"
        return _UNAVAILABLE


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(value) if isinstance(value, tuple) else str(value)
