# SPDX-License-Identifier: MIT
"""The course of made-up figures over time, from a script or from a recording. Pure."""

import bisect
import json
import math
import re
from typing import Any, NamedTuple

from memnotify.abi.figures import PAGE_SIZE
from memnotify.simulation.amounts import MOVED, Amounts, SimulatedFigures, pages_of

STEP_S = 0.02
"""How often the figures move during a ramp."""
START = b"start"
"""The message on which a course begins."""
RECORDING = "memnotify recording"
"""The key of the first line of a recording; its value is the version of the format."""

ALLOWED = """\
total SIZE                   the machine's memory, such as 'total 16G'; first, before time passes
[at TIME] FIGURE AMOUNT ...  set figures, such as 'at 0s used 40% cgroup 1G'
ramp [FIGURE] to AMOUNT in TIME
drop [FIGURE] to AMOUNT      at once; 'rise' is the same
hold TIME
FIGURE is used (if left out), active, cgroup or cgroup_limit (of the one cgroup of every client)
AMOUNT is like 40%, 6G or 5000 (pages), TIME like 10s, 500ms or 2m"""
"""The statements of a script."""

_TIME = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
# Beyond, a step is lost in the rounding of the time.
_TIME_MAX_S = 1e9
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}


class ScriptError(ValueError):
    """A script or recording is not understood. The text names the position and what is allowed."""


class Moment(NamedTuple):
    """The figures at a time, in seconds from the start."""

    when_s: float
    figures: SimulatedFigures


class Course:
    """Figures over time: linear between two moments; of two at the same time the second one counts."""

    def __init__(self, moments: list[Moment]) -> None:
        self._moments = moments
        self._times = [moment.when_s for moment in moments]

    @property
    def end_s(self) -> float:
        """When the figures have moved for the last time."""
        return self._times[-1]

    def at(self, when_s: float) -> SimulatedFigures:
        """Return the figures at a time."""
        after = bisect.bisect_right(self._times, when_s)
        before = self._moments[max(0, after - 1)]
        if after in (0, len(self._moments)):
            return before.figures
        share = (when_s - before.when_s) / (self._times[after] - before.when_s)
        pairs = zip(before.figures, self._moments[after].figures, strict=True)
        return SimulatedFigures(*(round(one + (other - one) * share) for one, other in pairs))

    def next_s(self, when_s: float) -> float:
        """Return the time of the next move; infinite after the last one."""
        after = bisect.bisect_right(self._times, when_s)
        if after == len(self._times):
            return math.inf
        if self._moments[after].figures == self._moments[after - 1].figures:
            return self._times[after]
        return min(when_s + STEP_S, self._times[after])


def read_script(text: str) -> Course:
    """Return the course that a script describes. Raises ScriptError."""
    return _Parser(text).course()


def read_recording(text: str) -> Course:
    """Return the course of a recording by ``memnotify watch --record``: figures hold until the next ones.

    Raises ScriptError.
    """
    moments: list[Moment] = []
    page_size = PAGE_SIZE
    for number, line in enumerate(text.splitlines(), 1):
        try:
            fields = json.loads(line)
            if number == 1:
                page_size = _page_size(fields)
                continue
            when_s, *pages = map(float, fields)
            figures = _recorded(*(round(each * page_size / PAGE_SIZE) for each in pages))
            if not (
                _TIME_MAX_S >= when_s >= (moments[-1].when_s if moments else 0)
                and 0 <= min(figures) <= max(figures) <= figures.total
            ):
                raise ValueError
        except (ValueError, TypeError, KeyError, OverflowError):
            raise ScriptError(
                f"line {number} of the recording is not understood: after a first line with"
                f' "{RECORDING}" and "page_size", each is [SECONDS, TOTAL, USED, ACTIVE]'
                " or [SECONDS, TOTAL, USED, ACTIVE, CGROUP, CGROUP_LIMIT], in pages, in the order of time"
            ) from None
        if moments:
            moments.append(Moment(when_s, moments[-1].figures))
        moments.append(Moment(when_s, figures))
    if not moments:
        raise ScriptError("the recording has no figures")
    return Course(moments)


def _recorded(total: int, used: int, active: int, *cgroup: int) -> SimulatedFigures:
    return SimulatedFigures(total, used, active, *(cgroup or (total // 2, total)))


def _page_size(fields: Any) -> int:
    if fields[RECORDING] != 1 or not 0 < fields["page_size"] <= 2**24:
        raise ValueError
    return int(fields["page_size"])


class _Parser:
    """The words of a script, taken one after the other."""

    def __init__(self, text: str) -> None:
        self._text = text
        plain = re.sub("#.*", lambda note: " " * len(note[0]), text)
        self._words = list(re.finditer(r"[;\n]|[^\s;]+", plain))
        self._place = 0
        amounts = Amounts()
        self._total: int | str = amounts.total
        self._moments = [Moment(0.0, amounts.figures())]

    def course(self) -> Course:
        """Return the whole course."""
        statements = 0
        while self._place < len(self._words):
            if self._peek() not in (";", "\n"):
                self._statement()
                statements += 1
            if self._peek() not in (";", "\n", ""):
                raise self._error("';' or the end of the line")
            self._place += 1
        if not statements:
            raise self._error("a statement")
        return Course(self._moments)

    def _statement(self) -> None:
        word = self._peek()
        if word == "total":
            self._set_total()
        elif word == "hold":
            self._place += 1
            self._hold(self._now_s + self._time())
        elif word in ("ramp", "drop", "rise"):
            self._place += 1
            name = self._figure() if self._peek() in MOVED else "used"
            self._expect("to")
            pages = self._amount(name, self._figures)
            when_s = self._now_s
            if word == "ramp":
                self._expect("in")
                when_s += self._time()
            self._moments.append(Moment(when_s, self._figures._replace(**{name: pages})))
        elif word in ("at", *MOVED):
            self._set()
        else:
            raise self._error("a statement")

    def _set_total(self) -> None:
        if self._now_s > 0 or len(self._moments) > 1:
            raise self._error("'total' only before everything else")
        self._place += 1
        place, self._total = self._place, self._take("a size")
        try:
            self._moments = [Moment(0.0, Amounts(self._total).figures())]
        except ValueError:
            self._place = place
            raise self._error("a size above 0, such as 16G") from None

    def _set(self) -> None:
        if self._peek() == "at":
            self._place += 1
            place = self._place
            when_s = self._time()
            if when_s < self._now_s:
                self._place = place
                raise self._error(f"a time of at least {self._now_s:g}s, which the script has reached")
            self._hold(when_s)
        figures = self._figures
        first = True
        while first or self._peek() in MOVED:
            name = self._figure()
            figures = figures._replace(**{name: self._amount(name, figures)})
            first = False
        self._moments.append(Moment(self._now_s, figures))

    @property
    def _now_s(self) -> float:
        return self._moments[-1].when_s

    @property
    def _figures(self) -> SimulatedFigures:
        return self._moments[-1].figures

    def _hold(self, when_s: float) -> None:
        self._moments.append(Moment(when_s, self._figures))

    def _peek(self) -> str:
        return self._words[self._place][0] if self._place < len(self._words) else ""

    def _take(self, what: str) -> str:
        word = self._peek()
        if word in ("", ";", "\n"):
            raise self._error(what)
        self._place += 1
        return word

    def _expect(self, wanted: str) -> None:
        if self._peek() != wanted:
            raise self._error(f"'{wanted}'")
        self._place += 1

    def _figure(self) -> str:
        if self._peek() not in MOVED:
            raise self._error("used, active, cgroup or cgroup_limit")
        return self._take("")

    def _amount(self, name: str, figures: SimulatedFigures) -> int:
        word = self._take("an amount, such as 40%")
        try:
            pages = pages_of(name, word, figures.cgroup_limit if name == "cgroup" else figures.total)
        except ValueError:
            pages = -1
        if not (name == "cgroup_limit") <= pages <= figures.total:
            self._place -= 1
            raise self._error(f"an amount up to total ({self._total}), such as 40% or 6G")
        return pages

    def _time(self) -> float:
        word = self._take("a time, such as 10s")
        found = _TIME.fullmatch(word)
        if found is None or (time_s := float(found[1]) * _SECONDS[found[2]]) > _TIME_MAX_S:
            self._place -= 1
            raise self._error("a time, such as 10s, 500ms or 2m")
        return time_s

    def _error(self, expected: str) -> ScriptError:
        end = self._place >= len(self._words)
        start = len(self._text.rstrip()) if end else self._words[self._place].start()
        line = self._text.count("\n", 0, start) + 1
        column = start - (self._text.rfind("\n", 0, start) + 1) + 1
        found = "the end" if end or self._peek() == "\n" else repr(self._peek())
        return ScriptError(
            f"line {line}, column {column}: {expected} is expected, not {found}. Allowed are:\n{ALLOWED}"
        )
