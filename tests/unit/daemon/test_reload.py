# SPDX-License-Identifier: MIT
"""The configuration read anew: what is handed on, what stays, and what is said."""

import logging
from collections.abc import Iterator
from typing import Any, cast

import pytest

from memnotify.abi.figures import PAGE_SIZE
from memnotify.config.settings import ConfigError, Settings
from memnotify.daemon.reload import ConfigReloader
from memnotify.engine.device import Device
from memnotify.engine.sampler import Sampler, Tuning
from memnotify.engine.table import ObserverTable


class Told:
    """A sampler that only notes what it is tuned to."""

    def __init__(self) -> None:
        self.tunings: list[Tuning] = []

    def tune(self, tuning: Tuning) -> None:
        """Note it."""
        self.tunings.append(tuning)


class Bench:
    """A reload of settings that a test changes: ``wanted`` or, if there is one, ``refusal``."""

    def __init__(self) -> None:
        self.wanted = Settings()
        self.refusal = ""
        self.sampler = Told()
        sampler = cast("Sampler", self.sampler)
        self.device = Device(ObserverTable(), sampler)
        self.reload = ConfigReloader(Settings(), self.read, sampler, self.device)

    def read(self) -> Settings:
        """Return what the files say."""
        if self.refusal:
            raise ConfigError(self.refusal)
        return self.wanted


@pytest.fixture
def bench(caplog: pytest.LogCaptureFixture) -> Iterator[Bench]:
    """Return a bench; the level of the log is set back."""
    with caplog.at_level(logging.INFO):
        yield Bench()


TUNED = Tuning(
    update_period_s=0.25,
    max_update_period_s=15,
    min_update_period_s=0.02,
    fill_rate_pages_s=6 * 2**30 / PAGE_SIZE,
    update_space_kib=0,
    pcp_is_free=True,
    open_page_counters=None,
)


def test_nothing_has_changed(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    assert bench.reload() == "configuration reloaded"
    assert bench.sampler.tunings == []
    assert caplog.messages == ["configuration reloaded, changed: nothing"]


@pytest.mark.parametrize(
    ("wanted", "tuned"),
    [
        ({"update_period_ms": 100}, {"update_period_s": 0.1}),
        ({"max_update_period_ms": 1000}, {"max_update_period_s": 1}),
        ({"min_update_period_ms": 5}, {"min_update_period_s": 0.005}),
        ({"fill_rate_mib_s": 1}, {"fill_rate_pages_s": 2**20 / PAGE_SIZE}),
        ({"update_space_kib": 64}, {"update_space_kib": 64}),
    ],
)
def test_what_the_sampler_is_tuned_to(bench: Bench, wanted: dict[str, Any], tuned: dict[str, Any]) -> None:
    bench.wanted = Settings(**wanted)
    assert bench.reload() == "configuration reloaded"
    assert bench.sampler.tunings == [TUNED._replace(**tuned)]
    assert bench.reload() == "configuration reloaded"
    assert len(bench.sampler.tunings) == 1


def test_the_device_and_the_log(bench: Bench) -> None:
    bench.wanted = Settings(poll_acknowledges=True, log_level="error")
    bench.reload()
    assert bench.device.poll_acknowledges
    assert logging.getLogger().level == logging.ERROR
    bench.wanted = Settings()
    bench.reload()
    assert not bench.device.poll_acknowledges
    assert logging.getLogger().level == logging.INFO


def test_what_takes_a_restart(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """It is named, each time, and stays; the rest is taken over."""
    bench.wanted = Settings(name="other", socket="/run/s", update_space_kib=1)
    for times in (1, 2):
        caplog.clear()
        status = "configuration reloaded, but a change of name, socket takes a restart"
        assert bench.reload() == status
        assert "a change of name, socket takes a restart" in caplog.messages
        assert bench.sampler.tunings == [TUNED._replace(update_space_kib=1)], times
    bench.wanted = Settings()
    assert bench.reload() == "configuration reloaded"


def test_a_defect_changes_nothing(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """It has its traceback in the log, and the clients have their daemon."""

    def fail() -> Settings:
        raise RuntimeError("a defect")

    bench.reload._read = fail
    assert bench.reload() == "configuration not reloaded: see the log"
    assert "RuntimeError: a defect" in caplog.text
    assert bench.sampler.tunings == []


def test_a_bad_configuration_changes_nothing(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Not even what is good in it; the log has each line that is wrong."""
    bench.wanted = Settings(update_space_kib=1)
    bench.refusal = "/etc/f:3: this\n/etc/f:5: that"
    assert bench.reload() == "configuration not reloaded: /etc/f:3: this"
    assert caplog.messages == ["/etc/f:3: this", "/etc/f:5: that", "the configuration stays as it was"]
    assert {record.levelname for record in caplog.records} == {"ERROR"}
    assert bench.sampler.tunings == []
    bench.refusal = ""
    bench.reload()
    assert len(bench.sampler.tunings) == 1
