# SPDX-License-Identifier: MIT
"""The observers in a reply of the status socket, in parts of which each is kept for the next reply."""

import json
import math
import mmap
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from memnotify.engine.observer import NEVER_S
from memnotify.engine.table import Fingerprint, ObserverState, ObserverTable

# Describing so many holds the interpreter's lock for 0.2 ms, comparing them for 0.03; then the server rests.
_OBSERVERS_IN_PART = 100
# For so long after a reply its parts are kept: 3 MB for 10,000 observers.
_KEPT_S = 10.0
_FALSE_TRUE = ("false", "true")


class _Part(NamedTuple):
    """Observers as they were shown to a user. ``text`` has a place for the age of each of ``events_s``."""

    uid: int
    fingerprint: Fingerprint
    processes: dict[int, str]
    text: mmap.mmap | None
    events_s: list[float]


class ShownObservers:
    """The objects of the observers; a part is made again only if an observer in it has changed.

    Most do not change between two replies. Threads: the main thread.
    """

    def __init__(self, table: ObserverTable, names: Sequence[str]) -> None:
        """``names`` are those of the figures by the table's index. They need no escapes in JSON."""
        self._table = table
        self._names = names
        # By the index of the first observer.
        self._parts: dict[int, _Part] = {}
        self._due_s = math.inf

    @property
    def due_in_s(self) -> float:
        """In how many seconds ``do_due`` forgets the parts; infinite if there are none."""
        return max(0.0, self._due_s - time.monotonic())

    def do_due(self) -> None:
        """Forget the parts if no reply has been made for some time."""
        if not self.due_in_s:
            self._parts.clear()
            self._due_s = math.inf

    def parts(self, uid: int) -> Iterator[bytes]:
        """Yield the objects of the observers that the user may see, a part at a time."""
        processes: dict[int, str] = {}
        fhs = self._table.fhs()
        separator = b""
        for first in range(0, len(fhs), _OBSERVERS_IN_PART):
            self._due_s = time.monotonic() + _KEPT_S
            part = self._part(first, fhs[first : first + _OBSERVERS_IN_PART], uid, processes)
            if part.text is not None:
                now_s = time.monotonic()
                yield separator + part.text[:] % tuple([now_s - event_s for event_s in part.events_s])
                separator = b","
            else:
                # The server rests after this too.
                yield b" "
        for first in [first for first in self._parts if first >= len(fhs)]:
            del self._parts[first]

    def _part(self, first: int, fhs: list[int], uid: int, processes: dict[int, str]) -> _Part:
        """Return a part, the kept one if it is right; ``processes`` has what this reply knows of them."""
        # Before the states: if one changes in between, the next reply finds another fingerprint.
        fingerprint = self._table.fingerprint(fhs)
        part = self._parts.get(first)
        if (
            part is None
            or part.uid != uid
            or part.fingerprint != fingerprint
            or any(_known(opener, processes) != text for opener, text in part.processes.items())
        ):
            states = self._table.describe(fhs, uid)
            shown = {opener: _known(opener, processes) for opener in {state[1] for state in states}}
            text = ",".join([_observer(state, shown[state[1]], self._names) for state in states])
            events_s = [state[4] for state in states if state[4] != NEVER_S]
            part = self._parts[first] = _Part(uid, fingerprint, shown, _in_own_pages(text.encode()), events_s)
        return part


def _observer(state: ObserverState, process: str, names: Sequence[str]) -> str:
    """Return the object of an observer, a format for ``%`` if it had an event; ``process`` has its members.

    Made here, as json takes five times as long.
    """
    fh, _, pending, events, event_s, thresholds = state
    shown = [
        f'{{"name":"{names[figure]}","pages":{pages},"above":{_FALSE_TRUE[not rising]},"next_pages":{level}}}'
        for figure, pages, rising, level in thresholds
    ]
    age = "null" if event_s == NEVER_S else "%.3f"
    return (
        f'{{"id":{fh},{process},"pending":{_FALSE_TRUE[pending]},"events":{events},'
        f'"last_event_age":{age},"thresholds":[{",".join(shown)}]}}'
    )


def _in_own_pages(text: bytes) -> mmap.mmap | None:
    """Return a copy that the kernel gets back once it is forgotten, or None; the heap would keep 2 MB."""
    if not text:
        return None
    pages = mmap.mmap(-1, len(text))
    pages[:] = text
    return pages


def _known(opener: int, processes: dict[int, str]) -> str:
    text = processes.get(opener)
    if text is None:
        text = processes[opener] = _process(opener)
    return text


def _process(opener: int) -> str:
    """Return the members of a process, its command and cgroup as far as they can be had, for ``%``."""
    pid, uid = opener >> 32, opener & 0xFFFFFFFF
    found = {"pid": pid, "uid": uid, "command": "", "cgroup": ""}
    if pid:
        for key, file in (("command", "comm"), ("cgroup", "cgroup")):
            try:
                with open(f"/proc/{pid}/{file}", encoding="utf-8", errors="replace") as lines:
                    found[key] = lines.read(4096).rstrip("\n").rpartition("\n")[2].rpartition("::")[2]
            except OSError:
                pass
    return json.dumps(found)[1:-1].replace("%", "%%")
