# SPDX-License-Identifier: MIT
"""memnotify installed in a Debian that systemd runs, each of the tests there reported here as a subtest."""

import subprocess
from pathlib import Path

import pytest
from guest.root import install
from guest.suite import run_pytest
from support.program import POSTED

OWN = Path(__file__).parents[1] / "clients/client.c"


def test_in_system(debian: Path, tmp_path: Path, subtests: pytest.Subtests) -> None:
    """Everything passes there. A skip is a failure: what a test could want is on board."""
    install(tmp_path)
    client = tmp_path / "usr/local/bin/mn_test"
    client.parent.mkdir(parents=True)
    # Static, as it runs with another C library. -w: the posted source prints a ssize_t with %d.
    source = POSTED if POSTED.exists() else OWN
    subprocess.run(["gcc", "-w", "-O2", "-static", "-o", str(client), str(source)], check=True)
    result = run_pytest(
        ["tests/guest/system"], {"MEMNOTIFY_REQUIRE_ALL": "1"}, system=[tmp_path, debian], timeout_s=600
    )
    assert result.cases, result.output
    for case in result.cases:
        with subtests.test(case.name):
            for name, value in case.recorded.items():
                print(f"{name}: {value}")  # noqa: T201 - pytest -rA shows it
            if case.outcome != "passed":
                pytest.fail(f"{case.outcome} in the guest: {case.message}", pytrace=False)
    assert result.status == 0, result.output
