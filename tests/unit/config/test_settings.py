# SPDX-License-Identifier: MIT
"""The table of settings: defaults, bounds, and the message for a wrong value."""

import math
from typing import Any

import pytest

from memnotify.config.settings import (
    COMMAND_LINE,
    DEFAULT,
    SETTINGS,
    ConfigError,
    Given,
    Settings,
    configure,
    show,
)

DAY_MS = 24 * 60 * 60 * 1000


def _given(values: dict[str, object]) -> dict[str, Given]:
    return {name: Given(value, f"file:{line}") for line, (name, value) in enumerate(values.items(), start=1)}


def test_defaults() -> None:
    """The defaults are the contract's, and within their bounds."""
    settings, origins = configure({})
    assert settings == Settings(
        transport="auto",
        name="memnotify",
        path="",
        socket="",
        socket_mode="666",
        update_period_ms=250,
        max_update_period_ms=15_000,
        min_update_period_ms=20,
        fill_rate_mib_s=6144,
        update_space_kib=0,
        poll_acknowledges=False,
        pcp_is_free=True,
        count_pages=True,
        log_level="info",
    )
    assert origins == dict.fromkeys(SETTINGS, DEFAULT)
    for setting in SETTINGS.values():
        setting.check(setting.default)


def test_each_field_has_a_row() -> None:
    assert tuple(setting.attribute for setting in SETTINGS.values()) == Settings._fields


def test_units() -> None:
    """A key is the field's name without the unit, and each number has a unit."""
    units = {name: setting.unit for name, setting in SETTINGS.items() if setting.unit}
    assert units == {
        "update_period": "ms",
        "max_update_period": "ms",
        "min_update_period": "ms",
        "fill_rate": "MiB/s",
        "update_space": "kB",
    }


@pytest.mark.parametrize(
    "values",
    [
        {"update_period": 1},
        {"update_period": 15_000},
        {"update_period": 1, "max_update_period": 1},
        {"max_update_period": DAY_MS},
        {"min_update_period": 1},
        {"min_update_period": 1000},  # more than update_period: it has no effect
        {"fill_rate": 1},
        {"update_space": 2**48},
        {"poll_acknowledges": True, "pcp_is_free": False, "count_pages": False},
        {"transport": "cuse", "log_level": "debug"},
        {"name": "a" * 64, "path": "/a b/\u20ac", "socket": "relative"},
        {"name": "_.-9", "path": "", "socket": ""},
        {"socket_mode": "660"},
        {"socket_mode": "0600"},
    ],
)
def test_within_bounds(values: dict[str, object]) -> None:
    """The bounds themselves are allowed. The configuration has the value and its origin."""
    settings, origins = configure(_given(values))
    for line, (name, value) in enumerate(values.items(), start=1):
        assert getattr(settings, SETTINGS[name].attribute) == value
        assert origins[name] == f"file:{line}"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"update_period": 0}, "file:1: update_period is 0 ms: it must be from 1 to 86400000"),
        ({"update_period": -1}, "file:1: update_period is -1 ms: it must be from 1 to 86400000"),
        (
            {"update_period": 15_001},
            (
                "file:1: update_period is 15001 ms: it must not be more than max_update_period,"
                " which is 15000 ms (default)"
            ),
        ),
        (
            {"max_update_period": 249},
            (
                "file:1: update_period is 250 ms: it must not be more than max_update_period,"
                " which is 249 ms (file:1)"
            ),
        ),
        (
            {"max_update_period": 1, "update_period": 2},
            (
                "file:2: update_period is 2 ms: it must not be more than max_update_period,"
                " which is 1 ms (file:1)"
            ),
        ),
        (
            {"max_update_period": DAY_MS + 1},
            "file:1: max_update_period is 86400001 ms: it must be from 1 to 86400000",
        ),
        ({"min_update_period": 0}, "file:1: min_update_period is 0 ms: it must be from 1 to 86400000"),
        ({"fill_rate": 0}, f"file:1: fill_rate is 0 MiB/s: it must be from 1 to {2**48}"),
        ({"fill_rate": 2**48 + 1}, f"file:1: fill_rate is {2**48 + 1} MiB/s: it must be from 1 to {2**48}"),
        ({"fill_rate": 2**9999}, f"file:1: fill_rate is a huge number MiB/s: it must be from 1 to {2**48}"),
        ({"update_space": 2**49}, f"file:1: update_space is {2**49} kB: it must be from 0 to {2**48}"),
        ({"update_space": -1}, f"file:1: update_space is -1 kB: it must be from 0 to {2**48}"),
        ({"update_period": "250"}, 'file:1: update_period is "250": it must be a whole number of ms'),
        ({"update_period": 2.5}, "file:1: update_period is 2.5: it must be a whole number of ms"),
        ({"update_period": math.nan}, "file:1: update_period is nan: it must be a whole number of ms"),
        ({"update_period": True}, "file:1: update_period is true: it must be a whole number of ms"),
        ({"update_period": {"ms": 1}}, "file:1: update_period is a table: it must be a whole number of ms"),
        ({"pcp_is_free": 1}, "file:1: pcp_is_free is 1: it must be true or false"),
        ({"pcp_is_free": "no"}, 'file:1: pcp_is_free is "no": it must be true or false'),
        ({"name": 5}, "file:1: name is 5: it must be a string in quotes"),
        ({"name": ["a", 2]}, 'file:1: name is ["a", 2]: it must be a string in quotes'),
        ({"figures": (1,)}, "file:1: figures is [1]: it must be a list of strings"),
        ({"log_level": "loud"}, 'file:1: log_level is "loud": it must be one of debug, info, warning, error'),
        ({"transport": ""}, 'file:1: transport is "": it must be one of auto, cuse, fuse'),
        (
            {"socket": "/" + "\u00e9" * 54},
            "file:1: socket: it is too long: 109 bytes, and a socket can have 107",
        ),
        (
            {"path": "a\0"},
            'file:1: path is "a\\U00000000": it must not contain a NUL character',
        ),
        (
            {"update_space": 2**49, "name": "a", "fill_rate": 0},
            (
                f"file:1: update_space is {2**49} kB: it must be from 0 to {2**48}\n"
                f"file:3: fill_rate is 0 MiB/s: it must be from 1 to {2**48}"
            ),
        ),
    ],
)
def test_wrong(values: dict[str, object], message: str) -> None:
    """For each mistake the error has the place, the setting, its value and what it may be."""
    with pytest.raises(ConfigError) as caught:
        configure(_given(values))
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["", "a/b", "..", "-x", "a" * 65, "\u00e9", "a\n", "../x", "a b"])
def test_wrong_names(name: str) -> None:
    """The kernel accepts nearly all of them, and makes directories, or no node."""
    with pytest.raises(ConfigError, match=r"name is .*: it must contain only letters"):
        configure({"name": Given(name, COMMAND_LINE)})


@pytest.mark.parametrize("mode", ["", "rw", "888", "7777", "66", "0o66"])
def test_wrong_modes(mode: str) -> None:
    """Three octal digits, or four with a 0 first."""
    with pytest.raises(ConfigError, match="three octal digits, such as 660"):
        configure({"socket_mode": Given(mode, COMMAND_LINE)})


def test_a_long_value_is_cut() -> None:
    with pytest.raises(ConfigError) as caught:
        configure(_given({"name": "x" * 10_000}))
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (250, "250"),
        ('a"b\\', r'"a\"b\\"'),
        ("\n\u20ac", '"\\U0000000a\u20ac"'),
        (("swap", "free"), '["swap", "free"]'),
    ],
)
def test_shown_as_toml(value: Any, text: str) -> None:
    assert show(value) == text
