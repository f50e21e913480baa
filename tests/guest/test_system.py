# SPDX-License-Identifier: MIT
"""memnotify installed in a Debian that systemd runs, each of the tests there reported here as a subtest."""

from pathlib import Path

import pytest
from guest.root import install
from guest.suite import run_pytest
from support.program import build_client


def test_in_system(debian: Path, tmp_path: Path, subtests: pytest.Subtests) -> None:
    """Everything passes there. A skip is a failure: what a test could want is on board."""
    install(tmp_path)
    client = tmp_path / "usr/local/bin/mn_test"
    client.parent.mkdir(parents=True)
    build_client(client)
    result = run_pytest(
        ["tests/guest/system"], {"MEMNOTIFY_REQUIRE_ALL": "1"}, system=[tmp_path, debian], timeout_s=600
    )
    assert result.cases, result.output
    for case in result.cases:
        for name, value in case.recorded.items():
            print(f"{name}: {value}")  # noqa: T201 - pytest -rA shows it, but not from within a subtest
        with subtests.test(case.name):
            if case.outcome != "passed":
                pytest.fail(f"{case.outcome} in the guest: {case.message}", pytrace=False)
    assert result.status == 0, result.output
