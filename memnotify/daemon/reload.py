# SPDX-License-Identifier: MIT
"""The configuration read anew while clients are served."""

import logging
from collections.abc import Callable
from functools import partial

from memnotify.abi.figures import PAGE_SIZE
from memnotify.config.settings import SETTINGS, ConfigError, Settings
from memnotify.engine.device import Device
from memnotify.engine.sampler import Sampler, Tuning
from memnotify.kernel.page_counters import open_page_counters

log = logging.getLogger(__name__)


class ConfigReloader:
    """Called, it reads the configuration and hands what has changed on to who runs by it.

    All or nothing: where something in it is wrong, all stays as it was. Main thread, between two
    requests, so ``device`` must be one that is served there; the sampler takes over what is its own
    when it comes to it.
    """

    def __init__(
        self, settings: Settings, read: Callable[[], Settings], sampler: Sampler, device: Device
    ) -> None:
        """Begin with ``settings``; ``read`` returns those that are wanted, or raises ConfigError."""
        self._settings = settings
        self._read = read
        self._sampler = sampler
        self._device = device

    def __call__(self) -> str:
        """Return what has become of it, in a line; the log has the details."""
        try:
            wanted = self._read()
        except ConfigError as error:
            problems = str(error).splitlines()
            for problem in problems:
                log.error("%s", problem)  # noqa: TRY400 - the user's mistake, not a traceback's
            log.error("the configuration stays as it was")  # noqa: TRY400 - the same
            return f"configuration not reloaded: {problems[0]}"
        except Exception:
            # A defect, or what is imported late and cannot be read any more: no reason to drop clients.
            log.exception("the configuration stays as it was")
            return "configuration not reloaded: see the log"
        old = self._settings
        changed: list[str] = []
        fixed: list[str] = []
        for name, setting in SETTINGS.items():
            was = getattr(old, setting.attribute)
            if getattr(wanted, setting.attribute) != was:
                (changed if setting.reloads else fixed).append(name)
                if not setting.reloads:
                    wanted = wanted._replace(**{setting.attribute: was})
        log.info("configuration reloaded, changed: %s", ", ".join(changed) or "nothing")
        status = "configuration reloaded"
        if fixed:
            status += f", but a change of {', '.join(fixed)} takes a restart"
            log.warning("a change of %s takes a restart", ", ".join(fixed))
        self._settings = wanted
        if changed:
            self._apply(old, wanted)
        return status

    def _apply(self, old: Settings, new: Settings) -> None:
        self._device.poll_acknowledges = new.poll_acknowledges
        kicks_change = (old.count_pages, old.pcp_is_free) != (new.count_pages, new.pcp_is_free)
        open_new = partial(open_page_counters, pcp_is_free=new.pcp_is_free) if new.count_pages else _no_kicks
        self._sampler.tune(
            Tuning(
                new.update_period_ms / 1000,
                new.max_update_period_ms / 1000,
                new.min_update_period_ms / 1000,
                new.fill_rate_mib_s * 2**20 / PAGE_SIZE,
                new.update_space_kib,
                new.pcp_is_free,
                open_new if kicks_change else None,
            )
        )
        logging.getLogger().setLevel(new.log_level.upper())


def _no_kicks() -> None:
    """Open none."""
