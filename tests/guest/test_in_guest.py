# SPDX-License-Identifier: MIT
"""The suites that need a kernel with CUSE; each of their tests is a subtest here."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from guest.suite import report, run_pytest
from guest.vm import REPOSITORY, GuestResult
from support.libsystemd import LibsystemdUnavailable, libsystemd

# Each guest keeps one processor of this machine busy: two guests take half the time.
GUESTS = 2
ENVIRONMENT = {"MEMNOTIFY_TEST_TRANSPORT": "cuse"}


def test_in_guest(guest: Callable[..., GuestResult], subtests: pytest.Subtests) -> None:
    """All tests pass in the guest."""
    with suppress(LibsystemdUnavailable):
        libsystemd()  # fill the cache: a guest has no network
    files = [
        str(path.relative_to(REPOSITORY))
        for directory in ("tests/clients", "tests/guest/inside")
        for path in sorted((REPOSITORY / directory).glob("test_*.py"))
    ]
    with ThreadPoolExecutor(GUESTS) as at_once:
        results = list(
            at_once.map(lambda number: run_pytest(files[number::GUESTS], ENVIRONMENT), range(GUESTS))
        )
    for result in results:
        report(result, subtests)
