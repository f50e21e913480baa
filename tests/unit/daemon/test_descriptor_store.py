# SPDX-License-Identifier: MIT
"""Whether the store of descriptors outlives the process, as systemctl says."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from memnotify.daemon import systemd
from memnotify.daemon.systemd import DescriptorStore

UNIT = "memnotify.service"


Outlives = Callable[[str], bool]


@pytest.fixture
def outlives_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Outlives:
    """Return what asks a store, where systemctl is this shell script."""
    notifier: Any = SimpleNamespace(listens=True)
    store = DescriptorStore(notifier, {"MEMNOTIFY_UNIT": UNIT})
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def ask(script: str) -> bool:
        (tmp_path / "systemctl").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "systemctl").chmod(0o755)
        return store.outlives_process()

    return ask


@pytest.mark.parametrize(("job", "outlives"), [("stop", False), ("restart", True), ("start", True)])
def test_a_job(outlives_process: Outlives, job: str, *, outlives: bool) -> None:
    jobs = f"echo 7 other.service stop waiting; echo 8 {UNIT} {job} running"
    assert outlives_process(jobs) is outlives


def children() -> set[str]:
    """Return the child processes of this thread that were not waited for."""
    return set(Path("/proc/thread-self/children").read_text().split())


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("exec sleep 60", "does not answer"),
        ("exec >&-; exec sleep 60", "does not end"),
        ("exit 3", "ended with 3"),
    ],
)
def test_it_fails(
    outlives_process: Outlives,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    script: str,
    why: str,
) -> None:
    """No client is lost then; the limit of time holds also after it has closed its output."""
    if "sleep" in script:
        monkeypatch.setattr(systemd, "_SYSTEMCTL_S", 0.3)
    # Other tests may have left some, which are not this one's to wait for.
    others = children()
    with caplog.at_level(logging.WARNING):
        assert outlives_process(script)
    assert why in caplog.text
    assert children() <= others
