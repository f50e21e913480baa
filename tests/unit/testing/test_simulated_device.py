# SPDX-License-Identifier: MIT
"""memnotify.testing without a kernel's file system; tests/mount has what every kind of device does."""

import os
from collections.abc import Iterator
from functools import partial

import pytest

from memnotify.client import DeviceLostError, Memnotify
from memnotify.simulation.amounts import Amounts, SimulatedFigures
from memnotify.testing import SimulatedDevice, SimulationError
from memnotify.testing._in_process import InProcess


@pytest.fixture
def device() -> Iterator[SimulatedDevice]:
    """Return a device in this process."""
    with SimulatedDevice(kind="in-process") as device:
        yield device


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
        ({"cgroup_limit": 0}, "must be above 0"),
        ({"cgroup": "101%"}, "must not be above total"),
    ],
)
def test_amounts_that_are_wrong(device: SimulatedDevice, amounts: dict[str, str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Amounts(**amounts).figures()
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


@pytest.mark.parametrize("failing", [(), ("fuse",), ("fuse", "socket")])
def test_auto_is_the_first_kind_that_works(failing: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memnotify.testing._Process", partial(_served, failing))
    wanted = [kind for kind in ("fuse", "socket", "in-process") if kind not in failing]
    with SimulatedDevice() as device:
        assert device.kind == wanted[0]


def _served(failing: tuple[str, ...], kind: str, figures: SimulatedFigures, _path: str | None) -> InProcess:
    if kind in failing:
        raise SimulationError(kind)
    served = InProcess(figures)
    served.kind = kind
    return served
