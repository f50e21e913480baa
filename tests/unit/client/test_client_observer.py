# SPDX-License-Identifier: MIT
"""The Observer thread of the client library."""

import os
import threading

import pytest
from support.fake_device import FakeDaemon
from support.waiting import eventually

from memnotify.client import Crossed, DeviceLostError, Event, Lost, Memnotify, Observer, Restored


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[BaseException | None]:
    """Return the list of exceptions that threads have reported."""
    reported: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: reported.append(args.exc_value))
    return reported


def test_each_event_is_a_call(daemon: FakeDaemon, subscribed: Memnotify) -> None:
    seen: list[Event] = []
    with Observer(subscribed, seen.append):
        for count, used in enumerate((300, 100, 300), start=1):
            daemon.use(used)
            eventually(lambda count=count: len(seen) == count, "the event")  # type: ignore[misc]  # mypy infers no type for a default
        daemon.serving = False
        daemon.end()
        eventually(lambda: len(seen) == 4, "the loss")
        daemon.serving = True
        eventually(lambda: len(seen) == 5, "the return")
    assert [type(event) for event in seen] == [Crossed, Crossed, Crossed, Lost, Restored]


def test_no_call_after_stop(daemon: FakeDaemon, subscribed: Memnotify) -> None:
    entered, leave = threading.Event(), threading.Event()
    calls: list[str] = []

    def callback(event: Event) -> None:
        calls.append("begun")
        entered.set()
        leave.wait()
        calls.append("ended")

    observer = Observer(subscribed, callback)
    observer.start()
    daemon.use(300)
    entered.wait()
    stopper = threading.Thread(target=observer.stop)
    stopper.start()
    stopper.join(0.05)
    assert stopper.is_alive(), "stop waits for the callback"
    daemon.use(100)
    leave.set()
    stopper.join()
    assert calls == ["begun", "ended"]
    assert subscribed.wait(0) is not None, "the device is the caller's again"
    observer.stop()


def test_stop_from_the_callback(daemon: FakeDaemon, subscribed: Memnotify) -> None:
    calls: list[Event] = []

    def callback(event: Event) -> None:
        daemon.use(100)
        observer.stop()
        calls.append(event)

    observer = Observer(subscribed, callback)
    observer.start()
    daemon.use(300)
    eventually(lambda: calls, "the call")
    observer.stop()
    assert len(calls) == 1
    assert not [thread for thread in threading.enumerate() if thread.name == "memnotify-observer"]


def test_an_exception_is_reported_and_the_next_event_comes(
    daemon: FakeDaemon, subscribed: Memnotify, reported: list[BaseException | None]
) -> None:
    seen = []

    def callback(event: Event) -> None:
        seen.append(event)
        if len(seen) == 1:
            raise RuntimeError("the callback's")

    with Observer(subscribed, callback):
        daemon.use(300)
        eventually(lambda: reported, "the report")
        daemon.use(100)
        eventually(lambda: len(seen) == 2, "the next")
    assert [str(error) for error in reported] == ["the callback's"]


def test_an_error_of_the_source_ends_the_thread(
    daemon: FakeDaemon, reported: list[BaseException | None]
) -> None:
    with Memnotify("a path", reopen=False) as device:
        device.subscribe("used 200")
        observer = Observer(device, _ignore)
        observer.start()
        daemon.end()
        eventually(lambda: reported, "the report")
        observer.stop()
    assert [type(error) for error in reported] == [DeviceLostError]


def test_the_callback_may_close_the_device(
    daemon: FakeDaemon, subscribed: Memnotify, reported: list[BaseException | None]
) -> None:
    observer = Observer(subscribed, lambda _: subscribed.close())
    observer.start()
    daemon.use(300)
    eventually(lambda: subscribed.closed, "the call")
    observer.stop()
    assert reported == []


def test_it_is_started_once_and_on_an_open_device(daemon: FakeDaemon, subscribed: Memnotify) -> None:
    seen: list[Event] = []
    observer = Observer(subscribed, seen.append)
    observer.stop()  # which is nothing, as it does not run
    observer.start()
    with pytest.raises(RuntimeError, match="started once"):
        observer.start()
    daemon.use(300)
    eventually(lambda: seen, "the event")
    observer.stop()
    subscribed.close()
    with pytest.raises(ValueError, match="closed"):
        Observer(subscribed, _ignore).start()


def test_nothing_is_left_behind(subscribed: Memnotify) -> None:
    fds, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(100):
        with Observer(subscribed, _ignore):
            pass
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == (fds, threads)


def test_stop_in_a_child_touches_nothing_of_the_parent_s(daemon: FakeDaemon, subscribed: Memnotify) -> None:
    seen: list[Event] = []
    with Observer(subscribed, seen.append) as observer:
        child = os.fork()
        if child == 0:
            observer.stop()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        daemon.use(300)
        eventually(lambda: seen, "the event")


def _ignore(_: Event) -> None:
    pass
