# SPDX-License-Identifier: MIT
"""The parameters that an administrator sets, with their defaults and bounds."""

from typing import NamedTuple, Self

# Of KiB or MiB/s: more than any machine has, and no number of pages made of it outgrows 64 bits.
_MOST = 2**48


class ConfigError(ValueError):
    """A parameter is out of its bounds; the text says which and what it may be."""


class Parameters(NamedTuple):
    """The parameters of the device, under the names of the 2012 module."""

    update_period_ms: int = 250
    """The base interval between samples, and the greatest age of what a client reads."""
    max_update_period_ms: int = 15_000
    """The longest interval between samples."""
    min_update_period_ms: int = 20
    """The shortest interval while memory would reach a threshold within ``update_period``."""
    fill_rate_mib_s: int = 6144
    """How fast memory is expected to move at the most; what is seen to be faster counts as well."""
    update_space_kib: int = 0
    """What a figure must move by, doubled; 0 is 1/64 of total."""
    poll_acknowledges: bool = False
    """Whether a poll that reports an event clears it, for clients that never read."""
    pcp_is_free: bool = True
    """Whether pages on the kernel's per-CPU free lists count as free."""
    count_pages: bool = True
    """Whether to sleep until the kernel has allocated or freed what the nearest threshold is away."""

    def checked(self) -> Self:
        """Return the parameters themselves. Raises ConfigError if one is out of its bounds."""
        if not 1 <= self.update_period_ms <= self.max_update_period_ms:
            raise ConfigError(
                f"update_period is {self.update_period_ms} ms: it must be from 1 to max_update_period,"
                f" which is {self.max_update_period_ms} ms"
            )
        # poll() takes its time-out as an int of milliseconds.
        if self.max_update_period_ms > 86_400_000:
            raise ConfigError(
                f"max_update_period is {self.max_update_period_ms} ms: it may be a day (86400000) at the most"
            )
        if self.min_update_period_ms < 1:
            raise ConfigError(f"min_update_period is {self.min_update_period_ms} ms: it must be 1 or more")
        if not 1 <= self.fill_rate_mib_s <= _MOST:
            raise ConfigError(f"fill_rate is {self.fill_rate_mib_s} MiB/s: it must be from 1 to {_MOST}")
        if not 0 <= self.update_space_kib <= _MOST:
            raise ConfigError(
                f"update_space is {self.update_space_kib} kB: it must be from 0 (automatic) to {_MOST}"
            )
        return self
