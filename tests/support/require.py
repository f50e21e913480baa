# SPDX-License-Identifier: MIT
"""Skip a test that cannot run here, or fail it if every test must run."""

import os
from typing import NoReturn

import pytest

REQUIRE_ALL = "MEMNOTIFY_REQUIRE_ALL"
"""Set to 1 where a test that cannot run is a failure, as in CI."""


MN_TEST_C = "MEMNOTIFY_MN_TEST_C"
"""The path of the posted mn_test.c."""
_COUNTS = ("MEMNOTIFY_KILLS", "MEMNOTIFY_RESTART_CLIENTS", "MEMNOTIFY_COMMIT_ROUNDS")
"""How much tests do: see CONTRIBUTING.md."""


def required() -> dict[str, str]:
    """Return the variables with which a guest's tests skip, fail and count as this machine's do."""
    return {name: os.environ[name] for name in (REQUIRE_ALL, MN_TEST_C, *_COUNTS) if name in os.environ}


def unavailable(reason: str) -> NoReturn:
    """Skip the test, or fail it if MEMNOTIFY_REQUIRE_ALL is 1; ``reason`` says what to install."""
    if os.environ.get(REQUIRE_ALL) == "1":
        pytest.fail(f"{reason} ({REQUIRE_ALL} is set, so nothing may be skipped)")
    pytest.skip(reason)
