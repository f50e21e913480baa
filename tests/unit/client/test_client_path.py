# SPDX-License-Identifier: MIT
"""The device that is opened if no path is given."""

import pytest

from memnotify.cli import make_parser
from memnotify.client import DEFAULT_PATH, DeviceMissingError, Memnotify, default_path

MISSING = "/nonexistent/memnotify"


@pytest.mark.parametrize(("given", "opened"), [(MISSING, MISSING), ("", DEFAULT_PATH), (None, DEFAULT_PATH)])
def test_the_environment_names_the_device(
    monkeypatch: pytest.MonkeyPatch, given: str | None, opened: str
) -> None:
    monkeypatch.delenv("MEMNOTIFY_PATH", raising=False)
    if given is not None:
        monkeypatch.setenv("MEMNOTIFY_PATH", given)
    assert default_path() == opened
    assert make_parser("read").parse_args(["read"]).path == opened


def test_the_library_opens_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMNOTIFY_PATH", MISSING)
    with pytest.raises(DeviceMissingError) as refused:
        Memnotify()
    assert refused.value.filename == MISSING
