# SPDX-License-Identifier: MIT
"""Memnotify installed in a Debian with systemd; each of the tests there is a subtest here."""

from pathlib import Path

import pytest
from guest.root import install
from guest.suite import report, run_pytest
from support.program import build_client


def test_in_system(debian: Path, tmp_path: Path, subtests: pytest.Subtests) -> None:
    """All tests pass there."""
    install(tmp_path)
    client = tmp_path / "usr/local/bin/mn_test"
    client.parent.mkdir(parents=True)
    build_client(client)
    report(run_pytest(["tests/guest/system"], {}, system=[tmp_path, debian], timeout_s=900), subtests)
