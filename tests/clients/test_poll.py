# SPDX-License-Identifier: MIT
"""All ways to wait for a crossing, with memory that is really taken and freed."""

import os
import select
import socket
import threading
from collections.abc import Callable

import pytest
from support.daemon import QUICK, TRANSPORT, Daemon, ready
from support.memory import Hog, step_pages, used_pages
from support.waiting import DEADLINE_S, eventually

from memnotify.kernel.meminfo import MemInfoReader

Open = Callable[..., int]

EVENT = select.POLLIN | select.POLLRDNORM | select.POLLPRI
WRITABLE = select.POLLOUT | select.POLLWRNORM


def _watch_above(fd: int) -> None:
    """Set a threshold that is not reached."""
    os.write(fd, b"used %d" % (used_pages(fd) + step_pages()))


def _cross_up(hog: Hog) -> None:
    hog.hold(2 * step_pages())


def _raise_event(fd: int, hog: Hog) -> None:
    """Cause an event, and wait until it is pending."""
    _watch_above(fd)
    _cross_up(hog)
    assert ready(fd)


def test_up_and_down_are_one_event_each(opened: Open, hog: Hog) -> None:
    fd = opened()
    _watch_above(fd)
    assert ready(fd, timeout_s=0) == 0
    _cross_up(hog)
    assert ready(fd) == select.POLLIN
    above = used_pages(fd)
    assert ready(fd, timeout_s=0) == 0
    hog.hold(0)
    assert ready(fd) == select.POLLIN
    # The figures may be from the middle of that, for an update_period.
    eventually(lambda: used_pages(fd) < above - step_pages(), "it is freed")
    assert ready(fd, timeout_s=0) == 0


def test_a_threshold_that_is_exceeded_is_no_event_and_leaving_it_is(opened: Open, hog: Hog) -> None:
    fd, other = opened(), opened()
    hog.hold(2 * step_pages())
    _watch_above(other)
    os.write(fd, b"used %d" % (used_pages(fd) - step_pages()))
    hog.hold(4 * step_pages())
    assert ready(other)  # the daemon has sampled since
    assert ready(fd, timeout_s=0) == 0
    hog.hold(0)
    assert ready(fd) == select.POLLIN


def test_memory_that_is_freed_is_noticed_although_the_kernel_keeps_it_on_per_cpu_lists(
    opened: Open, hog: Hog
) -> None:
    # MemFree alone does not show it for minutes since 6.7; the test's own deadline is below that.
    fd = opened()
    hog.hold(2 * step_pages())
    os.write(fd, b"used %d" % (used_pages(fd) - step_pages()))
    hog.hold(0)
    assert ready(fd, timeout_s=10) == select.POLLIN


def test_readiness_is_level_until_read(opened: Open, hog: Hog) -> None:
    fd = opened()
    _raise_event(fd, hog)
    for _ in range(3):
        assert ready(fd, EVENT | WRITABLE) == EVENT | WRITABLE
    os.read(fd, 1)
    assert ready(fd, EVENT | WRITABLE) == WRITABLE


def test_write_acknowledges_and_a_refused_write_does_not(opened: Open, hog: Hog) -> None:
    fd = opened()
    _raise_event(fd, hog)
    with pytest.raises(OSError, match="Invalid argument"):
        os.write(fd, b"nonsense 1")
    assert ready(fd, timeout_s=0)
    hog.hold(0)  # the thresholds stay: this is another event of the same observer
    os.write(fd, b"used 1")
    assert ready(fd, timeout_s=0) == 0


def test_select_and_its_exceptional_set(opened: Open, hog: Hog) -> None:
    fd = opened()
    assert select.select([fd], [fd], [fd], 0) == ([], [fd], [])
    _raise_event(fd, hog)
    assert select.select([fd], [fd], [fd], 0) == ([fd], [fd], [fd])
    assert select.select([fd], [], [], DEADLINE_S) == ([fd], [], [])
    assert select.select([], [], [fd], 0) == ([], [], [fd])  # nothing but POLLPRI was asked for: consumed
    assert select.select([fd], [], [fd], 0) == ([], [], [])


def test_select_for_writing_leaves_the_event_alone(opened: Open, hog: Hog) -> None:
    fd = opened()
    _raise_event(fd, hog)
    assert select.select([], [fd], [], 0) == ([], [fd], [])
    assert select.select([], [fd], [fd], 0) == ([], [fd], [fd])
    assert ready(fd, timeout_s=0) == select.POLLIN


def test_a_poll_for_pollpri_alone_consumes_the_event(opened: Open, hog: Hog) -> None:
    fd = opened()
    _watch_above(fd)
    poller = threading.Thread(target=_cross_up, args=(hog,))
    poller.start()
    assert ready(fd, select.POLLPRI) == select.POLLPRI
    poller.join()
    assert ready(fd, select.POLLPRI, timeout_s=0) == 0
    assert ready(fd, timeout_s=0) == 0


def test_epoll_level_reports_until_read(opened: Open, hog: Hog) -> None:
    fd = opened()
    with select.epoll() as epoll:
        epoll.register(fd, select.EPOLLIN)
        _watch_above(fd)
        assert epoll.poll(0) == []
        _cross_up(hog)
        assert epoll.poll(DEADLINE_S) == [(fd, select.EPOLLIN)]
        assert epoll.poll(0) == [(fd, select.EPOLLIN)]
        os.read(fd, 256)
        assert epoll.poll(0) == []
        hog.hold(0)
        assert epoll.poll(DEADLINE_S) == [(fd, select.EPOLLIN)]


def test_epoll_edge_reports_once_for_each_crossing(opened: Open, hog: Hog) -> None:
    fd, other = opened(), opened()
    with select.epoll() as epoll:
        epoll.register(fd, select.EPOLLIN | select.EPOLLET)
        _watch_above(fd)
        _cross_up(hog)
        assert epoll.poll(DEADLINE_S) == [(fd, select.EPOLLIN)]
        assert epoll.poll(0) == []
        # Not acknowledged, so not woken again for the way down, which another observer has seen.
        os.write(other, b"used %d" % (used_pages(other) - step_pages()))
        hog.hold(0)
        assert ready(other)
        assert epoll.poll(0) == []
        os.read(fd, 256)
        _cross_up(hog)
        assert epoll.poll(DEADLINE_S) == [(fd, select.EPOLLIN)]


@pytest.mark.parametrize("mode", [0, select.EPOLLET, select.EPOLLONESHOT])
def test_an_event_that_is_pending_is_reported_to_a_new_epoll(opened: Open, hog: Hog, mode: int) -> None:
    fd = opened()
    _raise_event(fd, hog)
    with select.epoll() as first, select.epoll() as second:
        for epoll in (first, second):
            epoll.register(fd, select.EPOLLIN | mode)
        assert first.poll(0) == [(fd, select.EPOLLIN)]
        assert second.poll(0) == [(fd, select.EPOLLIN)]
        if mode == select.EPOLLONESHOT:
            assert first.poll(0) == []
            first.modify(fd, select.EPOLLIN | mode)
            assert first.poll(0) == [(fd, select.EPOLLIN)]


def test_two_epolls_and_a_nested_one_are_all_woken(opened: Open, hog: Hog) -> None:
    fd = opened()
    with select.epoll() as first, select.epoll() as second, select.epoll() as outer:
        first.register(fd, select.EPOLLIN)
        second.register(fd, select.EPOLLIN | select.EPOLLET)
        outer.register(second.fileno(), select.EPOLLIN)
        _watch_above(fd)
        _cross_up(hog)
        assert first.poll(DEADLINE_S) == [(fd, select.EPOLLIN)]
        assert outer.poll(DEADLINE_S) == [(second.fileno(), select.EPOLLIN)]
        assert second.poll(DEADLINE_S) == [(fd, select.EPOLLIN)]


def test_threads_that_wait_on_one_descriptor_are_all_woken(opened: Open, hog: Hog) -> None:
    fd = opened()
    _watch_above(fd)
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(ready(fd))) for _ in range(4)]
    for thread in threads:
        thread.start()
    _cross_up(hog)
    for thread in threads:
        thread.join(DEADLINE_S)
    assert found == [select.POLLIN] * 4


def test_dup_and_fork_share_one_observer(opened: Open, hog: Hog) -> None:
    fd = opened()
    copy = os.dup(fd)
    _raise_event(fd, hog)
    assert ready(copy, timeout_s=0) == select.POLLIN
    child = os.fork()
    if child == 0:
        os._exit(0 if ready(fd, timeout_s=0) and os.read(fd, 256) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert ready(fd, timeout_s=0) == 0  # the child has acknowledged for all
    os.close(copy)
    hog.hold(0)
    assert ready(fd) == select.POLLIN  # closing a copy ends nothing


def test_a_descriptor_sent_to_another_is_the_same_observer(opened: Open, hog: Hog, path: str) -> None:
    here, there = socket.socketpair()
    with here, there:
        mine = os.open(path, os.O_RDWR)
        _watch_above(mine)
        socket.send_fds(here, [b"x"], [mine])
        _, (received,), *_ = socket.recv_fds(there, 1, 1)
        os.close(mine)
        _cross_up(hog)
        assert ready(received) == select.POLLIN
        os.close(received)


def test_observers_have_thresholds_of_their_own(opened: Open, hog: Hog) -> None:
    near, far, none = opened(), opened(), opened()
    present = used_pages(near)
    os.write(near, b"used %d" % (present + step_pages()))
    os.write(far, b"used %d" % (present + 100 * step_pages()))
    _cross_up(hog)
    assert ready(near) == select.POLLIN
    assert ready(far, timeout_s=0) == ready(none, timeout_s=0) == 0


def test_writing_again_replaces_all_thresholds(opened: Open, hog: Hog) -> None:
    fd, other = opened(), opened()
    _watch_above(fd)
    os.write(fd, b"active 99%")
    _watch_above(other)
    _cross_up(hog)
    assert ready(other)
    assert ready(fd, timeout_s=0) == 0


def test_a_watcher_that_rewinds_before_each_read(opened: Open, hog: Hog) -> None:
    """As libmemnotify does: POLLIN | POLLPRI in a thread, then lseek to 0 and a read of 8,192 bytes."""
    fd = opened()
    present = used_pages(fd)
    os.write(fd, b"used %d" % (present + step_pages()))
    seen = []

    def watch() -> None:
        for _ in range(2):
            assert ready(fd, select.POLLIN | select.POLLPRI) == select.POLLIN | select.POLLPRI
            assert os.lseek(fd, 0, os.SEEK_SET) == 0
            seen.append(int(os.read(fd, 8192).split()[3]) >= present + step_pages())

    watcher = threading.Thread(target=watch)
    watcher.start()
    _cross_up(hog)
    while not seen:
        assert watcher.is_alive()
    hog.hold(0)
    watcher.join(DEADLINE_S)
    assert seen == [True, False]


def test_poll_acknowledges_is_for_clients_that_never_read(hog: Hog) -> None:
    with Daemon(*QUICK, "--poll-acknowledges", name="memnotify-acknowledges") as daemon:
        fd = os.open(daemon.path, os.O_RDWR)
        _watch_above(fd)
        _cross_up(hog)
        assert ready(fd) == select.POLLIN
        assert ready(fd, timeout_s=0) == 0
        os.close(fd)


@pytest.mark.parametrize("arguments", [(), ("--no-pcp-is-free",)])
def test_the_defaults_notice_as_well(arguments: tuple[str, ...], hog: Hog) -> None:
    # The default granularity does not delay a threshold's first event.
    with Daemon(*arguments, name="memnotify-defaults") as daemon:
        assert f"ready: {daemon.path}" in daemon.log
        assert {"cuse": "CUSE character device", "fuse": "FUSE file"}[TRANSPORT] in daemon.log
        fd = os.open(daemon.path, os.O_RDWR)
        _watch_above(fd)
        # What other tests have freed lies on the per-CPU lists, is taken first, and is no news without P.
        with MemInfoReader() as reader:
            _, pcp_pages = reader.read_exact()
        hog.hold(pcp_pages + 3 * step_pages())
        assert ready(fd) == select.POLLIN
        os.close(fd)
