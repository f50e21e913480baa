# SPDX-License-Identifier: MIT
"""The client library against a fake device."""

import errno
import os
import pickle
import select
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import strategies
from support.fake_cgroups import FakeCgroup
from support.fake_device import GRANULARITY_PAGES, FakeDaemon
from support.fakes import WIDE
from support.waiting import DEADLINE_S

from memnotify.abi.figures import figures_with
from memnotify.client import (
    PAGE_SIZE,
    Change,
    Crossed,
    DeviceForbiddenError,
    DeviceLostError,
    DeviceMissingError,
    Figures,
    Lost,
    Memnotify,
    MemnotifyError,
    NotADeviceError,
    Pages,
    Restored,
    ThresholdError,
)
from memnotify.client._errors import device_error
from memnotify.client._thresholds import parse, spell

NAME = "a path"


def figures(used: int, total: int = 10_000) -> Figures:
    return Figures((("total", total), ("used", used), ("active", 50)))


def change(used: int, *, up: bool) -> Change:
    return Change("used", Pages(used), up=up)


# Figures


def test_a_figure_is_its_pages_and_knows_bytes_and_percent() -> None:
    read = Figures.parse(b"total 1000 used 250 active 7\n")
    assert (read.total, read.used, read.active) == (1000, 250, 7)
    assert read.used.bytes == 250 * PAGE_SIZE
    assert read.used.percent == 25.0
    assert Figures.parse(b"total 0 used 5 active 7\n").used.percent == 0
    assert str(read) == "total 1000 used 250 active 7"
    assert repr(read) == "Figures(total=1000, used=250, active=7)"


def test_figures_are_values() -> None:
    read = Figures.parse(b"total 1000 used 250 active 7\n")
    assert read == pickle.loads(pickle.dumps(read))  # noqa: S301 - our own
    assert len({read, Figures.parse(b"total 1000 used 250 active 7")}) == 1
    assert pickle.loads(pickle.dumps(read.used)).percent == 25.0  # noqa: S301 - our own
    with pytest.raises(AttributeError):
        read.used = 5  # type: ignore[assignment,misc]  # that it is refused is the test


def test_extra_figures_have_names() -> None:
    read = Figures.parse(b"total 1000 used 250 active 7 available 500\n")
    assert read.names == ("total", "used", "active", "available")
    assert read["available"].percent == 50.0
    with pytest.raises(KeyError, match="free"):
        read["free"]


@pytest.mark.parametrize(
    "line", [b"", b"total 5\n", b"total 1 used 2 active many", b"total 1 used 2 active 3 x", b"\xff\0" * 99]
)
def test_what_is_no_line_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="no line of a memnotify device"):
        Figures.parse(line)


# The grammar is the device's (tests/unit/abi/test_thresholds.py)


@given(strategies.spelled_thresholds())
def test_levels_by_name(spelled: tuple[bytes, dict[int, int]]) -> None:
    text, meant = spelled
    levels = parse(text, WIDE._fields)
    assert {name: level.pages(0) for name, level in levels.items()} == {
        WIDE._fields[index]: pages for index, pages in meant.items()
    }


def test_thresholds_by_text_and_by_name() -> None:
    cases: list[tuple[str, dict[str, Any], list[bytes]]] = [
        ("used 5", {}, [b"used 5"]),
        ("", {"used": "80%", "active": Pages(8000)}, [b"used 80% active 8000"]),
        ("total 7", {"used": 5 * PAGE_SIZE}, [b"total 7 used 5"]),
        ("", {"used": 1}, [b"used 1"]),
        ("", {"used": PAGE_SIZE * 3 // 2, "active": 0}, [b"used 2 active 0"]),
        ("", {"used": ["80%", "90%"], "active": 4 * PAGE_SIZE}, [b"used 80% active 4", b"used 90%"]),
        ("", {}, [b""]),
    ]
    for text, named, expected in cases:
        assert [writing.text for writing in spell(text, named)] == expected


def test_a_refusal_says_what_to_do(device: Memnotify) -> None:
    for thresholds, hint in {
        "usd 5": "the names are total, used, active",
        "used five": "such as 'used 80%'",
        "used": "such as 'used 80%'",
        "used 5 used 6": "another threshold already",
        "used 5.5": "write pages",
        "used 9223372036854775808": "more than 9223372036854775807",
        "x" * 5000: "at most 4096",
        "\ud800": "not text",
    }.items():
        with pytest.raises(ThresholdError, match=hint) as refused:
            device.subscribe(thresholds)
        assert refused.value.errno == errno.EINVAL
        assert len(str(refused.value)) < 250


# Events


def test_up_and_down(daemon: FakeDaemon, device: Memnotify) -> None:
    assert device.subscribe(used=Pages(200)) == figures(100)
    assert device.wait(0) is None
    daemon.use(200)
    assert device.wait(0) == Crossed(figures(100), figures(200), (change(200, up=True),))
    assert device.wait(0) is None
    daemon.use(201 - GRANULARITY_PAGES)
    assert device.wait(0) is None, "the device damps"
    daemon.use(200 - GRANULARITY_PAGES)
    assert device.wait(0) == Crossed(figures(200), figures(195), (change(200, up=False),))
    assert device.wait(0) is None


def test_up_and_down_again_is_an_event_without_changes(daemon: FakeDaemon, device: Memnotify) -> None:
    device.subscribe(used=Pages(200))
    daemon.use(300)
    daemon.use(150)
    assert device.wait(0) == Crossed(figures(100), figures(150), ())


def test_a_threshold_exceeded_at_the_start_is_no_event(daemon: FakeDaemon, device: Memnotify) -> None:
    device.subscribe(used=Pages(100))
    assert device.wait(0) is None
    daemon.use(99)
    assert device.wait(0) == Crossed(figures(100), figures(99), (change(100, up=False),))


def test_of_several_thresholds_those_that_changed_side(daemon: FakeDaemon, device: Memnotify) -> None:
    device.subscribe("used 1M active 200K total 20000")
    daemon.use(300, total=20_000)
    event = device.wait(0)
    assert isinstance(event, Crossed)
    assert set(event.changes) == {
        Change("used", Pages(2**20 // PAGE_SIZE), up=True),
        Change("total", Pages(20_000), up=True),
    }


def test_what_is_crossed_while_subscribing_is_where_it_starts(daemon: FakeDaemon, device: Memnotify) -> None:
    daemon.after_write.append(lambda: daemon.use(250))
    assert device.subscribe(used=Pages(200)) == figures(250)
    assert device.wait(0) is None
    daemon.use(100)
    assert device.wait(0) == Crossed(figures(250), figures(100), (change(200, up=False),))


def test_what_a_late_read_saw_is_where_it_goes_on(daemon: FakeDaemon, device: Memnotify) -> None:
    """A figure has gone back within the damping when the event is taken: the next way up is an event."""
    device.subscribe(used=Pages(200))
    daemon.use(201)
    daemon.use(199)
    assert device.wait(0) == Crossed(figures(100), figures(199), ())
    daemon.use(203)
    assert device.wait(0) is None, "the device damps"
    daemon.use(204)
    assert device.wait(0) == Crossed(figures(199), figures(204), (change(200, up=True),))


def test_a_percentage_is_of_the_total_that_the_read_saw(daemon: FakeDaemon, device: Memnotify) -> None:
    daemon.after_write.append(lambda: daemon.use(100, total=1000))
    device.subscribe(used="50%")
    daemon.use(500)
    assert device.wait(0) == Crossed(figures(100, 1000), figures(500, 1000), (change(500, up=True),))


def test_a_percentage_follows_total(daemon: FakeDaemon, device: Memnotify) -> None:
    """Half of the swap is gone: the use that was below 80 % of total is above it."""
    device.subscribe(used="80%")
    daemon.use(7_000)
    assert device.wait(0) is None
    daemon.use(7_000, total=8_000)
    assert device.wait(0) == Crossed(figures(100), figures(7_000, 8_000), (change(6_400, up=True),))
    daemon.use(7_000, total=10_000)
    event = device.wait(0)
    assert isinstance(event, Crossed)
    assert event.changes == (change(8_000, up=False),)
    (changed,) = event.changes
    assert (changed.pages, changed.bytes, changed.percent) == (8_000, 8_000 * PAGE_SIZE, 80.0)
    daemon.use(7_999)
    assert device.wait(0) is None


def test_a_read_takes_no_event_away(daemon: FakeDaemon, device: Memnotify) -> None:
    device.subscribe(used=Pages(200))
    daemon.use(300)
    assert device.read() == figures(300)
    assert device.read() == figures(300)
    assert device.wait(0) == Crossed(figures(100), figures(300), (change(200, up=True),))


def test_a_refused_subscription_takes_no_event_away(daemon: FakeDaemon, device: Memnotify) -> None:
    device.subscribe(used=Pages(200))
    daemon.use(300)
    with pytest.raises(ThresholdError):
        device.subscribe("usd 5")
    assert device.wait(0) == Crossed(figures(100), figures(300), (change(200, up=True),))


def test_thresholds_are_replaced(daemon: FakeDaemon, device: Memnotify) -> None:
    device.subscribe(used=Pages(200))
    device.subscribe(used=Pages(400))
    assert daemon.written == [b"used 400"]
    daemon.use(300)
    assert device.wait(0) is None
    device.subscribe()
    daemon.use(500)
    assert device.wait(0) is None


def test_iteration_ends_with_close(daemon: FakeDaemon, device: Memnotify) -> None:
    device.subscribe(used=Pages(200))
    daemon.use(300)
    ups = []
    for event in device:
        assert isinstance(event, Crossed)
        ups.append(event.changes[0].up)
        if len(ups) == 2:
            device.close()
        else:
            daemon.use(100)
    assert ups == [True, False]


def test_the_descriptor_is_one_and_readable_when_there_is_an_event(
    daemon: FakeDaemon, device: Memnotify
) -> None:
    fd = device.fileno()
    assert not os.get_inheritable(fd)
    device.subscribe(used=Pages(200))
    assert not _readable(fd)
    daemon.use(300)
    assert _readable(fd)
    assert device.wait(0) is not None
    assert not _readable(fd)
    daemon.end()
    assert _readable(fd)
    assert isinstance(device.wait(0), Lost)
    daemon.serving = True
    assert _readable(fd, DEADLINE_S)
    assert isinstance(device.wait(), Restored)
    assert not _readable(fd)
    daemon.use(100)
    assert _readable(fd)
    assert device.fileno() == fd


def test_wait_for_a_time_only(daemon: FakeDaemon, device: Memnotify) -> None:
    device.subscribe(used=Pages(200))
    assert device.wait(0.01) is None
    assert device.wait(-1) is None
    daemon.use(300)
    assert device.wait(1e9) is not None  # more than epoll takes
    with pytest.raises(ValueError, match="NaN"):
        device.wait(float("nan"))  # it would never end, nor sleep


# The daemon's end


def test_an_extra_figure(daemon: FakeDaemon, device: Memnotify) -> None:
    """An extra figure has thresholds by its name, until a daemon without that figure serves."""
    daemon.end()
    three, daemon.figures = daemon.figures, figures_with(["available"])._make([10_000, 100, 50, 500])
    daemon.serving = True
    assert device.subscribe(available="10%", used=Pages(200))["available"].percent == 5.0
    for pages, up in ((1000, True), (995, False)):
        daemon.use(100, available=pages)
        event = device.wait(0)
        assert isinstance(event, Crossed)
        assert event.changes == (Change("available", Pages(1000), up=up),)
    daemon.end()
    assert isinstance(device.wait(DEADLINE_S), Lost)
    daemon.figures = three
    daemon.serving = True
    refusal = r"'available' .* total, used, active, cgroup \(others by .*--figures"
    with pytest.raises(ThresholdError, match=refusal):
        device.wait(DEADLINE_S)


def test_lost_and_restored(daemon: FakeDaemon, device: Memnotify) -> None:
    device.subscribe(used=Pages(200))
    daemon.end()
    lost = device.wait(0)
    assert isinstance(lost, Lost)
    assert lost.before == figures(100)
    assert isinstance(lost.error, DeviceLostError)
    daemon.use(300)
    daemon.serving = True
    assert device.wait(DEADLINE_S) == Restored(figures(100), figures(300), (change(200, up=True),))
    assert daemon.written == [b"used 200"]
    assert device.wait(0) is None
    daemon.use(100)
    assert device.wait(0) == Crossed(figures(300), figures(100), (change(200, up=False),))


def test_figures_that_cannot_be_read_are_no_loss(daemon: FakeDaemon, device: Memnotify) -> None:
    """The event stays until its figures can be read; meanwhile the descriptor is not ready all the time."""
    device.subscribe(used=[Pages(200), Pages(400)])
    daemon.use(300)
    daemon.fail()
    for _ in range(3):
        assert device.wait(0.05) is None
    assert not select.select([device], [], [], 0)[0] or device.wait(0) is None
    with pytest.raises(OSError, match="it fails"):
        device.read()
    daemon.mend()
    assert device.wait(DEADLINE_S) == Crossed(figures(100), figures(300), (change(200, up=True),))
    assert device.wait(0.05) is None
    daemon.use(500)
    assert device.wait(0) == Crossed(figures(300), figures(500), (change(400, up=True),))


def test_without_reopening_they_are_no_loss_either(daemon: FakeDaemon) -> None:
    with Memnotify(NAME, reopen=False) as device:
        device.subscribe(used=Pages(200))
        daemon.use(300)
        daemon.fail()
        assert device.wait(0) is None
        daemon.end()
        with pytest.raises(DeviceLostError):
            device.wait(DEADLINE_S)


def test_a_subscription_that_fails_half_way_leaves_the_previous_one(
    daemon: FakeDaemon, device: Memnotify
) -> None:
    """The read after the write fails: the open file has the new thresholds by then."""
    device.subscribe(used=Pages(200))
    daemon.after_write.append(daemon.fail)
    with pytest.raises(OSError, match="it fails"):
        device.subscribe(used=Pages(400))
    assert device.wait(0.05) is None
    daemon.use(300)
    daemon.mend()
    assert device.wait(DEADLINE_S) == Crossed(figures(100), figures(300), (change(200, up=True),))


def test_restored_without_a_change(daemon: FakeDaemon, device: Memnotify) -> None:
    device.subscribe(used=Pages(200))
    for _ in range(3):
        daemon.end()
        assert isinstance(device.wait(0), Lost)
        daemon.serving = True
        assert device.wait(DEADLINE_S) == Restored(figures(100), figures(100), ())


def test_a_percentage_is_of_the_new_total(daemon: FakeDaemon, device: Memnotify) -> None:
    device.subscribe(used="50%")
    daemon.end()
    assert isinstance(device.wait(0), Lost)
    daemon.use(100, total=200)
    daemon.serving = True
    assert device.wait(DEADLINE_S) == Restored(figures(100), figures(100, 200), (change(100, up=True),))


@pytest.mark.parametrize(
    "refusal", [errno.ENOENT, errno.EACCES, errno.ENOTCONN, errno.ENODEV, errno.ENXIO, errno.EMFILE]
)
def test_attempts_to_reopen_become_rarer(daemon: FakeDaemon, device: Memnotify, refusal: int) -> None:
    daemon.refusal = refusal
    device.subscribe(used=Pages(200))
    daemon.end()
    assert isinstance(device.wait(0), Lost)
    opened = daemon.opened
    assert device.wait(0.5) is None
    # 0, 20, 60, 140, 300 and 620 ms after the loss, or down to half of it
    assert 3 <= daemon.opened - opened <= 7
    daemon.serving = True
    assert isinstance(device.wait(DEADLINE_S), Restored)


def test_a_daemon_that_does_not_know_the_thresholds(daemon: FakeDaemon, device: Memnotify) -> None:
    device.subscribe(used=Pages(200))
    device._writings = spell("swap 5", {})  # a figure of the old daemon
    daemon.end()
    assert isinstance(device.wait(0), Lost)
    daemon.serving = True
    with pytest.raises(ThresholdError, match="the names are"):
        device.wait(DEADLINE_S)
    device.subscribe(used=Pages(200))
    assert device.wait(0) is None


def test_without_reopening_the_loss_is_an_error(daemon: FakeDaemon) -> None:
    with Memnotify(NAME, reopen=False) as device:
        device.subscribe(used=Pages(200))
        daemon.end()
        daemon.serving = True
        for _ in range(2):
            with pytest.raises(DeviceLostError):
                device.wait(0)
        with pytest.raises(DeviceLostError):
            device.subscribe(used=Pages(200))


def test_a_new_daemon_is_read_and_subscribed_to_at_once(daemon: FakeDaemon, device: Memnotify) -> None:
    device.subscribe(used=Pages(200))
    assert device.read() == figures(100)
    daemon.end()
    with pytest.raises(DeviceMissingError):
        device.read()
    with pytest.raises(DeviceMissingError):
        device.subscribe(used=Pages(300))
    daemon.serving = True
    assert device.read() == figures(100)
    device.subscribe(used=Pages(400))
    assert device.wait(0) is None
    daemon.use(400)
    assert device.wait(0) == Crossed(figures(100), figures(400), (change(400, up=True),))


def test_a_reader_alone_finds_the_new_daemon(daemon: FakeDaemon, device: Memnotify) -> None:
    assert device.read() == figures(100)
    daemon.end()
    daemon.serving = True
    assert device.read() == figures(100)
    daemon.end()
    daemon.serving = True
    device.subscribe(used=Pages(200))
    assert device.wait(0) is None


# Most are within the granularity of a threshold.
_useds = st.sampled_from([90, 95, 98, 99, 100, 101, 104, 110])
# "meanwhile" is what happens between a write and the read after it.
_moves = st.lists(
    st.one_of(
        _useds,
        st.tuples(st.just("meanwhile"), _useds),
        st.sampled_from(["end", "serve", "fail", "mend"]),
        st.just("look"),
    ),
    min_size=1,
    max_size=30,
)


def _act(daemon: FakeDaemon, move: int | str | tuple[str, int]) -> None:
    if isinstance(move, int):
        daemon.use(move)
    elif isinstance(move, tuple):
        daemon.after_write.append(partial(daemon.use, move[1]))
    else:
        acts = {"end": daemon.end, "fail": daemon.fail, "mend": daemon.mend, "serve": daemon.serve}
        acts[move]()


@settings(max_examples=3 * settings.get_profile("memnotify").max_examples)
@given(_moves, st.integers(99, 100), st.integers(99, 100))
def test_no_change_of_side_is_lost(moves: list[int | str | tuple[str, int]], one: int, other: int) -> None:
    """After any history, the sum of all changes is wrong about a threshold by less than the damping.

    A loss is reported only if the daemon has ended.
    """
    with closing(FakeDaemon(100)) as daemon, pytest.MonkeyPatch.context() as patched:
        patched.setattr("memnotify.client._device.DeviceFile", daemon.open)
        # Attempts without a wait in between
        patched.setattr("memnotify.client._device._RETRY_FIRST_S", 0.0)
        with Memnotify(NAME) as device:
            daemon.figures = daemon.figures._replace(active=one - 1)
            start = device.subscribe(used=Pages(one), total=Pages(5), active=Pages(other))
            sides = {"used": start.used >= one, "active": start.active >= other}
            ended = failing = False
            for move in [*moves, "mend", "serve", "look"]:
                ended = ended or move == "end"
                failing = move == "fail" or (failing and move != "mend")
                if move != "look":
                    _act(daemon, move)
                else:
                    # An attempt follows at once, and no other wait is needed.
                    retries = daemon.serving and (not daemon.files or device._timer is not None)
                    while event := device.wait(0.001 if retries else 0):
                        assert ended or not isinstance(event, Lost)
                        ended = ended and not isinstance(event, Lost)
                        for each in event.changes:
                            assert sides[each.name] != each.up
                            sides[each.name] = each.up
                    if daemon.files and not failing:
                        used = daemon.figures.used
                        assert sides["used"] == (used >= one) or abs(used - one) < GRANULARITY_PAGES


# Errors


@pytest.mark.parametrize(
    ("number", "kinds", "hint"),
    [
        (errno.ENOENT, [DeviceMissingError, FileNotFoundError], "start 'memnotify serve'"),
        (errno.ENODEV, [DeviceMissingError], "start 'memnotify serve'"),
        (errno.EACCES, [DeviceForbiddenError, PermissionError], "only the user that serves a FUSE file"),
        (errno.EPERM, [DeviceForbiddenError, PermissionError], "DeviceAllow="),
        (errno.ENOTCONN, [DeviceLostError, ConnectionError], "again"),
        (errno.EINVAL, [ThresholdError, ValueError], "'used 80%'"),
    ],
)
def test_errors_are_oserrors_that_say_what_to_do(
    number: int, kinds: list[type[Exception]], hint: str
) -> None:
    error = device_error(number, "/dev/x")
    expected: list[type[Exception]] = [MemnotifyError, *kinds]
    for kind in expected:
        assert isinstance(error, kind)
    assert (error.errno, error.filename) == (number, "/dev/x")
    assert error.strerror is not None
    assert os.strerror(number) in error.strerror
    assert hint in error.strerror


def test_other_errors_are_what_they_are() -> None:
    assert type(device_error(errno.EISDIR, "/dev")) is IsADirectoryError


def test_what_is_no_device(tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "file")
    with pytest.raises(DeviceMissingError, match="memnotify serve"):
        Memnotify(path)
    with open(path, "wb") as file:
        file.write(b"precious")
    with Memnotify(path) as device:
        with pytest.raises(NotADeviceError, match="no line"):
            device.read()
        with pytest.raises(NotADeviceError, match="no line"):
            device.subscribe(used=Pages(5))
    with open(path, "rb") as file:
        assert file.read() == b"precious"


def test_what_is_there_between_two_daemons_is_not_kept(tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "device")
    for is_read_before in (True, False):
        with open(path, "wb"):
            pass
        with Memnotify(path) as device:
            if is_read_before:
                with pytest.raises(NotADeviceError):
                    device.read()
            with open(f"{path}.new", "wb") as file:
                file.write(b"total 10000 used 100 active 50\n")
            os.replace(f"{path}.new", path)
            assert device.read() == figures(100)


def test_what_is_closed(device: Memnotify) -> None:
    device.close()
    device.close()
    assert device.closed
    for call in (device.read, device.fileno, device.subscribe, device.wait):
        with pytest.raises(ValueError, match="this Memnotify is closed"):
            call()


def test_what_is_not_closed_is_closed_with_a_warning(daemon: FakeDaemon) -> None:
    device = Memnotify(NAME)
    device.subscribe(used=Pages(200))
    with pytest.warns(ResourceWarning, match="unclosed device a path"):
        del device
    assert daemon.files == []


# Fork


def test_a_child_has_an_observer_of_its_own(daemon: FakeDaemon, device: Memnotify) -> None:
    device.subscribe(used=Pages(200))
    device.read()
    fd, fds = device.fileno(), _open_fds()
    child = os.fork()
    if child == 0:
        with _status():
            assert device.wait(0.1) is None
            assert daemon.written == [b"used 200"]  # the inherited ones are closed, this is another
            assert len(_open_fds()) == len(fds) - 2  # the fake's reader has two
            daemon.use(300)
            assert device.wait(0) == Crossed(figures(100), figures(300), (change(200, up=True),))
            device.read()
            device.close()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert device.wait(0) is None
    assert device.fileno() == fd
    daemon.use(300)
    assert device.wait(0) == Crossed(figures(100), figures(300), (change(200, up=True),))


def test_a_child_gets_the_changes_since_its_parent_s_last_event(
    daemon: FakeDaemon, device: Memnotify
) -> None:
    device.subscribe(used=Pages(200))
    daemon.use(300)
    child = os.fork()
    if child == 0:
        with _status():
            assert device.wait(5) == Crossed(figures(100), figures(300), (change(200, up=True),))
            assert device.wait(0) is None
            daemon.end()
            assert isinstance(device.wait(0), Lost)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert device.wait(0) == Crossed(figures(100), figures(300), (change(200, up=True),))


def test_a_child_without_a_daemon(daemon: FakeDaemon, device: Memnotify) -> None:
    device.subscribe(used=Pages(200))
    child = os.fork()
    if child == 0:
        with _status():
            daemon.end()
            lost = device.wait(5)
            assert isinstance(lost, Lost)
            assert isinstance(lost.error, DeviceMissingError)
            daemon.serving = True
            assert device.wait(5) == Restored(figures(100), figures(100), ())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("lost", [False, True])
def test_a_child_that_holds_the_files_holds_up_nothing(
    daemon: FakeDaemon, device: Memnotify, *, lost: bool
) -> None:
    """A child that does not use its copy keeps the files open; the parent works regardless."""
    device.subscribe(used=Pages(200))
    if lost:
        daemon.end()
        assert isinstance(device.wait(0), Lost)
    with _idle_child():
        if not lost:
            daemon.end()
            assert isinstance(device.wait(0), Lost)
        daemon.serving = True
        assert isinstance(device.wait(5), Restored)
        assert not _readable(device.fileno())


@contextmanager
def _idle_child() -> Iterator[None]:
    """Run the block beside a child that holds copies of all descriptors."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    try:
        yield
    finally:
        os.close(read)
        os.close(write)
        os.waitpid(child, 0)


@contextmanager
def _status() -> Iterator[None]:
    """End this process, a child: with 0 if the block succeeds, else with 1 and a traceback."""
    try:
        yield
    except BaseException:  # noqa: BLE001 - it must not run into the parent's test
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _open_fds() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/fd")}


def _readable(fd: int, timeout_s: float = 0) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(timeout_s * 1000))


# The process's own cgroup


@pytest.fixture
def grouped(daemon: FakeDaemon) -> FakeCgroup:
    """Return the cgroup in which the client is, for a daemon that sees it."""
    group = FakeCgroup(100, limit=1000)
    daemon.bench.device.find_group = lambda _: group
    return group


def test_a_threshold_on_the_cgroup(daemon: FakeDaemon, grouped: FakeCgroup) -> None:
    """Its figures are of its limit, in events as in reads; without such a threshold there are none."""
    with Memnotify(NAME) as device:
        assert device.read().cgroup is device.read().cgroup_limit is None
        before = device.subscribe(cgroup="80%")
        assert (before.cgroup, before.cgroup_limit) == (100, 1000)
        grouped.value = 850
        daemon.bench.clock.tick(1)
        daemon.use(200)
        event = device.wait(DEADLINE_S)
        assert isinstance(event, Crossed)
        assert event.changes == (Change("cgroup", Pages(800, 1000), up=True),)
        assert event.after.cgroup is not None
        assert event.after.cgroup.percent == 85.0
        assert device.read().cgroup == 850
        device.subscribe(used="80%")
        assert "cgroup" not in device.read().names


def test_a_limit_that_changes(daemon: FakeDaemon, grouped: FakeCgroup) -> None:
    """A threshold in percent moves with it."""
    with Memnotify(NAME) as device:
        device.subscribe("cgroup 80%")
        grouped.limit = 110
        daemon.bench.clock.tick(16)
        daemon.use(200)
        event = device.wait(DEADLINE_S)
        assert isinstance(event, Crossed)
        assert event.changes == (Change("cgroup", Pages(88, 110), up=True),)


def test_the_limit_has_no_threshold() -> None:
    names = Figures.parse(b"total 9 used 5 active 2 cgroup 1 cgroup_limit 9\n").names
    assert names[3:] == ("cgroup", "cgroup_limit")
    with pytest.raises(ThresholdError, match="cgroup_limit"):
        parse(b"cgroup_limit 5", names)
    assert list(parse(b"cgroup 5", names)) == ["cgroup"]


def test_a_cgroup_that_cannot_be_had() -> None:
    error = device_error(errno.EOPNOTSUPP, NAME)
    assert isinstance(error, ThresholdError)
    assert "cgroup v2" in str(error)
