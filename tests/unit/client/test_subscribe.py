# SPDX-License-Identifier: MIT
"""Thresholds as people write them, several of one figure, and what is exceeded already."""

import pickle
import subprocess
import sys

import pytest
from support.fake_device import FakeDaemon
from support.waiting import DEADLINE_S

import memnotify
from memnotify.client import (
    PAGE_SIZE,
    Change,
    Crossed,
    Figures,
    Latch,
    Lost,
    Memnotify,
    Pages,
    Restored,
    ThresholdError,
    ThresholdWarning,
)

# What is refused, and what is doubtful


def test_a_share_of_total_is_a_str(device: Memnotify) -> None:
    """The message for a fraction says how a percentage is written."""
    with pytest.raises(ThresholdError, match="used='80%'"):
        device.subscribe(used=0.8)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("thresholds", "advice"),
    [
        ("used 8GB", r"'used 8GB' is not understood: write K, M, G or T"),
        ("used 8 GiB", "write K, M, G or T"),
        ("used 8g", "a capital K, M, G or T"),
        ("used 80 %", "leave out the blank"),
        ("used 8 G", "leave out the blank"),
        ("used > 80%", "leave the sign out"),
        ("used>=80%", "leave the sign out"),
        ("used 1,5G", "write a point"),
    ],
)
def test_what_people_write_has_an_answer_of_its_own(device: Memnotify, thresholds: str, advice: str) -> None:
    with pytest.raises(ThresholdError, match=advice):
        device.subscribe(thresholds)


def test_what_can_never_fire_is_refused(daemon: FakeDaemon, subscribed: Memnotify) -> None:
    for thresholds, reason in (
        ("used 120%", "used never reaches 120 % of total"),
        ("cgroup 100.5%", "cgroup never reaches 100.5 % of the cgroup's limit"),
        ("used 10001", r"never reaches .* total is 100\.0 % \(39\.1 MiB\)"),
        ("active 1T", r"never reaches .* total is 100\.0 % \(39\.1 MiB\)"),
        ("total 50%", "total is always 100 % of total"),
    ):
        with pytest.raises(ThresholdError, match=reason):
            subscribed.subscribe(thresholds)
    assert daemon.written == [b"used 200"], "the previous thresholds stay"
    subscribed.subscribe("used 100% total 20000")
    subscribed.subscribe_unchecked("used 120%")


def test_a_new_daemon_with_less_memory_is_no_error(daemon: FakeDaemon, device: Memnotify) -> None:
    device.subscribe("used 9000")
    daemon.end()
    assert isinstance(device.wait(0), Lost)
    daemon.use(100, total=8000)
    daemon.serving = True
    assert isinstance(device.wait(DEADLINE_S), Restored)


def test_a_small_bare_number_causes_a_warning(daemon: FakeDaemon, device: Memnotify) -> None:
    with pytest.warns(ThresholdWarning, match=r"used 0\.8 % \(320\.0 KiB\) is less than 1 %.*'used 80%'"):
        device.subscribe("used 80")
    with pytest.warns(ThresholdWarning, match="is less than 1 %"):
        device.subscribe(used=80)
    device.subscribe("used 100 active 0")
    device.subscribe(used=Pages(80), active="320K")
    assert daemon.written == [b"used 80 active 320K"]


def test_a_number_is_one_of_bytes(daemon: FakeDaemon, device: Memnotify) -> None:
    device.subscribe(used=2**20)
    assert device.thresholds == {("used", 2**20): 2**20 // PAGE_SIZE}
    device.subscribe(used=device.figures.total)
    assert daemon.written == [b"used 10000"]


# What is exceeded


def test_what_is_exceeded_already(daemon: FakeDaemon, device: Memnotify) -> None:
    assert device.exceeded == {}
    device.subscribe("used 1% active=2%")
    assert device.exceeded == {("used", "1%"): True, ("active", "2%"): False}
    assert device.thresholds == {("used", "1%"): 100, ("active", "2%"): 200}
    daemon.use(90, active=300)
    assert device.exceeded["used", "1%"], "it is as of the last event"
    assert device.wait(0) is not None
    assert device.exceeded == {("used", "1%"): False, ("active", "2%"): True}
    assert device.figures.active == 300


# Several thresholds of one figure


def test_several_thresholds_of_one_figure(daemon: FakeDaemon, device: Memnotify) -> None:
    device.subscribe(used=["80%", "90%"], active="50%")
    assert daemon.written == [b"used 80% active 50%", b"used 90%"]
    daemon.use(8500)
    event = device.wait(0)
    assert isinstance(event, Crossed)
    assert event.changes == (Change("used", Pages(8000), up=True),)
    assert (event.changes[0].pages, event.changes[0].bytes, event.changes[0].percent) == (
        8000,
        8000 * PAGE_SIZE,
        80.0,
    )
    daemon.use(9500)
    event = device.wait(0)
    assert isinstance(event, Crossed)
    assert (event.before.used, event.after.used) == (8500, 9500)
    assert event.changes == (Change("used", Pages(9000), up=True),)
    daemon.use(100)
    event = device.wait(0)
    assert isinstance(event, Crossed)
    assert event.changes == (Change("used", Pages(8000), up=False), Change("used", Pages(9000), up=False))
    assert device.wait(0) is None


def test_several_thresholds_outlive_the_daemon(daemon: FakeDaemon, device: Memnotify) -> None:
    device.subscribe(used=["80%", "90%"])
    daemon.end()
    lost = device.wait(0)
    assert isinstance(lost, Lost)
    assert lost.changes == ()
    daemon.use(8500)
    daemon.serving = True
    event = device.wait(DEADLINE_S)
    assert isinstance(event, Restored)
    assert event.changes == (Change("used", Pages(8000), up=True),)
    assert len(daemon.files) == 2


def test_fewer_thresholds_close_files(daemon: FakeDaemon, device: Memnotify) -> None:
    device.subscribe(used=["70%", "80%", "90%"])
    with pytest.raises(ThresholdError):
        device.subscribe(used=["70%", "80%", "90%", "120%"])
    assert daemon.written == [b"used 70%", b"used 80%", b"used 90%"]
    device.subscribe(used="60%")
    assert daemon.written == [b"used 60%"]
    daemon.use(9500)
    event = device.wait(0)
    assert isinstance(event, Crossed)
    assert event.changes == (Change("used", Pages(6000), up=True),)


# The latch


def test_a_latch(daemon: FakeDaemon) -> None:
    with Latch(high="80%", low="60%") as latch:
        assert not latch.on
        daemon.use(7000)
        assert latch.wait(0) is None
        daemon.use(8000)
        assert latch.wait(0) is True
        daemon.use(7000)
        assert latch.wait(0) is None
        assert latch.on
        daemon.use(8500)
        assert latch.wait(0) is None
        daemon.use(5000)
        assert next(latch) is False
        daemon.use(7000)
        assert latch.wait(0) is None
        daemon.use(100)
    daemon.use(8000)
    with Latch(high=Pages(5000), low=Pages(4000)) as latch:
        assert latch.on, "it is exceeded at the start"
    assert daemon.files == []


@pytest.mark.parametrize(("high", "low"), [("60%", "80%"), ("80%", "0"), ("120%", "60%"), ("x", "60%")])
def test_a_latch_that_cannot_be(daemon: FakeDaemon, high: str, low: str) -> None:
    with pytest.raises(ThresholdError):
        Latch(high=high, low=low)
    assert daemon.files == []


# Figures, processes and the package


def test_figures_iterate_and_have_extra_figures_as_attributes() -> None:
    read = Figures.parse(b"total 1000 used 250 active 7 available 500\n")
    assert dict(read) == {"total": 1000, "used": 250, "active": 7, "available": 500}
    assert read.available.percent == 50.0
    with pytest.raises(AttributeError, match="no figure 'free'"):
        _ = read.free
    assert pickle.loads(pickle.dumps(read)) == read  # noqa: S301 - our own


def test_a_spawned_child_is_told_to_open_its_own(device: Memnotify) -> None:
    with pytest.raises(TypeError, match="a Memnotify belongs to its process: open it in the child"):
        pickle.dumps(device)


def test_the_package_gives_the_library_s_names() -> None:
    assert memnotify.Memnotify is Memnotify
    for name in ("None_such", "none_such", "device_error"):
        with pytest.raises(AttributeError, match=f"no attribute '{name}'"):
            getattr(memnotify, name)
    script = (
        "import sys, memnotify.daemon; assert 'memnotify.client' not in sys.modules;"
        "from memnotify import Memnotify; assert 'memnotify.client' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
