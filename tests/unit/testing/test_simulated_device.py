# SPDX-License-Identifier: MIT
"""memnotify.testing in one process. The same tests run on a FUSE file in tests/mount."""

import os
from collections.abc import Iterator

import pytest
from support import simulated

from memnotify.client import DeviceLostError, Memnotify
from memnotify.testing import SimulatedDevice, SimulationError


@pytest.fixture
def device() -> Iterator[SimulatedDevice]:
    """Return a device in this process."""
    with SimulatedDevice(kind="in-process") as device:
        yield device


@pytest.mark.parametrize("check", simulated.CHECKS)
def test_as_the_device(device: SimulatedDevice, check: simulated.Check) -> None:
    check(device)


def test_other_paths_are_files_as_before(device: SimulatedDevice) -> None:
    with SimulatedDevice(kind="in-process", used="10%") as other:
        assert device.path != other.path
        with Memnotify() as inner, Memnotify(device.path) as outer:
            assert round(inner.read().used.percent) == 10
            assert round(outer.read().used.percent) == 50
    with pytest.raises(FileNotFoundError):
        Memnotify("/nonexistent/memnotify")


def test_the_end_of_the_device_is_that_of_the_daemon() -> None:
    with SimulatedDevice(kind="in-process") as device:
        client = Memnotify(reopen=False)
        client.subscribe(used="80%")
        assert device.kind == "in-process"
    with client, pytest.raises(DeviceLostError):
        client.wait(0)


def test_the_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMNOTIFY_PATH", "before")
    with SimulatedDevice(kind="in-process") as device:
        assert os.environ["MEMNOTIFY_PATH"] == device.path
    assert os.environ["MEMNOTIFY_PATH"] == "before"
    with pytest.raises(ValueError, match="with block"):
        device.set(used=0)


@pytest.mark.parametrize(
    ("amounts", "reason"),
    [
        ({"used": "101%"}, "must not be above total"),
        ({"used": "x"}, "not understood"),
        ({"total": "50%"}, "must be a size"),
        ({"active": -1}, "not understood"),
    ],
)
def test_amounts_that_are_wrong(device: SimulatedDevice, amounts: dict[str, str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        SimulatedDevice(**amounts)  # type: ignore[arg-type]  # of any name
    with pytest.raises(ValueError, match=reason):
        device.set(**amounts)
    with Memnotify() as client:
        assert round(client.read().used.percent) == 50


def test_no_device_can_be_made() -> None:
    with (
        pytest.raises(SimulationError, match="/nonexistent/memnotify"),
        SimulatedDevice(path="/nonexistent/memnotify"),
    ):
        pass
