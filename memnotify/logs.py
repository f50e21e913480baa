# SPDX-License-Identifier: MIT
"""The daemon's log: on stderr, for people or for systemd's journal, and no more of it than can be read."""

import logging
import os
import select
import threading
import time
from collections.abc import Callable, Mapping
from typing import TextIO

LIMITED = {"limited": True}
"""The ``extra`` of what a client can cause, as often as it likes: a Limiter lets one a second through."""

EVERY_S = 1.0

# By the numbers of syslog(3), which are those of sd-daemon(3)
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def begin(stream: TextIO, environment: Mapping[str, str] = os.environ) -> None:
    """Log to ``stream``, which is stderr, from INFO on, unless something takes the log already."""
    handler = StderrHandler(stream)
    handler.addFilter(Limiter())
    handler.setFormatter(ForJournal() if _is_journal(environment) else ForPeople())
    logging.basicConfig(level="INFO", handlers=[handler])


class Limiter(logging.Filter):
    """Lets one LIMITED record of a kind through each EVERY_S, with the number of those left out before it.

    A kind is a message before its arguments are put in. Any thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._let_through_s: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged."""
        if not getattr(record, "limited", False):
            return True
        kind = str(record.msg)
        with self._lock:
            now_s = self._clock()
            if now_s - self._let_through_s.get(kind, -EVERY_S) < EVERY_S:
                self._left_out[kind] = self._left_out.get(kind, 0) + 1
                return False
            self._let_through_s[kind] = now_s
            record.left_out = self._left_out.pop(kind, 0)
        return True


class ForPeople(logging.Formatter):
    """As one reads it in a terminal: who says it, how grave it is."""

    def __init__(self, form: str = "memnotify: %(levelname)s: %(message)s") -> None:
        super().__init__(form)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line, with the number of those that were left out."""
        text = super().formatMessage(record)
        left_out = getattr(record, "left_out", 0)
        return f"{text} ({left_out} more of these left out)" if left_out else text


class ForJournal(ForPeople):
    """As journald wants it: a priority before each line. Who says it, and when, it knows by itself."""

    def __init__(self) -> None:
        super().__init__("%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the text, a traceback too, with the priority before each of its lines."""
        prefix = f"<{_PRIORITIES.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


class StderrHandler(logging.StreamHandler[TextIO]):
    """Never waits for the reader of stderr, as clients would wait too; drops the lines that do not fit."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, a line at a time: one fits into what a pipe that has room then has, PIPE_BUF."""
        poller = select.poll()
        poller.register(2, select.POLLOUT)
        try:
            for line in self.format(record).splitlines():
                if poller.poll(0) == [(2, select.POLLOUT)]:
                    self.stream.write(line + self.terminator)
                    self.flush()
        except Exception:  # noqa: BLE001 - as logging's own handlers do: no log is worth the daemon
            self.handleError(record)


def _is_journal(environment: Mapping[str, str]) -> bool:
    """Whether stderr is what systemd has connected to the journal, and no redirection of it."""
    status = os.fstat(2)
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
