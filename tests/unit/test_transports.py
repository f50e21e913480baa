# SPDX-License-Identifier: MIT
"""Names and choices of transports, as far as no kernel is needed."""

import pytest

from memnotify.transports import TransportError
from memnotify.transports.choice import choose
from memnotify.transports.cuse import CuseTransport


@pytest.mark.parametrize("name", ["", "sub/dir", "../up", "a!b", "a b", "x" * 65, "-x", ".hidden", "a\n"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(TransportError, match="is no name for a device"):
        CuseTransport(name)


def test_cuse_has_no_path_but_its_own() -> None:
    with pytest.raises(TransportError, match="leave --path out"):
        choose("cuse", "memnotify", "/run/device")
