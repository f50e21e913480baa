# SPDX-License-Identifier: MIT
"""The suites that need a kernel with CUSE; each of their tests is a subtest here."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from guest.kernel import GuestUnavailable, kernel
from guest.suite import report, run_pytest
from guest.vm import REPOSITORY, GuestResult
from support.libsystemd import LibsystemdUnavailable, libsystemd
from support.require import unavailable

# Each guest keeps one processor of this machine busy: two guests take half the time.
GUESTS = 2
PARTS = 4
"""Of all tests: with more parts than guests both processors stay busy, and a boot takes few seconds."""
ENVIRONMENT = {"MEMNOTIFY_TEST_TRANSPORT": "cuse"}
NEWEST = "trixie"
"""The Debian whose kernel runs every test here. This machine's runs the system tests, and OF_THE_KERNEL."""
POSTED = ("tests/clients/test_absent.py", "tests/clients/test_mn_test.py")
"""The files that run the posted program."""
OF_THE_KERNEL = (
    "tests/guest/inside/test_kernel.py",
    "tests/guest/inside/test_cuse.py",
    "tests/guest/inside/test_memory.py",
    "tests/clients/test_takeover.py",
)
"""Nodes and their devices, memory, and requests that only Linux 6.9 and later send again after a crash."""


def test_the_posted_program_in_guest(guest: Callable[..., GuestResult], subtests: pytest.Subtests) -> None:
    """What needs the posted mn_test.c passes; apart, since a repository alone skips part of it."""
    report(run_pytest(POSTED, ENVIRONMENT), subtests)


def test_in_guest(guest: Callable[..., GuestResult], subtests: pytest.Subtests) -> None:
    """All other tests pass on Debian 13's kernel, those of OF_THE_KERNEL on this machine's Debian's too."""
    try:
        kernel(NEWEST)
    except GuestUnavailable as missing:
        unavailable(str(missing))
    with suppress(LibsystemdUnavailable):
        libsystemd()  # fill the cache: a guest has no network
    files = [
        name
        for directory in ("tests/clients", "tests/guest/inside")
        for path in sorted((REPOSITORY / directory).glob("test_*.py"))
        if (name := str(path.relative_to(REPOSITORY))) not in POSTED
    ]
    with ThreadPoolExecutor(GUESTS) as at_once:
        runs = [
            at_once.submit(run_pytest, files[number::PARTS], ENVIRONMENT, suite=NEWEST)
            for number in range(PARTS)
        ]
        runs.append(at_once.submit(run_pytest, OF_THE_KERNEL, ENVIRONMENT))
    for run in runs:
        report(run.result(), subtests)
