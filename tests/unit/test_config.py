# SPDX-License-Identifier: MIT
"""The parameters: their defaults and bounds."""

from typing import Any

import pytest

from memnotify.config import ConfigError, Parameters

DAY_MS = 24 * 60 * 60 * 1000


def test_defaults() -> None:
    """The defaults are the contract's, and within their bounds."""
    assert Parameters().checked() == Parameters(
        update_period_ms=250,
        max_update_period_ms=15_000,
        min_update_period_ms=20,
        fill_rate_mib_s=6144,
        update_space_kib=0,
        poll_acknowledges=False,
        pcp_is_free=True,
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"update_period_ms": 1},
        {"update_period_ms": 15_000},
        {"update_period_ms": 1, "max_update_period_ms": 1},
        {"max_update_period_ms": DAY_MS},
        {"min_update_period_ms": 1},
        {"min_update_period_ms": 1000},  # more than update_period: it is without effect
        {"fill_rate_mib_s": 1},
        {"update_space_kib": 2**40},
        {"poll_acknowledges": True, "pcp_is_free": False},
    ],
)
def test_within_bounds(changed: dict[str, Any]) -> None:
    """The bounds themselves are allowed, and nothing is changed by the check."""
    parameters = Parameters()._replace(**changed)
    assert parameters.checked() is parameters


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"update_period_ms": 0}, r"update_period is 0 ms: .* from 1 to .* 15000 ms"),
        ({"update_period_ms": -1}, r"update_period is -1 ms"),
        ({"update_period_ms": 15_001}, r"update_period is 15001 ms"),
        ({"max_update_period_ms": 249}, r"update_period is 250 ms: .* 249 ms"),
        ({"max_update_period_ms": DAY_MS + 1}, r"max_update_period is 86400001 ms: .* a day"),
        ({"min_update_period_ms": 0}, r"min_update_period is 0 ms: .* 1 or more"),
        ({"fill_rate_mib_s": 0}, r"fill_rate is 0 MiB/s: .* from 1 to"),
        ({"fill_rate_mib_s": 2**49}, r"fill_rate is .* from 1 to"),
        ({"update_space_kib": 2**49}, r"update_space is .* from 0"),
        ({"update_space_kib": -1}, r"update_space is -1 kB: .* from 0 "),
    ],
)
def test_out_of_bounds(changed: dict[str, Any], message: str) -> None:
    """The error names the parameter, its value and what it may be."""
    with pytest.raises(ConfigError, match=message):
        Parameters()._replace(**changed).checked()
