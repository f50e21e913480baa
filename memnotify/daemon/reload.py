# SPDX-License-Identifier: MIT
"""The configuration read again while clients are served."""

import logging
from collections.abc import Callable

from memnotify.abi.figures import PAGE_SIZE
from memnotify.config.settings import SETTINGS, ConfigError, Settings
from memnotify.engine.device import Device
from memnotify.engine.sampler import Sampler
from memnotify.engine.schedule import SamplingParameters

log = logging.getLogger(__name__)


def sampling_parameters(settings: Settings) -> SamplingParameters:
    """Return the sampler's parameters in its own units."""
    return SamplingParameters(
        update_period_s=settings.update_period_ms / 1000,
        max_update_period_s=settings.max_update_period_ms / 1000,
        min_update_period_s=min(settings.min_update_period_ms, settings.update_period_ms) / 1000,
        fill_rate_pages_s=settings.fill_rate_mib_s * 2**20 / PAGE_SIZE,
        update_space_kib=settings.update_space_kib,
    )


class ConfigReloader:
    """Reads the configuration and hands on what has changed.

    All or nothing: if anything in it is wrong, everything stays as it was. Threads: the main
    thread; the sampler takes its parameters over in its own.
    """

    def __init__(
        self, settings: Settings, read: Callable[[], Settings], sampler: Sampler, device: Device
    ) -> None:
        """Begin with ``settings``; ``read`` returns the wanted ones, or raises ConfigError."""
        self._settings = settings
        self._read = read
        self._sampler = sampler
        self._device = device

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._settings

    def reload(self) -> str:
        """Read the configuration and return the outcome in a line; the log has the details."""
        try:
            wanted = self._read()
        except ConfigError as error:
            problems = str(error).splitlines()
            for problem in problems:
                log.error("%s", problem)  # noqa: TRY400 - the user's mistake, no defect to trace
            log.error("the configuration stays as it was")  # noqa: TRY400 - the same
            return f"configuration not reloaded: {problems[0]}"
        except MemoryError:
            raise
        except Exception:
            # A defect, or a module imported late that cannot be read any more: no reason to drop clients.
            log.exception("the configuration stays as it was")
            return "configuration not reloaded: see the log"
        changed: list[str] = []
        fixed: list[str] = []
        for name, setting in SETTINGS.items():
            value = getattr(self._settings, setting.attribute)
            if getattr(wanted, setting.attribute) != value:
                (changed if setting.reloads else fixed).append(name)
                if not setting.reloads:
                    wanted = wanted._replace(**{setting.attribute: value})
        log.info("configuration reloaded, changed: %s", ", ".join(changed) or "nothing")
        status = "configuration reloaded"
        if fixed:
            status += f", but a change of {', '.join(fixed)} takes a restart"
            log.warning("a change of %s takes a restart", ", ".join(fixed))
        self._settings = wanted
        if changed:
            self._apply(wanted)
        return status

    def _apply(self, settings: Settings) -> None:
        self._device.poll_acknowledges = settings.poll_acknowledges
        self._sampler.set_parameters(sampling_parameters(settings))
        logging.getLogger().setLevel(settings.log_level.upper())
