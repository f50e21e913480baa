# SPDX-License-Identifier: MIT
"""A reload: which settings change, which stay, and the log."""

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import pytest
from support.bench import sampling

from memnotify.abi.figures import NAMES, PAGE_SIZE
from memnotify.config.settings import ConfigError, Settings
from memnotify.daemon.reload import ConfigReloader
from memnotify.engine.device import Device
from memnotify.engine.schedule import SamplingParameters
from memnotify.engine.table import ObserverTable

if TYPE_CHECKING:
    from memnotify.engine.sampler import Sampler

FIXED = "name, socket, pcp_is_free, count_pages"


class SamplerParameters(list[SamplingParameters]):
    """A sampler that only notes the parameters that it is given."""

    names = NAMES
    set_parameters = list[SamplingParameters].append


class ReloadBench:
    """A reload of settings that a test changes: ``wanted`` or, if there is one, ``refusal``."""

    def __init__(self) -> None:
        self.wanted = Settings()
        self.refusal = ""
        self.parameters = SamplerParameters()
        sampler = cast("Sampler", self.parameters)
        self.device = Device(ObserverTable(), sampler)
        self.reload = ConfigReloader(Settings(), self.read, sampler, self.device).reload

    def read(self) -> Settings:
        """Return the settings of the files."""
        if self.refusal:
            raise ConfigError(self.refusal)
        return self.wanted


@pytest.fixture
def bench(caplog: pytest.LogCaptureFixture) -> Iterator[ReloadBench]:
    """Return a bench; the level of the log is set back."""
    with caplog.at_level(logging.INFO):
        yield ReloadBench()


def test_nothing_has_changed(bench: ReloadBench, caplog: pytest.LogCaptureFixture) -> None:
    assert bench.reload() == "configuration reloaded"
    assert bench.parameters == []
    assert caplog.messages == ["configuration reloaded, changed: nothing"]


@pytest.mark.parametrize(
    ("wanted", "parameters"),
    [
        ({"update_period_ms": 100}, {"update_period_s": 0.1}),
        ({"max_update_period_ms": 1000}, {"max_update_period_s": 1}),
        ({"min_update_period_ms": 5}, {"min_update_period_s": 0.005}),
        ({"fill_rate_mib_s": 1}, {"fill_rate_pages_s": 2**20 / PAGE_SIZE}),
        ({"update_space_kib": 64}, {"update_space_kib": 64}),
        # The shortest interval is not above the base interval.
        ({"update_period_ms": 10}, {"update_period_s": 0.01, "min_update_period_s": 0.01}),
    ],
)
def test_the_parameters_of_the_sampler(
    bench: ReloadBench, wanted: dict[str, Any], parameters: dict[str, Any]
) -> None:
    bench.wanted = Settings(**wanted)
    assert bench.reload() == "configuration reloaded"
    assert bench.parameters == [sampling(**parameters)]
    assert bench.reload() == "configuration reloaded"
    assert len(bench.parameters) == 1


def test_the_device_and_the_log(bench: ReloadBench) -> None:
    bench.wanted = Settings(poll_acknowledges=True, log_level="error")
    bench.reload()
    assert bench.device.poll_acknowledges
    assert logging.getLogger().level == logging.ERROR
    bench.wanted = Settings()
    bench.reload()
    assert not bench.device.poll_acknowledges
    assert logging.getLogger().level == logging.INFO


def test_what_takes_a_restart(bench: ReloadBench, caplog: pytest.LogCaptureFixture) -> None:
    """Such a setting stays and is named at each reload; the others change."""
    bench.wanted = Settings(
        name="other", socket="/run/s", pcp_is_free=False, count_pages=False, update_space_kib=1
    )
    for times in (1, 2):
        caplog.clear()
        status = f"configuration reloaded, but a change of {FIXED} takes a restart"
        assert bench.reload() == status
        assert f"a change of {FIXED} takes a restart" in caplog.messages
        assert bench.parameters == [sampling(update_space_kib=1)], times
    bench.wanted = Settings()
    assert bench.reload() == "configuration reloaded"


def test_a_defect_changes_nothing(bench: ReloadBench, caplog: pytest.LogCaptureFixture) -> None:
    """The log has its traceback, and the daemon goes on."""

    def fail() -> Settings:
        raise RuntimeError("a defect")

    reloader = ConfigReloader(Settings(), fail, cast("Sampler", bench.parameters), bench.device)
    assert reloader.reload() == "configuration not reloaded: see the log"
    assert "RuntimeError: a defect" in caplog.text
    assert bench.parameters == []


def test_a_bad_configuration_changes_nothing(bench: ReloadBench, caplog: pytest.LogCaptureFixture) -> None:
    """No setting changes, not even a valid one; the log has each wrong line."""
    bench.wanted = Settings(update_space_kib=1)
    bench.refusal = "/etc/f:3: this\n/etc/f:5: that"
    assert bench.reload() == "configuration not reloaded: /etc/f:3: this"
    assert caplog.messages == ["/etc/f:3: this", "/etc/f:5: that", "the configuration stays as it was"]
    assert {record.levelname for record in caplog.records} == {"ERROR"}
    assert bench.parameters == []
    bench.refusal = ""
    bench.reload()
    assert len(bench.parameters) == 1
