# SPDX-License-Identifier: MIT
"""The log: its two forms, and the limit on messages that clients cause."""

import itertools
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fakes import FakeClock

from memnotify.logs import EVERY_S, LIMITED, ForJournal, ForPeople, RateLimitFilter


def _record(
    text: str, *arguments: object, level: int = logging.ERROR, limited: bool = True
) -> logging.LogRecord:
    record = logging.LogRecord("memnotify.x", level, __file__, 1, text, arguments, None)
    vars(record).update(LIMITED if limited else {})
    return record


def _said(limiter: RateLimitFilter, record: logging.LogRecord) -> str | None:
    return ForPeople().format(record) if limiter.filter(record) else None


def test_one_of_a_kind_a_second() -> None:
    """The kind counts, not the arguments; the next record has the number of those dropped."""
    clock = FakeClock()
    limiter = RateLimitFilter(clock)
    assert _said(limiter, _record("no %s", "a")) == "memnotify: ERROR: no a"
    for name in "bcd":
        clock.tick(EVERY_S / 4)
        assert _said(limiter, _record("no %s", name)) is None
    assert _said(limiter, _record("not %s", "b")) == "memnotify: ERROR: not b"
    clock.tick(EVERY_S / 4)
    assert _said(limiter, _record("no %s", "e")) == "memnotify: ERROR: no e (3 more of these dropped)"
    clock.tick(EVERY_S)
    assert _said(limiter, _record("no %s", "f")) == "memnotify: ERROR: no f"


def test_a_message_that_no_client_causes_is_not_limited() -> None:
    limiter = RateLimitFilter(FakeClock())
    assert all(limiter.filter(_record("ready", limited=False)) for _ in range(100))


@given(st.lists(st.sampled_from((0.0, 0.3, 0.7, 1.0, 5.0)), min_size=1))
def test_each_record_is_logged_or_counted(pauses_s: list[float]) -> None:
    """Each record is logged or counted, and no second has two."""
    clock = FakeClock()
    limiter = RateLimitFilter(clock)
    logged, counted = [], 0
    for pause_s in [*pauses_s, EVERY_S]:
        clock.tick(pause_s)
        record = _record("x")
        if limiter.filter(record):
            logged.append(clock())
            counted += vars(record)["dropped"]
    assert len(logged) + counted == len(pauses_s) + 1
    assert all(later - sooner >= EVERY_S for sooner, later in itertools.pairwise(logged))


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3), (logging.CRITICAL, 2)],
)
def test_priorities(level: int, priority: int) -> None:
    """The journal knows the program and the time: the line has neither."""
    assert ForJournal().format(_record("a %s", "b", level=level)) == f"<{priority}>a b"


def test_each_line_of_a_traceback_has_a_priority() -> None:
    try:
        raise ValueError("first\n\nsecond")
    except ValueError:
        record = _record("it failed")
        record.exc_info = sys.exc_info()
    lines = ForJournal().format(record).split("\n")
    assert lines[0] == "<3>it failed"
    assert lines[-3:] == ["<3>ValueError: first", "<3>", "<3>second"]
    assert all(line.startswith("<3>") for line in lines)


# Of the command


def _log(environment: Callable[[os.stat_result], str | None]) -> list[str]:
    """Return what a daemon with wrong options logs to a socket, which the journal's stderr is."""
    ours, its = socket.socketpair()
    with ours, its:
        journal = environment(os.fstat(its.fileno()))
        variables = {name: value for name, value in os.environ.items() if name != "JOURNAL_STREAM"}
        command = [sys.executable, "-m", "memnotify", "serve", "--config", "/dev/null"]
        done = subprocess.run(
            [*command, "--name", "a/b", "--fill-rate", "0"],
            stderr=its.fileno(),
            env=variables | ({} if journal is None else {"JOURNAL_STREAM": journal}),
            check=False,
        )
        assert done.returncode == 2
        return ours.recv(4096).decode().splitlines()


def test_under_systemd() -> None:
    name, rate = _log(lambda status: f"{status.st_dev}:{status.st_ino}")
    assert name.startswith('<3>command line: name is "a/b"')
    assert rate.startswith("<3>command line: fill_rate is 0")


@pytest.mark.parametrize(
    "environment", [lambda _: None, lambda _: "", lambda status: f"{status.st_dev}:{status.st_ino + 1}"]
)
def test_for_people(environment: Callable[[os.stat_result], str | None]) -> None:
    """Also if the stderr of a service was redirected: the variable then names another descriptor."""
    name, _ = _log(environment)
    assert name.startswith('memnotify: ERROR: command line: name is "a/b"')
