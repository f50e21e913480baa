# SPDX-License-Identifier: MIT
"""The pytest fixture: ``pytest_plugins = ["memnotify.testing.pytest_plugin"]`` in conftest.py loads it."""

from collections.abc import Iterator

import pytest

from memnotify.testing import SimulatedDevice


@pytest.fixture
def memnotify_device() -> Iterator[SimulatedDevice]:
    """Return a simulated device, served while the test runs."""
    with SimulatedDevice() as device:
        yield device
