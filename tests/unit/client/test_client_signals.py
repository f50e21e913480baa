# SPDX-License-Identifier: MIT
"""Control files and their signals."""

import asyncio
import errno
import os
import select
from collections.abc import Callable
from pathlib import Path

import pytest
from support.fake_cgroups import FakeCgroup
from support.fake_device import FakeDaemon
from support.waiting import DEADLINE_S, eventually

from memnotify.client import (
    PAGE_SIZE,
    ControlFileError,
    DeviceMissingError,
    Observer,
    Signal,
    Signals,
    ThresholdWarning,
)
from memnotify.client._control import DIRECTORY, load, settings

TOTAL = 10_000
TOTAL_BYTES = TOTAL * PAGE_SIZE


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Return a function that writes a control file and returns its path."""

    def write(text: str, name: str = "test.mn") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


# The files


@pytest.mark.parametrize(
    ("text", "pages"),
    [
        ("", TOTAL * 95 // 100),
        ("type = memnotify\nused = 80%", 8000),
        ("used=12.5%", 1250),
        (f"used = {5 * PAGE_SIZE}", 5),
        ("used = 1024k", 2**20 // PAGE_SIZE),
        ("used = 1.5M", 3 * 2**19 // PAGE_SIZE),
        ("used = 1 g", 2**30 // PAGE_SIZE),
        ("used = 80%  ; of all", 8000),
        ("limit = 50%", 4750),
        (f"limit = {1000 * PAGE_SIZE}\nused = 10%", 100),
        ("free = 10%", 9000),
        (f"free = {100 * PAGE_SIZE}", 9900),
        (f"free = {100 * PAGE_SIZE}\nlimit = 50%", 4900),
        ("free = 10%\nused = 80%", 8000),
        ("free = 30%\nused = 80%", 7000),
        ("used = 0", 1),
        ("free = 200%", 1),
        ("used = 57%", 5700),
        ("used = 999999999999999999%", TOTAL * 10**13),
        ("used = 999999999999999999g", 2**63 - 1),
    ],
)
def test_the_use_at_which_a_signal_is_on(write: Callable[..., str], text: str, pages: int) -> None:
    (definition,) = load(write(f"[low]\n{text}\n"))
    assert definition.name == "low"
    assert definition.sensor == "/dev/memnotify"
    assert definition.threshold(TOTAL) == pages


def test_names_sensors_and_what_is_disabled(write: Callable[..., str]) -> None:
    path = write(
        "# all\n[DEFAULT]\nsensor = ~/memnotify\n[low]\nused = 80%\n"
        "[critical]\nproperty = Memory.Critical\nsensor = /dev/other\n"
        "[old]\ntype = cgroup\ndisabled = YES\n[new]\ndisabled = off\n"
    )
    assert [(each.name, each.sensor) for each in load(path)] == [
        ("low", os.path.expanduser("~/memnotify")),
        ("Memory.Critical", "/dev/other"),
        ("new", os.path.expanduser("~/memnotify")),
    ]


def test_where_files_are_looked_for(
    write: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write("[a]", "a.mn")
    write("[b]", "b")
    for names, found in {
        "a": ["a"],
        "a.mn": ["a"],
        "b": ["b"],
        "a:b": ["a", "b"],
        "~/a.mn": ["a"],
        "~/a": ["a"],
        f"{tmp_path}/b:a": ["b", "a"],
    }.items():
        assert [each.name for each in load(names, str(tmp_path))] == found
    assert [each.name for each in load(f"{tmp_path}/a")] == ["a"]
    with pytest.raises(FileNotFoundError) as missing:
        load("c", str(tmp_path))
    assert missing.value.filename == str(tmp_path / "c.mn")
    with pytest.raises(FileNotFoundError) as missing:
        load("none-such")
    assert missing.value.filename == f"{DIRECTORY}/none-such.mn"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("used = 5", "no section headers"),
        ("[a]\n[a]", "already exists"),
        ("[a]\nused = lots", r"\[a\] used is 'lots'; write bytes"),
        ("[a]\nused = -5", "write bytes"),
        ("[a]\nused = 5t", "write bytes"),
        ("[a]\nused = " + 400 * "9", "write bytes"),
        ("[a]\nfree =", "free is ''; write bytes"),
        ("[a]\nusd = 5", r"\[a\] has 'usd'; the keys are type, sensor, used"),
        ("[a]\ntype = cgroup", "type is 'cgroup'; write type = memnotify"),
        ("[a]\ndisabled = perhaps", "write yes or no"),
        ("[a]\nproperty = b\n[b]", "another signal is named 'b'"),
        ("[a]\n\0\n", "test.mn"),
    ],
)
def test_what_is_not_understood(write: Callable[..., str], text: str, message: str) -> None:
    path = write(text)
    with pytest.raises(ControlFileError, match=message) as refused:
        load(path)
    assert path in str(refused.value)


def test_the_environment() -> None:
    assert settings({}) == (DIRECTORY, False)
    assert settings({"MEMNOTIFY": "config=/opt/x"}) == ("/opt/x", False)
    assert settings({"MEMNOTIFY": "disabled"}) == (DIRECTORY, True)
    assert settings({"MEMNOTIFY": "config=/opt/x:disabled"}) == ("/opt/x", True)
    with pytest.raises(ControlFileError, match="MEMNOTIFY has 'verbose'; write config=DIR, disabled"):
        settings({"MEMNOTIFY": "verbose"})


@pytest.mark.parametrize(
    ("text", "thresholds"),
    [
        ("used = 80%", "used 80%"),
        ("free = 12.5%", "used 87.5%"),
        ("free = 10%\nused = 95%\nlimit = 50%", "used 45%"),
        (f"used = {5 * PAGE_SIZE}", "used 5"),
        (f"limit = {1000 * PAGE_SIZE}\nfree = 10%", "used 900"),
        (f"free = {100 * PAGE_SIZE}", f"used 9900 total {TOTAL}"),
        (f"free = {100 * PAGE_SIZE}\nused = 80%", f"used 8000 total {TOTAL}"),
        ("free = 100%", "used 1"),
        ("cgroup = 80%", "cgroup 80%"),
        ("cgroup = 1g", f"cgroup {2**30 // PAGE_SIZE}"),
        ("cgroup = 0", "cgroup 1"),
        ("cgroup = 120%\nused = 90%", "used 90% cgroup 120%"),
        (f"cgroup = 80%\nfree = {100 * PAGE_SIZE}", f"used 9900 total {TOTAL} cgroup 80%"),
    ],
)
def test_thresholds_follow_total(write: Callable[..., str], text: str, thresholds: str) -> None:
    """The device keeps a percentage. Where only the library can compute the level, total is watched too."""
    (definition,) = load(write(f"[low]\n{text}\n"))
    assert definition.thresholds(TOTAL, on=False) == thresholds
    on = thresholds.replace(f"total {TOTAL}", f"total {TOTAL + 1}")
    assert definition.thresholds(TOTAL, on=True) == on


# The signals

TWO = "[low]\nused = 50%\n[critical]\nused = 80%\n"


@pytest.fixture
def signals(daemon: FakeDaemon, write: Callable[..., str]) -> Signals:
    """Return two signals, at 5,000 and 8,000 pages, not yet enabled. The tests close them."""
    return Signals(write(TWO), {})


def _changes(signals: Signals) -> list[tuple[str, bool]]:
    found = []
    while change := signals.wait(0):
        found.append((change.name, change.on))
    assert not _readable(signals.fileno())
    return sorted(found)


def _readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def test_only_changes_are_events(daemon: FakeDaemon, signals: Signals) -> None:
    with signals:
        signals.enable()
        assert signals.states == {"low": False, "critical": False}
        assert _changes(signals) == []
        daemon.use(6000)
        assert _readable(signals.fileno())
        assert _changes(signals) == [("low", True)]
        daemon.use(7000)
        daemon.use(9000)
        daemon.use(7000)  # up and down again changes nothing
        assert _changes(signals) == []
        daemon.use(9000)
        assert _changes(signals) == [("critical", True)]
        assert signals.states == {"low": True, "critical": True}
        daemon.use(100)
        assert _changes(signals) == [("critical", False), ("low", False)]


@pytest.mark.parametrize("text", ["used = 80%", "free = 20%", f"free = {2000 * PAGE_SIZE}"])
def test_a_signal_follows_total(daemon: FakeDaemon, write: Callable[..., str], text: str) -> None:
    """A signal changes when total changes, without any change of use."""
    with Signals(write(f"[low]\n{text}\n"), {}) as signals:
        signals.enable()
        daemon.use(7_900)
        assert _changes(signals) == []
        for total, changes in (
            (9_000, [("low", True)]),
            (9_100, []),
            (12_000, [("low", False)]),
            (11_000, []),
            (9_000, [("low", True)]),
            (8_000, []),
            (9_000, []),
            (10_000, [("low", False)]),
        ):
            daemon.use(7_900, total=total)
            assert _changes(signals) == changes, total


def test_the_own_cgroup(daemon: FakeDaemon, write: Callable[..., str]) -> None:
    """A signal is on while the program's own cgroup or the machine is at its value, and follows the limit."""
    group = FakeCgroup(100, limit=1000)
    daemon.bench.device.find_group = lambda _: group

    text = "[low]\ncgroup = 80%\n[either]\ncgroup = 80%\nused = 50%\n"
    with Signals(write(text), {}) as signals:

        def use(used: int, value: int) -> list[tuple[str, bool]]:
            group.value = value
            daemon.use(used)
            return _changes(signals)

        signals.enable()
        assert _changes(signals) == []
        assert use(6_000, 100) == [("either", True)]
        assert use(6_000, 850) == [("low", True)]
        assert use(100, 850) == []
        group.limit = 2000
        daemon.bench.clock.tick(15)
        assert use(100, 850) == [("either", False), ("low", False)]
        assert use(100, 1700) == [("either", True), ("low", True)]
        signals.disable()
        signals.enable()
        assert _changes(signals) == [("either", True), ("low", True)]


def test_a_cgroup_that_cannot_be_had(daemon: FakeDaemon, write: Callable[..., str]) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "there is no cgroup v2 on this machine")

    daemon.bench.device.find_group = refuse
    with Signals(write("[low]\nused = 80%\n[own]\ncgroup = 80%\n"), {}) as signals:
        with pytest.raises(OSError, match="cgroup") as refused:
            signals.enable()
        assert refused.value.errno == errno.EOPNOTSUPP
        assert signals.states == {}


def test_a_signal_follows_total_across_daemons(daemon: FakeDaemon, write: Callable[..., str]) -> None:
    """If the daemon ends while the thresholds are written again, the next daemon gets them."""
    with Signals(write(f"[low]\nfree = {2000 * PAGE_SIZE}\n"), {}) as signals:
        signals.enable()
        daemon.use(7_900, total=9_000)
        daemon.after_write.append(daemon.end)
        change = signals.wait(0)
        assert change is not None
        assert change.on
        assert daemon.written == []
        daemon.serving = True
        assert signals.wait(0) is None
        eventually(
            lambda: signals.wait(0) is None and daemon.written == [b"used 7000 total 9001"], "the thresholds"
        )


def test_signals_that_are_on_at_the_start_are_events_once(daemon: FakeDaemon, signals: Signals) -> None:
    daemon.use(9000)
    with signals:
        assert signals.wait(0) is None
        signals.enable()
        signals.enable()
        assert _readable(signals.fileno())
        change = signals.wait(0)
        assert change is not None
        assert (change.name, change.on, change.figures.used) == ("low", True, 9000)
        assert signals.exceeded == {("low", "used 50%"): True, ("critical", "used 80%"): True}
        assert _readable(signals.fileno())
        assert _changes(signals) == [("critical", True)]
        daemon.use(6000)
        assert _changes(signals) == [("critical", False)]
        signals.disable()
        assert (signals.states, _changes(signals)) == ({}, [])
        assert daemon.files == []
        signals.enable()
        assert _changes(signals) == [("low", True)]


def test_a_signal_that_is_never_on_causes_a_warning(daemon: FakeDaemon, write: Callable[..., str]) -> None:
    with Signals(write("[low]\nused = 120%\n[high]\nused = 1g\n[fine]\nused = 100%\n")) as signals:
        with pytest.warns(ThresholdWarning) as warned:
            signals.enable()
        assert [str(each.message) for each in warned] == [
            "signal low: used never reaches 120%",
            f"signal high: used never reaches {2**30 // PAGE_SIZE}",
        ]
        assert {each.filename for each in warned} == {__file__}
        assert signals.states == {"low": False, "high": False, "fine": False}


def test_a_daemon_that_ends_changes_nothing(daemon: FakeDaemon, signals: Signals) -> None:
    daemon.use(9000)
    with signals:
        signals.enable()
        assert len(_changes(signals)) == 2
        daemon.end()
        assert signals.wait(0.05) is None
        assert signals.states == {"low": True, "critical": True}
        daemon.use(6000)
        daemon.serving = True
        change = signals.wait(DEADLINE_S)
        assert change is not None
        assert (change.name, change.on) == ("critical", False)


def test_disabled_by_the_environment(daemon: FakeDaemon, write: Callable[..., str], tmp_path: Path) -> None:
    write(TWO)
    daemon.use(9000)
    with Signals("test", {"MEMNOTIFY": f"config={tmp_path}:disabled"}) as signals:
        signals.enable()
        assert [each.name for each in signals.definitions] == ["low", "critical"]
        assert (signals.states, signals.wait(0), daemon.opened) == ({}, None, 0)


def test_if_one_cannot_be_enabled_none_is(
    monkeypatch: pytest.MonkeyPatch, daemon: FakeDaemon, write: Callable[..., str]
) -> None:
    def open_one(path: str) -> object:
        daemon.serving = path != "/dev/none"
        return daemon.open(path)

    monkeypatch.setattr("memnotify.client._device.DeviceFile", open_one)
    daemon.use(9000)
    with Signals(write("[a]\nused=50%\n[b]\nsensor = /dev/none"), {}) as signals:
        with pytest.raises(DeviceMissingError):
            signals.enable()
        assert (signals.states, daemon.files, _changes(signals)) == ({}, [], [])


def test_in_a_loop_and_in_a_thread(daemon: FakeDaemon, signals: Signals) -> None:
    daemon.use(6000)

    async def main() -> list[tuple[str, bool]]:
        seen = []
        async for change in signals:
            seen.append((change.name, change.on))
            daemon.use(9000)
            if len(seen) == 2:
                break
        return seen

    with signals:
        signals.enable()
        assert asyncio.run(main()) == [("low", True), ("critical", True)]
        told: list[Signal] = []
        with Observer(signals, told.append):
            daemon.use(6000)
            eventually(lambda: told, "the change")
    assert [(change.name, change.on) for change in told] == [("critical", False)]


def test_a_child_has_its_own(daemon: FakeDaemon, signals: Signals) -> None:
    with signals:
        signals.enable()
        child = os.fork()
        if child == 0:
            fds = os.listdir("/proc/self/fd")
            nothing = signals.wait(0.05)
            daemon.use(6000)
            seen = _changes(signals)
            left = len(os.listdir("/proc/self/fd")) - len(fds)
            os._exit(0 if (nothing, seen, left) == (None, [("low", True)], 0) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        daemon.use(9000)
        assert _changes(signals) == [("critical", True), ("low", True)]


def test_a_child_that_holds_the_files_holds_up_nothing(daemon: FakeDaemon, signals: Signals) -> None:
    read, write = os.pipe()
    with signals:
        signals.enable()
        child = os.fork()
        if child == 0:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
        daemon.use(9000)
        signals.disable()
        assert not _readable(signals.fileno())
    for end in (read, write):
        os.close(end)
    os.waitpid(child, 0)


def test_nothing_is_left_behind(daemon: FakeDaemon, write: Callable[..., str]) -> None:
    path = write(TWO)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(100):
        with Signals(path, {}) as signals:
            signals.enable()
    assert len(os.listdir("/proc/self/fd")) == before
    signals.close()
    with pytest.raises(ValueError, match="this Signals is closed"):
        signals.enable()


def test_what_is_not_closed_is_closed_with_a_warning(daemon: FakeDaemon, write: Callable[..., str]) -> None:
    path = write(TWO)
    before = len(os.listdir("/proc/self/fd"))
    signals = Signals(path, {})
    signals.enable()
    daemon.use(6000)
    assert signals.wait(1e9) is not None  # more than epoll takes
    with pytest.warns(ResourceWarning, match="unclosed signals"):
        del signals
    assert len(os.listdir("/proc/self/fd")) == before
