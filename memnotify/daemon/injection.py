# SPDX-License-Identifier: MIT
"""Made-up figures in place of the real ones, for a while: methods of the status socket, for root."""

import json
import logging
import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from memnotify.abi.figures import Figures
from memnotify.abi.thresholds import Level, parse
from memnotify.engine.sampler import FigureReader, Sampler
from memnotify.kernel.meminfo import MemInfoError

log = logging.getLogger(__name__)

INJECT = "org.memnotify.Daemon.Inject"
END = "org.memnotify.Daemon.EndInjection"
LONGEST_S = 3600.0
"""No injection is longer."""
_TIME_IS_OVER = "its time is over"


class _RefusedError(Exception):
    """A request is refused: the name of the error, its parameter and that parameter's value."""


class _InjectedReader:
    """Reads the real figures and replaces some, until ``end_s`` on the clock; after that it replaces none."""

    def __init__(
        self, real: FigureReader, levels: Mapping[int, Level], end_s: float, clock: Callable[[], float]
    ) -> None:
        self.real, self._levels, self.end_s, self._clock = real, levels, end_s, clock

    @property
    def names(self) -> Sequence[str]:
        return self.real.names

    @property
    def pcp_is_free(self) -> bool:
        return self.real.pcp_is_free

    @property
    def pcp_limit_pages(self) -> int:
        return self.real.pcp_limit_pages

    def read_plain(self) -> Figures:
        return self._injected(self.real.read_plain())

    def read_exact(self, plain: Figures | None = None) -> tuple[Figures, int]:  # noqa: ARG002 - not the real ones
        figures, pcp_pages = self.real.read_exact()
        return self._injected(figures), pcp_pages

    def _injected(self, figures: Figures) -> Figures:
        if self._clock() >= self.end_s:
            return figures
        total = figures.total
        pages = {index: min(total, level.pages(total)) for index, level in self._levels.items()}
        return figures._replace(**{figures._fields[index]: each for index, each in pages.items()})


class Injection:
    """One injection at a time. Its owner is a connection to the status socket; with that it ends.

    When its time is over, the reader returns the real figures, whatever this object does. Clients are
    notified of the begin and of the end as of any sample. Threads: the main thread.
    """

    def __init__(self, sampler: Sampler, clock: Callable[[], float] = time.monotonic) -> None:
        self._sampler = sampler
        self._clock = clock
        self._owner: Hashable = None
        self._reader: _InjectedReader | None = None
        self._begun_s = 0.0
        self._what = ""
        self._pid = 0

    @property
    def due_in_s(self) -> float:
        """In how many seconds ``do_due`` ends the injection; infinite without one."""
        return math.inf if self._reader is None else max(0.0, self._reader.end_s - self._clock())

    @property
    def state(self) -> dict[str, object] | None:
        """The injection for the status."""
        if self._reader is None:
            return None
        return {"figures": self._what, "pid": self._pid, "ends_in": round(self.due_in_s, 3)}

    def do_due(self) -> None:
        """End the injection if its time is over."""
        if not self.due_in_s:
            self._end(_TIME_IS_OVER)

    def owner_is_gone(self, owner: Hashable) -> None:
        """End the injection of an owner whose connection has ended."""
        if self._reader is not None and owner == self._owner:
            self._end(f"process {self._pid}, which injected them, has ended or closed its connection")

    def close(self) -> None:
        """End the injection because the daemon ends."""
        self._end("the daemon ends or is replaced")

    def reply(self, request: Any, owner: Hashable, *, uid: int, pid: int) -> bytes | None:
        """Return the reply to a request, None if it is for none of these methods."""
        if request["method"] not in (INJECT, END):
            return None
        try:
            if uid != 0:
                raise _RefusedError("org.varlink.service.PermissionDenied")
            if request["method"] == INJECT:
                parameters = request.get("parameters") or {}
                self._begin(parameters.get("figures"), parameters.get("seconds"), owner, pid)
            elif self._reader is not None and owner == self._owner:
                self._end(f"process {self._pid}, which injected them, asked for that")
        except _RefusedError as refusal:
            kind, *reason = refusal.args
            parameters = dict(zip(("reason",), reason, strict=False))
            return json.dumps({"error": kind, "parameters": parameters}).encode()
        return b'{"parameters":{}}'

    def _begin(self, text: object, seconds: object, owner: Hashable, pid: int) -> None:
        levels = self._levels(text)
        if not isinstance(seconds, int | float) or not 0 < seconds <= LONGEST_S:
            raise _refused(f"seconds is {seconds!r}: it must be above 0, at most {LONGEST_S:g}")
        if self._reader is not None:
            raise _refused(f"process {self._pid} injects already: {self._what}")
        self._begun_s = self._clock()
        self._owner, self._pid, self._what = owner, pid, str(text)
        real = self._sampler.reader
        self._reader = _InjectedReader(real, levels, self._begun_s + seconds, self._clock)
        log.warning(
            "INJECTION begins: figures are NOT REAL for at most %g s: %s, by process %d",
            seconds,
            self._what,
            pid,
        )
        self._sampler.set_reader(self._reader)
        try:
            self._sampler.refresh()
        except MemInfoError as error:
            self._end("the real figures cannot be read")
            raise _refused(str(error)) from None

    def _levels(self, text: object) -> Mapping[int, Level]:
        names = self._sampler.names
        try:
            levels = parse(str(text).encode(), names)
        except ValueError as error:
            raise _refused(str(error)) from None
        if not levels or 0 in levels:
            raise _refused(f"{text}: give values above 0, of these: {', '.join(names[1:])}")
        return levels

    def _end(self, reason: str) -> None:
        if self._reader is None:
            return
        self._sampler.set_reader(self._reader.real)
        self._reader = self._owner = None
        # If this fails, the sampler tries again by itself.
        with suppress(MemInfoError):
            self._sampler.refresh()
        log.warning(
            "INJECTION ended after %.1f s (%s): the figures are real again",
            self._clock() - self._begun_s,
            reason,
        )


def _refused(reason: str) -> _RefusedError:
    return _RefusedError("org.memnotify.Daemon.InjectionRefused", reason)
