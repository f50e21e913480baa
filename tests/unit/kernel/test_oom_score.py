# SPDX-License-Identifier: MIT
"""oom_score_adj of this process, in a file of the test's own."""

from pathlib import Path

import pytest

from memnotify.kernel import syscalls


@pytest.fixture
def score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file."""
    path = tmp_path / "oom_score_adj"
    monkeypatch.setattr(syscalls, "_OOM_SCORE_ADJ", str(path))
    return path


@pytest.mark.parametrize(
    ("now", "then"), [("0", "-900"), ("500", "-900"), ("-900", "-900"), ("-1000", "-1000")]
)
def test_it_is_lowered_and_never_raised(score: Path, now: str, then: str) -> None:
    score.write_text(f"{now}\n")
    assert syscalls.lower_oom_score(-900) == int(then)
    assert score.read_text().strip() == then


def test_a_file_that_cannot_be_used_is_no_error(score: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be missing, masked, or another user's: a process that gave up root has no right to its own."""
    assert syscalls.lower_oom_score(-900) == 0
    score.write_text("")
    assert syscalls.lower_oom_score(-900) == 0
    monkeypatch.setattr(syscalls, "_OOM_SCORE_ADJ", "/proc/self/limits")
    assert syscalls.lower_oom_score(-900) == 0
