# SPDX-License-Identifier: MIT
"""The daemon's log on stderr: for people or for systemd's journal, limited where clients cause it."""

import logging
import os
import select
import threading
import time
from collections.abc import Callable, Mapping
from typing import TextIO

LIMITED = {"limited": True}
"""The ``extra`` of a message that a client can cause at any rate: RateLimitFilter passes one a second."""

EVERY_S = 1.0

# The numbers of syslog(3), which sd-daemon(3) uses
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def begin(stream: TextIO, environment: Mapping[str, str] = os.environ) -> None:
    """Log to ``stream``, which is stderr, from INFO on, unless a handler takes the log already."""
    handler = StderrHandler(stream)
    handler.addFilter(RateLimitFilter())
    handler.setFormatter(ForJournal() if _is_journal(environment) else ForPeople())
    logging.basicConfig(level="INFO", handlers=[handler])


class RateLimitFilter(logging.Filter):
    """Passes one LIMITED record of a kind each EVERY_S, with the number of those dropped before it.

    A kind is a message without its arguments. Any thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._passed_s: dict[str, float] = {}
        self._dropped: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True if the record is to be logged."""
        if not getattr(record, "limited", False):
            return True
        kind = str(record.msg)
        with self._lock:
            now_s = self._clock()
            if now_s - self._passed_s.get(kind, -EVERY_S) < EVERY_S:
                self._dropped[kind] = self._dropped.get(kind, 0) + 1
                return False
            self._passed_s[kind] = now_s
            record.dropped = self._dropped.pop(kind, 0)
        return True


class ForPeople(logging.Formatter):
    """The form for a terminal: program, level, message."""

    def __init__(self, form: str = "memnotify: %(levelname)s: %(message)s") -> None:
        super().__init__(form)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line, with the number of those that were dropped."""
        text = super().formatMessage(record)
        dropped = getattr(record, "dropped", 0)
        return f"{text} ({dropped} more of these dropped)" if dropped else text


class ForJournal(ForPeople):
    """The form for journald: a priority before each line. journald adds the program and the time."""

    def __init__(self) -> None:
        super().__init__("%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the text, a traceback included, with the priority before each line."""
        prefix = f"<{_PRIORITIES.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


class StderrHandler(logging.StreamHandler[TextIO]):
    """Drops a line for which stderr has no space: to wait for its reader would make clients wait."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record line by line: a pipe that polls writable has space for PIPE_BUF bytes."""
        poller = select.poll()
        poller.register(2, select.POLLOUT)
        try:
            for line in self.format(record).splitlines():
                if poller.poll(0) == [(2, select.POLLOUT)]:
                    self.stream.write(line + self.terminator)
                    self.flush()
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - as in logging's own handlers: a log must not end the daemon
            self.handleError(record)


def _is_journal(environment: Mapping[str, str]) -> bool:
    """Return True if stderr is the descriptor that systemd connected to the journal, not a redirection."""
    status = os.fstat(2)
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
