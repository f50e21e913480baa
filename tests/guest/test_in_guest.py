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
POSTED = ("tests/clients/test_absent.py", "tests/clients/test_mn_test.py")
"""The files that run the posted program."""


def test_the_posted_program_in_guest(guest: Callable[..., GuestResult], subtests: pytest.Subtests) -> None:
    """What needs the posted mn_test.c passes; apart, since a repository alone skips part of it."""
    report(run_pytest(POSTED, ENVIRONMENT), subtests)


def test_in_guest(guest: Callable[..., GuestResult], subtests: pytest.Subtests) -> None:
    """All other tests pass in the guest."""
    with suppress(LibsystemdUnavailable):
        libsystemd()  # fill the cache: a guest has no network
    files = [
        name
        for directory in ("tests/clients", "tests/guest/inside")
        for path in sorted((REPOSITORY / directory).glob("test_*.py"))
        if (name := str(path.relative_to(REPOSITORY))) not in POSTED
    ]
    with ThreadPoolExecutor(GUESTS) as at_once:
        results = list(
            at_once.map(lambda number: run_pytest(files[number::GUESTS], ENVIRONMENT), range(GUESTS))
        )
    for result in results:
        report(result, subtests)
